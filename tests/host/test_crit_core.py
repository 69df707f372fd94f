# SPDX-License-Identifier: GPL-2.0-only
"""Core files of real checkpoints, before the judge: gdb tells every frame of every thread, and every variable."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import gdb
from tests.host.conftest import Host
from tests.host.test_peer import criu, run  # noqa: F401 - a fixture


def core_of(host: Host, pid: int) -> Path:
    """The core file out of the images."""
    words = [sys.executable, "-m", "pycriu.crit", "core", str(host.images), "-o", str(host.folder), "-p", str(pid)]
    subprocess.run(words, check=True, capture_output=True)
    return host.folder / f"core.{pid}"


def asked(core: Path, program: str, *commands: str) -> str:
    """gdb's answer; a machine without gdb skips by name."""
    try:
        return gdb.ask(core, program, *commands)
    except gdb.NoGdbError as error:
        pytest.skip(f"no gdb: {error}")


def frames(said: str) -> dict[int, list[str]]:
    """Thread → the functions of its frames, innermost first."""
    found: dict[int, list[str]] = {}
    for line in said.splitlines():
        if head := re.match(r"Thread (\d+) \(", line):
            number = int(head[1])
            found[number] = []
        elif found and (frame := re.match(r"#\d+ +(?:0x[0-9a-f]+ in )?(<?[\w ]+>?)", line)):
            found[number].append(frame[1].strip())
    return found


def test_every_thread_has_its_whole_backtrace(host: Host, compiled: Callable[..., str]) -> None:
    program = compiled("deep", "-g", "-O0")
    subject = host.start(program)
    dumped = host.dump(subject, "--leave-running")
    assert dumped.ok, dumped
    said = asked(
        core_of(host, subject.pid), program, "thread apply all bt", "p kept", "info auxv", "info proc mappings"
    )
    threads = frames(said)
    assert len(threads) == 3, said
    deep = ["bottom", *["deeper"] * 6]
    assert threads[1][threads[1].index("bottom") :] == [*deep, "main"], said
    tails = [tuple(one[one.index("bottom") :]) for number, one in threads.items() if number != 1]
    plain, handled = sorted(tails, key=lambda one: "handler" in one)
    assert plain[:8] == (*deep, "worker"), said
    assert handled[:3] == ("bottom", "handler", "<signal handler called>"), said
    assert "worker" in handled
    assert "warning" not in said
    assert "depth=5" in said
    assert "$1 = 1.5" in said
    assert re.search(r"AT_PAGESZ .* 4096", said)
    assert program in said


def by_thread(said: str) -> dict[int, list[str]]:
    """Thread id → the lines with values that gdb says of it."""
    parts = re.split(r"Thread \d+ \(.*?LWP (\d+)\).*?\):", said)
    values = re.compile(r"(?:\w+ +0x|\$\d+ = |0x[0-9a-f]+:?\s).*")
    return {int(tid): values.findall(text) for tid, text in zip(parts[1::2], parts[2::2], strict=True)}


def test_a_core_is_what_a_debugger_sees_in_the_process(host: Host, compiled: Callable[..., str]) -> None:
    """Registers, vectors and the stack of every thread are those of the process itself, which goes on."""
    registers = "rsp rbx rbp r12 r13 fs_base" if os.uname().machine == "x86_64" else "sp x19 x20 x28 x29"
    vector = "$xmm0" if os.uname().machine == "x86_64" else "$v0"
    words = [f"thread apply all {what}" for what in (f"info registers {registers}", f"p {vector}", "x/64xg $sp")]
    program = compiled("deep", "-g", "-O0")
    subject = host.start(program)
    dumped = host.dump(subject, "--leave-running")
    assert dumped.ok, dumped
    core = core_of(host, subject.pid)
    for word in words:
        there = by_thread(asked(core, program, word))
        here = by_thread(asked(Path(str(subject.pid)), program, word))
        assert len(there) == 3
        assert all(there.values()), word
        assert there == here


def test_python_with_threads(host: Host) -> None:
    subject = host.python(
        """
import threading
def wait_here(number):
    time.sleep(1000)
threads = [threading.Thread(target=wait_here, args=(n,), daemon=True) for n in range(3)]
for thread in threads:
    thread.start()
marked = b"marked " + b"by the test"
pause_for_dump()
""",
    )
    host.round_trip(subject)
    said = asked(core_of(host, subject.pid), sys.executable, "thread apply all bt", "info threads")
    threads = frames(said)
    assert len(threads) == 4, said
    for one in threads.values():
        assert any("EvalFrame" in name or name == "??" for name in one), said
    assert "Cannot access memory" not in said
    assert f"LWP {subject.pid}" in said


def test_cores_of_what_criu_has_dumped(
    host: Host,
    compiled: Callable[..., str],
    criu: tuple[str, ...],  # noqa: F811
) -> None:
    program = compiled("deep", "-g", "-O0")
    subject = host.start(program)
    dumped = run(criu, host, "dump", "-t", str(subject.pid))
    assert dumped.ok, dumped
    said = asked(core_of(host, subject.pid), program, "thread apply all bt", "p kept")
    threads = frames(said)
    assert len(threads) == 3, said
    assert threads[1][threads[1].index("bottom") :] == ["bottom", *["deeper"] * 6, "main"], said
    assert sum("<signal handler called>" in one for one in threads.values()) == 1, said
    assert "$1 = 1.5" in said


def test_memory_that_lies_in_several_sets_of_images(host: Host, compiled: Callable[..., str]) -> None:
    """A pre-dump and what has changed since: the core file has all."""
    program = compiled("deep", "-g", "-O0")
    subject = host.start(program)
    first, second = host.folder / "first", host.folder / "second"
    for folder in (first, second):
        folder.mkdir()
    before = host.run("pre-dump", "-t", str(subject.pid), "-D", str(first))
    assert before.ok, before
    dumped = host.dump(subject, "--prev-images-dir", "../first", images=second)
    assert dumped.ok, dumped
    assert (second / "pages-1.img").stat().st_size < (first / "pages-1.img").stat().st_size, "little has changed"
    host.images.rmdir()
    host.images.symlink_to(second)
    said = asked(core_of(host, subject.pid), program, "thread apply all bt", "p kept", "p arrived")
    threads = frames(said)
    assert len(threads) == 3, said
    assert threads[1][threads[1].index("bottom") :] == ["bottom", *["deeper"] * 6, "main"], said
    assert "$1 = 1.5" in said
    assert "Cannot access memory" not in said
