# SPDX-License-Identifier: GPL-2.0-only
"""A busy Python program: threads, asyncio, subprocesses and a database in the middle of a transaction."""

from __future__ import annotations

import sys

from tests.host.conftest import Host, alive, reap, wait_until
from tests.host.programs import Cycle, cycle, said, start, wait_for  # noqa: F401 - a fixture

BUSY = r"""
import asyncio, hashlib, os, queue, random, sqlite3, subprocess, sys, threading, time
assert sys.flags.isolated
work, results, wrong = queue.Queue(8), queue.Queue(), []
over = threading.Event()

def producer():
    number = 0
    while not over.is_set():
        work.put(number)
        number += 1
    for _ in workers: work.put(None)

def consumer(name):
    lock_held = 0
    while (number := work.get()) is not None:
        digest = hashlib.sha256(str(number).encode() * 50).hexdigest()
        with lock:
            lock_held += 1
            results.put((number, digest))

def database():
    # Every transaction moves money; the sum stays. One transaction is open whenever a dump comes.
    base = sqlite3.connect("bank.db", isolation_level=None)
    base.execute("pragma journal_mode=wal")
    base.execute("create table account (id integer primary key, money integer)")
    base.executemany("insert into account values (?, ?)", [(n, 100) for n in range(50)])
    chance, rounds = random.Random(5), 0
    while not over.is_set():
        base.execute("begin immediate")
        one, two = chance.sample(range(50), 2)
        base.execute("update account set money = money - 1 where id = ?", (one,))
        time.sleep(0.005)
        base.execute("update account set money = money + 1 where id = ?", (two,))
        base.execute("commit")
        rounds += 1
        if base.execute("select sum(money) from account").fetchone() != (5000,): wrong.append("money")
    counts["transactions"] = rounds
    if base.execute("pragma integrity_check").fetchone() != ("ok",): wrong.append("the database")

async def pinger():
    # Through a pair of pipes and a child that turns lines round.
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-ISuc", "import sys\nfor line in sys.stdin: print(line.strip()[::-1])",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    n = 0
    while not over.is_set():
        n += 1
        child.stdin.write(f"message {n}\n".encode())
        answer = await child.stdout.readline()
        if answer.decode().strip()[::-1] != f"message {n}": wrong.append(f"the child's answer {answer}")
        await asyncio.sleep(0.003)
    child.stdin.close()
    if await child.wait() != 0: wrong.append("the child's status")
    counts["messages"] = n

async def chat():
    # A server and its client on a UNIX socket, both here.
    async def serve(reader, writer):
        while line := await reader.readline():
            writer.write(line.upper())
            await writer.drain()
        writer.close()
    server = await asyncio.start_unix_server(serve, "chat.sock")
    reader, writer = await asyncio.open_unix_connection("chat.sock")
    n = 0
    while not over.is_set():
        n += 1
        writer.write(f"line {n}\n".encode())
        if await reader.readline() != f"LINE {n}\n".encode(): wrong.append("the server's answer")
        if n % 50 == 0:
            again, once = await asyncio.open_unix_connection("chat.sock")
            once.write(b"x\n")
            if await again.readline() != b"X\n": wrong.append("a second client's answer")
            once.close()
        await asyncio.sleep(0.002)
    counts["lines"] = n
    writer.close()
    server.close()

async def tick():
    n = 0
    while not over.is_set():
        await asyncio.sleep(0.01)
        n += 1
        if n == 30: print("ready", flush=True)
        if n % 20 == 0: print("tick", n, flush=True)
        if os.path.exists("go"): over.set()
    counts["ticks"] = n

async def main():
    await asyncio.gather(pinger(), chat(), tick())

lock, counts = threading.Lock(), {}
workers = [threading.Thread(target=consumer, args=(n,)) for n in range(3)]
threads = [threading.Thread(target=producer), threading.Thread(target=database), *workers]
for thread in threads: thread.start()
asyncio.run(main())
for thread in threads: thread.join()
done = {}
while not results.empty():
    number, digest = results.get()
    if number in done: wrong.append(f"number {number} was done twice")
    done[number] = digest
if sorted(done) != list(range(len(done))): wrong.append("a number is missing")
sample = random.Random(1).sample(sorted(done), min(len(done), 500))
if any(done[n] != hashlib.sha256(str(n).encode() * 50).hexdigest() for n in sample): wrong.append("a digest")
print("ok" if not wrong else f"wrong: {wrong[:5]}", all(counts.values()), flush=True)
"""


def test_a_busy_program(host: Host, cycle: Cycle) -> None:  # noqa: F811
    (host.folder / "busy.py").write_text(BUSY)
    pid = start(host, sys.executable, "-I", "busy.py")
    wait_for(host, "ready")
    for _ in range(3):
        cycle(pid, "--file-locks")
        ticks = said(host).count("tick")
        wait_until(lambda before=ticks: said(host).count("tick") > before + 1, "it goes on")  # type: ignore[misc]
    (host.folder / "go").touch()
    wait_until(lambda: not alive(pid), f"its end: {said(host)[-500:]}", 60)
    reap(pid)
    assert said(host).splitlines()[-1] == "ok True"
