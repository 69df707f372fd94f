# SPDX-License-Identifier: GPL-2.0-only
"""Cores that the kernel writes: with the preload library, and through the handler. The machine has one core_pattern."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import gdb
from tests.host.conftest import PRELUDE, Host, Subject, alive, reap, state, wait_until
from tests.host.cores import PATTERN, handler, imported, kernel_cores, may_dump_core, quit_, redis, restart

ROOT = Path(__file__).resolve().parents[2]
NUMBERS = [str(number) for number in range(1, 41)]


@pytest.fixture
def library(host: Host) -> str:
    """libsavefds.so, built as its recipe does."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler on this machine: apt-get install gcc")
    path = host.folder / "libsavefds.so"
    source = ROOT / "savefds/savefds.c"
    subprocess.run([compiler, "-Wall", "-Werror", "-O2", "-shared", "-fPIC", "-o", str(path), str(source)], check=True)
    return str(path)


def after_some_numbers(host: Host) -> None:
    """stdio has not written them yet."""
    time.sleep(0.1)
    assert (host.folder / "numbers").read_bytes() == b""
    (host.folder / "go").touch()


def left_a_core(host: Host, program: str, library: str) -> Subject:
    """The first example of the original, which has a core and a list of its descriptors from SIGQUIT."""
    with kernel_cores():
        subject = host.start(
            program, "numbers", "40", "5", "20", env=os.environ | {"LD_PRELOAD": library}, preexec_fn=may_dump_core
        )
        after_some_numbers(host)
        quit_(subject)
    return subject


@pytest.mark.parametrize("columns", [3, 4])
def test_numbers_go_on_where_they_were(host: Host, compiled: Callable[..., str], library: str, columns: int) -> None:
    """The first example of the original: all numbers, each once, and it was as if the process never stopped."""
    program = compiled("numbers")
    subject = left_a_core(host, program, library)
    listed = (host.folder / "filedescriptors").read_text()
    assert f"3 : {host.folder}/numbers : 0 : 0100001\n" in listed
    if columns == 3:
        (host.folder / "filedescriptors").write_text(re.sub(r" : 0\d+$", "", listed, flags=re.MULTILINE))
    said = restart(host, "-f", "-n", "-w", program, f"core.{subject.pid}")
    assert "Restoring file descriptors from 'filedescriptors'" in said
    assert "Restarted process finished, exiting with value 0" in said
    assert (host.folder / "numbers").read_text().split() == NUMBERS


def test_a_name_that_a_line_cannot_hold(host: Host, compiled: Callable[..., str], library: str) -> None:
    program, name = compiled("numbers"), "a\n4 : \\b "
    words, more = (program, name, "40", "5", "20"), os.environ | {"LD_PRELOAD": library}
    with kernel_cores():
        subject = host.start(*words, env=more, preexec_fn=may_dump_core)
        quit_(subject)
    listed = (host.folder / "filedescriptors").read_text()
    assert f"3 : {host.folder}/a\\0124 : \\134b\\040 : 0 : 0100001\n" in listed
    (host.folder / "go").touch()
    restart(host, "-f", "-n", "-w", program, f"core.{subject.pid}")
    assert (host.folder / name).read_text().split() == NUMBERS


@pytest.mark.parametrize("how", ["filter", "limit"])
def test_a_core_without_its_stack_is_refused(host: Host, compiled: Callable[..., str], how: str) -> None:
    """What a filter or a limit has left out could but crash."""
    program = compiled("numbers")

    def little() -> None:
        may_dump_core()
        if how == "filter":
            Path("/proc/self/coredump_filter").write_text("0")
        else:
            resource.setrlimit(resource.RLIMIT_CORE, (100_000, 100_000))

    with kernel_cores():
        subject = host.start(program, "numbers", "40", "5", "20", preexec_fn=little)
        quit_(subject)
    said = restart(host, "-n", "-w", program, f"core.{subject.pid}", status=1)
    assert f"core.{subject.pid} does not hold the stack of thread {subject.pid}" in said


def test_memory_that_was_only_reserved(host: Host) -> None:
    """More than the machine has, of which hardly anything is used."""
    code = """
size = os.sysconf("SC_PHYS_PAGES") * 4096 * 4
memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)
memory[size // 2] = 42
pause_for_dump()
say(memory[size // 2], memory[0])
"""
    with kernel_cores():
        subject = host.python(code, preexec_fn=may_dump_core)
        quit_(subject)
    core = host.folder / f"core.{subject.pid}"
    if os.stat(core).st_blocks * 512 > 1 << 30:
        pytest.skip("the file system of the tests has no holes")
    (host.folder / "go").touch()
    said = restart(host, "-n", "-w", sys.executable, core.name)
    core.unlink()
    assert "\n42 0\nRestarted process finished" in said


def test_the_list_can_be_edited_when_a_file_has_moved(host: Host, compiled: Callable[..., str], library: str) -> None:
    program = compiled("numbers")
    subject = left_a_core(host, program, library)
    (host.folder / "numbers").rename(host.folder / "moved: numbers")
    refused = restart(host, "-f", "-n", "-w", program, f"core.{subject.pid}", status=1)
    assert "edit its line if the file has moved" in refused
    listed = (host.folder / "filedescriptors").read_text()
    (host.folder / "edited").write_text(listed.replace("/numbers :", "/moved: numbers :"))
    restart(host, "-fedited", "-n", "-w", program, f"core.{subject.pid}")
    assert (host.folder / "moved: numbers").read_text().split() == NUMBERS


@pytest.mark.parametrize("how", ["key", "limit"])
def test_signals_of_the_kernel_end_it_too(host: Host, compiled: Callable[..., str], library: str, how: str) -> None:
    """Ctrl-\\ on its terminal, as in the first example; or a limit. Nobody has sent these."""
    program = compiled("numbers")
    master, slave = pty.openpty()

    def on_terminal() -> None:
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        may_dump_core()
        if how == "limit":
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    with kernel_cores():
        words = ("numbers", "40", "50") if how == "key" else ("numbers", "3000", "0")
        subject = host.start(
            program, *words, env=os.environ | {"LD_PRELOAD": library}, preexec_fn=on_terminal, pass_fds=[slave]
        )
        if how == "key":
            os.write(master, b"\x1c")
        status = reap(subject.pid) or 0
    assert os.WTERMSIG(status) == (signal.SIGQUIT if how == "key" else signal.SIGXFSZ), status
    written = 0 if how == "key" else 2000
    assert f"3 : {host.folder}/numbers : {written} : 0100001\n" in (host.folder / "filedescriptors").read_text()
    for fd in (master, slave):
        os.close(fd)


def test_threads_that_crash_at_once_leave_one_list(host: Host, compiled: Callable[..., str], library: str) -> None:
    """The first to be done would end the process while others are writing."""
    program = compiled("crowd", "-pthread")
    for _ in range(20):
        done = subprocess.run(
            [program], cwd=host.folder, env=os.environ | {"LD_PRELOAD": library}, stdin=subprocess.DEVNULL,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)), check=False,
        )  # fmt: skip
        assert done.returncode == -signal.SIGSEGV
        listed = (host.folder / "filedescriptors").read_text().splitlines()
        assert len([line for line in listed if line.endswith(" : /dev/null : 0 : 0100000")]) >= 200


def test_a_program_with_a_handler_of_its_own_is_left_alone(host: Host, library: str) -> None:
    subject = host.python(
        "signal.signal(signal.SIGQUIT, lambda *_: say('handled'))\npause_for_dump()",
        env=os.environ | {"LD_PRELOAD": library},
    )
    os.kill(subject.pid, signal.SIGQUIT)
    subject.wait_for("handled")
    assert not (host.folder / "filedescriptors").exists()


THREADS = """
import socket, threading
os.umask(0o27)
os.mkdir("place")
os.chdir("place")
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
log = open("../log", "w")
log.write("begun, ")
counter = os.eventfd(5)
inner, outer = os.pipe()
os.write(outer, b"in flight")
left, right = socket.socketpair()
left.send(b"between us")
server = socket.create_server(("127.0.0.1", 0))
watch = select.epoll()
watch.register(counter, select.EPOLLIN)
watch.register(server, select.EPOLLIN)
def work():
    while not done.wait(0.005):
        turns.append(len(turns))
turns, done = [], threading.Event()
thread = threading.Thread(target=work)
thread.start()
shared = mmap.mmap(-1, 8192)
shared[:6] = b"shared"
ready()
while not os.path.exists("../go"):
    time.sleep(0.002)
done.set()
thread.join()
log.write("ended")
log.close()
os.kill(os.getpid(), signal.SIGUSR1)
say(turns == list(range(len(turns))), os.getcwd().rpartition("/")[2], oct(os.umask(0)), os.read(inner, 20))
say(os.eventfd_read(counter), bytes(shared[:6]), sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])))
client = socket.create_connection(server.getsockname(), timeout=10)
say(watch.poll(10) == [(server.fileno(), select.EPOLLIN)], right.recv(20))
"""


@pytest.mark.parametrize("how", [(), ("--socket",)], ids=["pipe", "socket"])
def test_after_sigquit_a_process_goes_on_as_if_nothing_had_been(host: Host, how: tuple[str, ...]) -> None:
    """Threads, directory, mask, descriptors, counters, what is in a pipe, sockets: all but handlers."""
    with handler(host, *how) as cores:
        server = serving(host, cores) if how else None
        subject = host.python(THREADS, preexec_fn=may_dump_core)
        quit_(subject)
        if server is not None:
            wait_until((cores / f"core.{subject.pid}").exists, "the core is there")
            server.terminate()
            server.wait()
    assert not [one for one in cores.iterdir() if one.name.startswith(".")]
    imported(host, cores / f"core.{subject.pid}")
    (host.folder / "go").touch()
    done = host.run("core", "restore", str(cores / f"core.{subject.pid}"))
    assert done.ok, done
    lacks = [line for line in done.log.splitlines() if "not in the core" in line]
    assert [line for line in lacks if "handlers of signals" not in line] == []
    assert subject.said()[-3:] == [
        "True place 0o27 b'in flight'",
        "5 b'shared' [<Signals.SIGUSR2: 12>]",
        "True b'between us'",
    ]
    assert (host.folder / "log").read_text() == "begun, ended"


def serving(host: Host, cores: Path) -> subprocess.Popen[bytes]:
    """The handler that listens; the test is skipped where the kernel knows no sockets."""
    with open(host.folder / "served", "wb") as said:
        server = subprocess.Popen(host.command("core", "handler", str(cores), "--socket"), stdout=said, stderr=said)
    wait_until((cores / "pycriu.socket").exists, "the handler listens")
    return server


def test_after_a_crash_it_is_opened_in_gdb_and_restarted_before_the_fault(
    host: Host, compiled: Callable[..., str]
) -> None:
    program = compiled("crash", "-g", "-O0")
    with handler(host) as cores:
        subject = host.start(program, preexec_fn=may_dump_core)
        status = reap(subject.pid) or 0
        assert os.WTERMSIG(status) == signal.SIGSEGV
    core = cores / f"core.{subject.pid}"
    try:
        said = gdb.ask(core, program, "bt", "p number")
    except gdb.NoGdbError as error:
        pytest.skip(f"no gdb: {error}")
    assert "crashes (" in said, said
    assert "$1 = 42" in said, said
    done = host.run("core", "restore", "-d", "-s", str(core))
    assert done.ok, done
    wait_until(lambda: state(subject.pid) == "T", "it stands still")
    mend = ("continue", "set var pointer = &number", "jump crashes")  # the first only takes note of the stop
    again = gdb.run(program, "p number", *mend, core=Path(str(subject.pid)))
    assert "$1 = 42" in again, again
    wait_until(lambda: not alive(subject.pid), "it ends, mended by the debugger")
    assert "mended 42" in subject.said()


def test_a_program_that_has_moved_and_a_list_that_was_edited(host: Host, compiled: Callable[..., str]) -> None:
    """What the user says comes before what the side-car has."""
    program = shutil.copy(compiled("numbers"), host.folder / "program")
    with handler(host) as cores:
        subject = host.start(str(program), "numbers", "40", "5", "20", preexec_fn=may_dump_core)
        after_some_numbers(host)
        quit_(subject)
    (host.folder / "program").rename(host.folder / "elsewhere")
    (host.folder / "numbers").rename(host.folder / "moved")
    core = cores / f"core.{subject.pid}"
    listed = Path(f"{core}.fds").read_text()
    (host.folder / "list").write_text(listed.replace("/numbers :", "/moved :"))
    said = restart(host, "-flist", "-n", "-w", "./elsewhere", str(core))
    assert "exiting with value 0" in said
    assert (host.folder / "moved").read_text().split() == NUMBERS


def test_what_ends_with_a_process_is_listed_and_the_rest_is_there(host: Host) -> None:
    """Connections to others, pipes to others; the standard descriptors among them are those of the restore."""
    ours, theirs = socket.socketpair()
    with handler(host) as cores:
        reader, writer = os.pipe()
        (host.folder / "piped.py").write_text(
            PRELUDE + "watch = select.epoll()\nwatch.register(0)\npause_for_dump()\nsay('here')\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-IS", "piped.py"], cwd=host.folder, stdin=theirs, stdout=writer,
            stderr=subprocess.DEVNULL, pass_fds=[theirs.fileno()], preexec_fn=may_dump_core, start_new_session=True,
        )  # fmt: skip
        host.pids.add(process.pid)
        assert os.read(reader, 6) == b"ready\n"
        os.kill(process.pid, signal.SIGQUIT)
        process.wait()
    (host.folder / "go").touch()
    done = host.run("core", "restore", str(cores / f"core.{process.pid}"))
    assert done.ok, done
    assert re.search(
        r"not in the core: descriptor \d+ of process \d+ \(socket:\[\d+\]\) .*: its other end has gone", done.log
    )
    assert re.search(r"not in the core: descriptor 1 of process \d+ \(pipe:", done.log)
    assert "\nhere\n" in done.log, "what was a pipe is our standard output"
    for fd in (reader, writer):
        os.close(fd)
    ours.close()
    theirs.close()


SERVER = """
import asyncio
said = []
async def serve(reader, writer):
    while line := await reader.readline():
        said.append(line)
        writer.write(line)
    say("a client has gone")
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    say("port", server.sockets[0].getsockname()[1])
    ready()
    while len(said) < 2:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)
    say(said)
asyncio.run(main())
"""


def test_a_server_serves_on_and_its_clients_have_gone(host: Host) -> None:
    """asyncio: an event queue, a listening socket; to the server its connection looks like one that was closed."""

    def ask(line: bytes) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", port), timeout=10)
        client.sendall(line)
        assert client.recv(100) == line
        return client

    with handler(host) as cores:
        subject = host.python(SERVER, preexec_fn=may_dump_core)
        port = int(subject.said()[0].split()[1])
        client = ask(b"before\n")
        quit_(subject)
        client.close()
    core = str(cores / f"core.{subject.pid}")
    done = host.run("core", "restore", "-d", core)
    assert done.ok, done
    assert re.search(r"not in the core: descriptor \d+ .*TCP connection.*: its other end has gone", done.log)
    subject.wait_for("a client has gone")
    ask(b"after\n").close()
    subject.wait_for("[b'before\\n', b'after\\n']")
    assert subject.said()[2:] == ["a client has gone"] * 2 + ["[b'before\\n', b'after\\n']"]


def test_redis_serves_on_after_a_sigquit(host: Host) -> None:
    with handler(host) as cores:
        server, ask = redis(host, preexec_fn=may_dump_core)
        assert ask("SET", "key", "value") == b"+OK\r\n"
        quit_(server)
    done = host.run("core", "restore", "-d", str(cores / f"core.{server.pid}"))
    assert done.ok, done
    assert ask("GET", "key") == b"$5\r\nvalue\r\n"
    assert ask("INCR", "count") == b":1\r\n"


def test_a_folder_of_others_is_refused(host: Host) -> None:
    """The kernel would run what others can put there."""
    before = PATTERN.read_text()
    folder = host.folder / "open"
    folder.mkdir()
    folder.chmod(0o777)
    done = host.run("core", "handler", "--install", str(folder))
    assert not done.ok
    assert "can be written by others than root" in done.errors()
    assert PATTERN.read_text() == before
    done = host.run("core", "handler", "--uninstall")
    assert not done.ok
    assert "not ours" in done.errors()


IN_A_CHROOT = """
mkdir root && mount --rbind / root && mount -t tmpfs none root/mnt && mkdir root/mnt/cores &&
exec chroot root "$@" core handler --install /mnt/cores
"""


def test_in_a_chroot_it_is_refused(host: Host) -> None:
    """The kernel would look for it elsewhere, and no core would be taken, without a word."""
    words = ["unshare", "-m", "sh", "-c", IN_A_CHROOT, "sh", sys.executable, "-m", "pycriu"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with kernel_cores("core.%p\n"):
        done = subprocess.run(words, cwd=host.folder, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "not in a chroot: install it from outside" in done.stderr
        assert PATTERN.read_text() == "core.%p\n"
