# SPDX-License-Identifier: GPL-2.0-only
"""What the tests of core files share: the restart command, gcore, and cores that the kernel writes."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pycriu.crit.check import findings
from pycriu.crit.source import open_source
from tests import gdb
from tests.host.conftest import DEADLINE, Host, Subject, alive, reap, wait_until
from tests.host.programs import need

PATTERN = Path("/proc/sys/kernel/core_pattern")
RESTART = "import sys; from pycriu.restart_command import main; sys.exit(main())"


def restart(host: Host, *words: str, typed: str = "", status: int = 0) -> str:
    """What the command says, on either stream, with what the process prints."""
    path = host.folder / "restarted"  # no pipe: a process that goes on would keep it open
    with open(path, "w") as out:
        done = subprocess.run(
            [sys.executable, "-c", RESTART, *words], cwd=host.folder, input=typed, stdout=out, stderr=out, text=True,
            timeout=DEADLINE, check=False,
        )  # fmt: skip
    said = path.read_text()
    assert done.returncode == status, said
    assert "Traceback" not in said, said
    return said


def gcore(host: Host, pid: int, program: str, name: str = "core.gdb") -> Path:
    """gdb's core of a running process, which goes on."""
    path = host.folder / name
    try:
        said = gdb.run(program, f"gcore {path}", "detach", core=Path(str(pid)))
    except gdb.NoGdbError as error:
        pytest.skip(f"no gdb: {error}")
    assert path.exists(), said
    return path


def end(pid: int) -> None:
    """Kill and reap it."""
    os.kill(pid, signal.SIGKILL)
    reap(pid)
    assert not alive(pid)


def imported(host: Host, core: Path, *words: str) -> str:
    """`pycriu core import`, which must succeed with images without a fault; what it says."""
    done = host.run("core", "import", str(core), "-D", str(host.images), *words)
    assert done.ok, done
    with open_source(str(host.images)) as images:
        assert [str(one) for one in findings(images)] == []
    return done.log


@contextmanager
def kernel_cores(pattern: str = "core.%p") -> Iterator[None]:
    """The kernel writes cores by a pattern, meanwhile. The test must be alone: see OF_THE_MACHINE."""
    limit = Path("/proc/sys/kernel/core_pipe_limit")
    before = PATTERN.read_text(), limit.read_text()
    try:
        PATTERN.write_text(pattern)
    except OSError as error:
        pytest.skip(f"core_pattern cannot be changed here: {error.strerror}")
    try:
        yield
    finally:
        PATTERN.write_text(before[0])
        limit.write_text(before[1])


def may_dump_core() -> None:
    """In a child, before its program: cores of any size, and no signal ignored."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)


@contextmanager
def handler(host: Host, *words: str, pattern: str = "core.%p") -> Iterator[Path]:
    """The handler is installed, for the folder it gives; at the end there is the core_pattern of before."""
    cores = host.folder / "cores"
    cores.mkdir(mode=0o700, exist_ok=True)
    with kernel_cores(f"{pattern}\n"):
        done = host.run("core", "handler", "--install", str(cores), *words)
        if not done.ok and "can be written by others" in done.log:
            pytest.skip("the folder of the tests is not safe enough for a handler: --basetemp names another")
        if not done.ok and "from outside" in done.log:
            pytest.skip("this is a chroot, in which the kernel looks for no handler")
        assert done.ok, done
        yield cores
        before = PATTERN.read_text()
        done = host.run("core", "handler", "--uninstall")
        assert done.ok, done
        assert PATTERN.read_text() == f"{pattern}\n" != before
        assert not (cores / "pycriu-handler").exists()


def quit_(subject: Subject) -> int:
    """Ctrl-\\ ends it, with a core; its wait status."""
    os.kill(subject.pid, signal.SIGQUIT)
    status = reap(subject.pid) or 0
    assert os.WTERMSIG(status) == signal.SIGQUIT
    assert os.WCOREDUMP(status), "no core was written"
    return status


def redis(host: Host, **options: object) -> tuple[Subject, Callable[..., bytes]]:
    """A redis-server that answers, and what asks it."""
    server = need("redis-server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = f"echo ready; exec {server} --port {port} --save '' --appendonly no"
    subject = host.start("sh", "-c", command, **options)

    def ask(*words: str) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            data = [f"${len(word)}\r\n{word}\r\n" for word in words]
            connection.sendall(f"*{len(words)}\r\n{''.join(data)}".encode())
            return connection.recv(100)

    def serves() -> bool:
        try:
            return ask("PING") == b"+PONG\r\n"
        except OSError:
            return False

    wait_until(serves, "redis answers")
    return subject, ask
