# SPDX-License-Identifier: GPL-2.0-only
"""Programs with machines of their own: node.js and the Java virtual machine, with all that they keep inside."""

from __future__ import annotations

import subprocess

from tests.host.conftest import Host, alive, reap, wait_until
from tests.host.programs import Cycle, cycle, need, said, start, wait_for  # noqa: F401 - a fixture

NODE = r"""
const {Worker, isMainThread, parentPort} = require("worker_threads");
const fs = require("fs"), crypto = require("crypto");
if (!isMainThread) {
  // A worker that counts for ever: what it holds is checked against what it is asked for.
  let held = new Map(), next = 0;
  const turn = () => {
    for (let i = 0; i < 1000; i++) { held.set(next, next * 7); next++; if (next > 5000) held.delete(next - 5000); }
    for (const [k, v] of held) if (v !== k * 7) throw new Error("the worker lost a number");
    setImmediate(turn);
  };
  turn();
  parentPort.on("message", (n) => parentPort.postMessage({n, square: n * n, next}));
} else {
  const worker = new Worker(__filename), begun = Date.now();
  let ticks = 0, answers = 0, digests = 0, pending = new Set();
  worker.on("message", (m) => {
    if (m.square !== m.n * m.n) throw new Error("wrong");
    answers++; pending.delete(m.n);
  });
  worker.on("error", (e) => { console.log("error", e.message); process.exit(1); });
  const hash = () => crypto.pbkdf2("a", "b", 2000, 32, "sha256", (e, key) => {
    if (key.toString("hex").slice(0, 8) !== first) { console.log("error: another digest"); process.exit(1); }
    digests++; setTimeout(hash, 5);
  });
  const first = crypto.pbkdf2Sync("a", "b", 2000, 32, "sha256").toString("hex").slice(0, 8);
  hash(); hash();
  // A child that gives back what it gets, over the sockets that node makes for that.
  const child = require("child_process").spawn("cat");
  let echoed = "", sent = 0;
  child.stdout.on("data", (text) => { echoed += text; });
  child.on("exit", (code) => { console.log("error: the child has ended", code); process.exit(1); });
  setInterval(() => {
    child.stdin.write(`line ${++sent}\n`);
    ticks++; pending.add(ticks); worker.postMessage(ticks);
    if (ticks === 10) console.log("ready");
    if (ticks % 10 === 0) console.log("tick", ticks);
    fs.promises.access("go").then(() => {
      setTimeout(() => {
        if (pending.size > 2) console.log("error: unanswered", pending.size);
        const lines = echoed.split("\n").slice(0, -1);
        if (lines.some((l, i) => l !== `line ${i + 1}`)) console.log("error: the child's lines");
        console.log("ok", lines.length >= sent - 2, ticks >= 10, answers >= ticks - 2, digests > 10);
        process.exit(0);
      }, 200);
    }, () => {});
  }, 20);
}
"""

JAVA = r"""
import java.nio.file.*;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;
public class Busy {
    static final ConcurrentHashMap<Integer, String> map = new ConcurrentHashMap<>();
    static long fibonacci(int n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }
    public static void main(String[] words) throws Exception {
        AtomicLong done = new AtomicLong();
        AtomicReference<String> wrong = new AtomicReference<>();
        ExecutorService pool = Executors.newFixedThreadPool(4);
        for (int t = 0; t < 4; t++) pool.submit(() -> {
            Random random = new Random(7);
            while (!Thread.interrupted()) {
                int key = random.nextInt(1000);
                String old = map.put(key, "value " + key);
                if (old != null && !old.equals("value " + key)) wrong.set(old);
                if (fibonacci(15) != 610) wrong.set("another number");
                byte[] garbage = new byte[1 + random.nextInt(20000)];
                garbage[garbage.length / 2] = 1;
                done.incrementAndGet();
            }
        });
        ScheduledExecutorService clock = Executors.newScheduledThreadPool(1);
        AtomicLong ticks = new AtomicLong();
        clock.scheduleAtFixedRate(ticks::incrementAndGet, 10, 10, TimeUnit.MILLISECONDS);
        Thread.sleep(1000);
        System.out.println("ready");
        while (!Files.exists(Path.of("go"))) Thread.sleep(20);
        long before = done.get(), seen = ticks.get();
        Thread.sleep(300);
        System.gc();
        System.out.println("ok " + (wrong.get() == null) + " " + (done.get() > before) + " " + (ticks.get() > seen));
        System.exit(0);
    }
}
"""


def finish(host: Host, pid: int) -> str:
    """Let it judge; its last line."""
    (host.folder / "go").touch()
    wait_until(lambda: not alive(pid), f"its end: {said(host)[-500:]}", 60)
    reap(pid)
    return said(host).splitlines()[-1]


def test_node(host: Host, cycle: Cycle) -> None:  # noqa: F811
    """Timers, a worker thread, the thread pool, files, a child on sockets."""
    node = need("node")
    (host.folder / "busy.js").write_text(NODE)
    pid = start(host, node, "busy.js")
    wait_for(host, "ready")
    for _ in range(2):
        cycle(pid)
        ticks = said(host).count("tick")
        wait_until(lambda before=ticks: said(host).count("tick") > before, "it goes on")  # type: ignore[misc]
    assert finish(host, pid) == "ok true true true true"


def test_java(host: Host, cycle: Cycle) -> None:  # noqa: F811
    """Threads in compiled code, a collector of garbage, a clock."""
    java, javac = need("java"), need("javac")
    (host.folder / "Busy.java").write_text(JAVA)
    subprocess.run([javac, "Busy.java"], cwd=host.folder, check=True)
    pid = start(host, java, "-Xmx256m", "-cp", str(host.folder), "Busy")
    wait_for(host, "ready")
    for _ in range(2):
        cycle(pid)
    assert finish(host, pid) == "ok true true true"
