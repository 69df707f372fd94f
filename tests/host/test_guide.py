# SPDX-License-Identifier: GPL-2.0-only
"""docs/guide.md, step by step: what a newcomer types, and each failure that the table there names."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pycriu.kernel import syscalls
from tests.host.conftest import Host, alive, reap, wait_until
from tests.host.programs import Shell
from tests.host.test_doctor import FORBID

GUIDE = (Path(__file__).parents[2] / "docs/guide.md").read_text()
PYCRIU = f"{sys.executable} -m pycriu"
HOLD = "pause_for_dump()\nsay('ok')"


@pytest.fixture
def terminals(host: Host) -> Iterator[tuple[Shell, Shell]]:
    """Two, in a folder with the program of the guide."""
    (program,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    (host.folder / "debug.py").write_text(program)
    shells = Shell(host.folder), Shell(host.folder)
    yield shells
    for shell in shells:
        shell.close()


def command(action: str) -> str:
    """The line of the guide that begins so, with nothing changed but the PID and the directory."""
    (line,) = [line for line in GUIDE.splitlines() if line.startswith(f"# pycriu {action} ") and "--shell-job" in line]
    return line.removeprefix("# pycriu ").replace("/tmp/checkpoint", "checkpoint")


def ready(shell: Shell) -> int:
    shell.type(f"{sys.executable} debug.py; echo ended $?")
    return int(shell.expect(r"Process (\d+) ready for checkpointing\r\n")[1])


def dumped(host: Host, one: Shell, other: Shell) -> int:
    """Its steps up to the end of the process."""
    pid = ready(one)
    other.type(f"{PYCRIU} {command('dump').replace('123456', str(pid))}; echo dumped $?")
    other.expect(r"dumped 0\r\n")
    one.expect(r"ended 137\r\n")
    assert not alive(pid)
    assert stat.S_IMODE((host.folder / "checkpoint").stat().st_mode) == 0o700
    return pid


def test_the_first_process(host: Host, terminals: tuple[Shell, Shell]) -> None:
    one, other = terminals
    pid = dumped(host, one, other)
    other.type(f"{PYCRIU} {command('restore')}; echo restored $?")
    wait_until(lambda: alive(pid) and os.readlink(f"/proc/{pid}/exe") == os.path.realpath(sys.executable), "it is back")
    wait_until(lambda: "pause" in Path(f"/proc/{pid}/wchan").read_text() or in_pause(pid), "it waits for signals again")
    os.kill(pid, signal.SIGINT)
    other.expect(r"KeyboardInterrupt")
    other.expect(r"restored 0\r\n")


def in_pause(pid: int) -> bool:
    """By the number of the call that it is in."""
    call = Path(f"/proc/{pid}/syscall").read_text().split()[0]
    return call in {str(number) for number in syscalls.TABLE.get("pause", (34, None)) if number is not None}


def test_the_pid_is_taken(host: Host) -> None:
    """The process runs on, as after --leave-running: who it is, and three ways out, each of which works."""
    subject = host.python(HOLD)
    assert host.dump(subject, "-R").ok
    refused = host.restore()
    assert not refused.ok
    assert f"PID {subject.pid} is in use by {subject.status('Name')}" in refused.errors()
    for way in (f"kill {subject.pid}", "--wait-pid", "--new-pid"):
        assert way in refused.errors()
    assert alive(subject.pid)
    assert host.restore("--new-pid").ok
    os.kill(subject.pid, signal.SIGKILL)
    reap(subject.pid)
    assert host.restore("--wait-pid", "20").ok
    assert subject.go() == ["ok"]


def test_splice_is_not_needed(host: Host) -> None:
    """Where splice(2) and its like are forbidden, a dump does the same."""
    subject = host.python(HOLD)
    for name, numbers in (("splice", (275, 76)), ("vmsplice", (278, 75)), ("tee", (276, 77))):
        number = numbers[0] if os.uname().machine == "x86_64" else numbers[1]
        words = host.command("dump", "-R", "-t", str(subject.pid), "-D", str(host.folder / name), "--track-mem")
        done = subprocess.run(
            [sys.executable, "-c", FORBID, str(number), *words], cwd=host.folder, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    os.kill(subject.pid, signal.SIGKILL)
    reap(subject.pid)
    assert host.restore(images=host.folder / "splice").ok
    assert subject.go() == ["ok"]


def test_nothing_is_said_of_cuda(host: Host) -> None:
    if os.path.exists("/proc/driver/nvidia"):
        pytest.skip("this machine has a GPU")
    subject = host.python(HOLD)
    dumped = host.dump(subject)
    restored = host.restore()
    assert dumped.ok
    assert restored.ok
    assert "cuda" not in (dumped.log + restored.log).lower()
    assert subject.go() == ["ok"]


def test_no_shell_job(host: Host, terminals: tuple[Shell, Shell]) -> None:
    """Forgotten: it is named, and nothing has happened."""
    one, other = terminals
    pid = ready(one)
    other.type(f"{PYCRIU} dump -t {pid} -D checkpoint; echo dumped $?")
    other.expect(r"--shell-job")
    other.expect(r"dumped 1\r\n")
    assert alive(pid)
    assert not (host.folder / "checkpoint").exists()
    os.kill(pid, signal.SIGINT)
    one.expect(r"KeyboardInterrupt")


def test_what_the_table_says_is_what_pycriu_says() -> None:
    """Each message of the table stands in the sources, up to what differs from case to case."""
    sources = "".join(path.read_text() for path in (Path(__file__).parents[2] / "pycriu").rglob("*.py"))
    sources = re.sub(r'"\s*\n\s*f?"', "", sources)
    said = [row.split("|")[1].strip().strip("`") for row in GUIDE.splitlines() if row.startswith("| `")]
    assert len(said) == 7
    for message in said:
        for part in re.split(r"…|123456|python3", message):
            assert part.strip() in sources, message
