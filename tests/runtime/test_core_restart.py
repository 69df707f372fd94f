# SPDX-License-Identifier: GPL-2.0-only
"""Core files in the guest: the kernel's, with the preload library; with the handler; and of a process that goes on."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from layer.target import bootfile, guest
from layer.target.shell import Shell

TOP = Path(__file__).resolve().parents[2]
FOLDER = "/root/cores"
ALL = "".join(f"{number}\n" for number in range(1, 31))


START = """
import os, signal
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
os.execv("../numbers", ["numbers", "numbers", "30", "5", "20"])
"""


@pytest.fixture(scope="module")
def shell(
    boot: bootfile.Boot, target: guest.Guest, tmp_path_factory: pytest.TempPathFactory,
    unless_possible: Callable[[str], None],
) -> Shell:  # fmt: skip
    """A guest with the program of the first example; it has the preload library by its recipe."""
    folder = tmp_path_factory.mktemp("built")
    run = target.shell
    run.run(f"mkdir -p -m 700 {FOLDER}")
    for name, source in (
        ("numbers", TOP / "tests/host/numbers.c"),
        ("crash", TOP / "tests/host/crash.c"),
    ):
        compiler = shutil.which(f"{boot.machine.triplet}-gcc")
        if compiler is None:
            unless_possible(f"{boot.machine.triplet}-gcc is missing")
        subprocess.run([str(compiler), "-O1", "-o", str(folder / name), str(source)], check=True)
        run.put(f"{FOLDER}/{name}", (folder / name).read_bytes(), mode=0o755)
    run.put(f"{FOLDER}/start", START.encode())
    return run


@pytest.fixture
def place(shell: Shell) -> Iterator[str]:
    """An empty folder in the guest; core_pattern is as before at the end."""
    shell.run(f"rm -rf {FOLDER}/here && mkdir -m 700 {FOLDER}/here && cp /proc/sys/kernel/core_pattern /tmp/pattern")
    yield f"{FOLDER}/here"
    shell.run("cat /tmp/pattern >/proc/sys/kernel/core_pattern")


def started(shell: Shell, place: str, *environment: str) -> int:
    """The numbers, halfway; the PID. What a shell starts in the background ignores SIGQUIT."""
    words = " ".join(environment)
    shell.run(f"cd {place} && (ulimit -c unlimited; {words} setsid python3 -IS ../start </dev/null >log 2>&1 &)")
    shell.run(f"n=0; until grep -q ready {place}/log || [ $n = 300 ]; do sleep 0.1; n=$((n+1)); done; sleep 1")
    return int(shell.out("pidof numbers"))


def gone(shell: Shell, pid: int) -> None:
    shell.run(f"n=0; while [ -e /proc/{pid} ] && [ $n -lt 300 ]; do sleep 0.1; n=$((n+1)); done; [ ! -e /proc/{pid} ]")


def test_numbers_go_on_where_they_were(shell: Shell, place: str) -> None:
    """The first example of the original, with the kernel's core and the list of the preload library."""
    shell.run("echo core.%p >/proc/sys/kernel/core_pattern")
    pid = started(shell, place, "LD_PRELOAD=/usr/lib/libsavefds.so")
    shell.run(f"kill -QUIT {pid}")
    gone(shell, pid)
    assert shell.out(f"cat {place}/numbers") == ""
    assert re.search(r"^3 : .*/numbers : 0 : 0\d+$", shell.out(f"cat {place}/filedescriptors"), re.MULTILINE)
    said = shell.out(f"cd {place} && touch go && restart -f -n -w ../numbers core.{pid}", timeout=120)
    assert "Restarted process finished, exiting with value 0" in said
    assert shell.out(f"cat {place}/numbers").split() == ALL.split()


def test_a_kernel_without_sockets_for_cores_says_so(shell: Shell, place: str) -> None:
    if tuple(int(word) for word in shell.out("uname -r").split(".")[:2]) >= (6, 16):
        pytest.skip("the guest's kernel has them")
    before = shell.out("cat /proc/sys/kernel/core_pattern")
    done = shell.run(f"pycriu core handler --install {place} --socket", check=False)
    assert done.status != 0
    assert "hands no cores to sockets" in done.out
    assert shell.out("cat /proc/sys/kernel/core_pattern") == before


def test_after_sigquit_the_handler_has_it_all(shell: Shell, place: str) -> None:
    shell.run(f"mkdir -m 700 {place}/cores && pycriu core handler --install {place}/cores")
    try:
        pid = started(shell, place)
        shell.run(f"kill -QUIT {pid}")
        gone(shell, pid)
        shell.run(f"n=0; until [ -e {place}/cores/core.{pid} ] || [ $n = 300 ]; do sleep 0.1; n=$((n+1)); done")
    finally:
        shell.run("pycriu core handler --uninstall")
    assert shell.out("cat /proc/sys/kernel/core_pattern") == shell.out("cat /tmp/pattern")
    said = shell.out(f"cd {place} && touch go && pycriu core restore {place}/cores/core.{pid}", timeout=120)
    assert f"process {pid}" in said
    assert "open files" not in said
    assert shell.out(f"cat {place}/numbers").split() == ALL.split()


def test_a_saved_core_is_as_good_as_a_dump(shell: Shell, place: str) -> None:
    pid = started(shell, place)
    shell.run(f"cd {place} && pycriu core save {pid} saved --kill", timeout=120)
    gone(shell, pid)
    said = shell.out(f"cd {place} && touch go && pycriu core restore saved", timeout=120)
    assert "not in the core" not in said
    assert shell.out(f"cat {place}/numbers").split() == ALL.split()


def test_python_with_a_thread_from_the_kernels_core_alone(shell: Shell, place: str) -> None:
    """No side-car, no list: threads are joined, and what it prints comes out here."""
    shell.run("echo core.%p >/proc/sys/kernel/core_pattern")
    shell.put(f"{place}/program.py", (TOP / "tests/host/turns.py").read_bytes())
    shell.run(
        f"cd {place} && (ulimit -c unlimited; setsid python3 -IS program.py </dev/null >log 2>&1 &); "
        f"n=0; until grep -q ready {place}/log || [ $n = 300 ]; do sleep 0.1; n=$((n+1)); done"
    )
    pid = int(shell.out("pidof python3").split()[0])
    shell.run(f"kill -ABRT {pid}")
    gone(shell, pid)
    said = shell.out(f"cd {place} && touch go && pycriu core restore core.{pid}", timeout=120)
    assert "true" in said
    assert "not in the core: where the kernel clears the id" not in said


def test_a_crash_happens_again(shell: Shell, place: str) -> None:
    """Restarted just before the fault, it has the same one."""
    shell.run("echo core.%p >/proc/sys/kernel/core_pattern")
    shell.run(f"cd {place} && (ulimit -c unlimited; ../crash >log 2>&1; true)")
    core = shell.out(f"cd {place} && ls core.*").strip()
    said = shell.out(f"cd {place} && rm -f {core}.side; restart -n -w ../crash {core}", timeout=120)
    assert "Restarted process exited because of uncaught signal (11)" in said
