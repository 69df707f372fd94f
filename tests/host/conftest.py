# SPDX-License-Identifier: GPL-2.0-only
"""Real processes, dumped and restored on this machine as root: how a test starts one, acts on it, and cleans up.

A subject is a program in a session of its own without open descriptors but 0, 1, 2; it prints `ready` when there is
something to save and goes on when the file `go` exists. One that prints `lacks …` skips its test with these words.
Everything below this test run is killed and reaped after each test. PID 1 need not reap: this process is the subreaper
of all it starts.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

import pytest

from pycriu.crit.check import findings
from pycriu.crit.source import open_source
from tests import debian, rules

DEADLINE = 60.0 * float(os.environ.get("PYCRIU_TEST_SLOWNESS", "1"))
PR_SET_CHILD_SUBREAPER = 36

PRELUDE = """
import ctypes, fcntl, mmap, os, resource, select, signal, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
for call in (libc.mprotect, libc.madvise, libc.mlock):
    call.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int][: 2 if call is libc.mlock else 3]
def say(*words):
    os.write(1, (" ".join(str(word) for word in words) + "\\n").encode())
def wait_for_go():
    while not os.path.exists("go"):
        time.sleep(0.002)
def ready():
    say("ready")
def lacks(what, error=None):
    say("lacks", f"{what}: {error or os.strerror(ctypes.get_errno())}")
    os._exit(0)
def pause_for_dump():
    ready()
    wait_for_go()
"""


def wait_until(condition: Callable[[], object], what: str, seconds: float = DEADLINE) -> None:
    """Poll until `condition` holds; a test that waits in vain fails with `what`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:g} s in vain: {what}"
        time.sleep(0.002)


def state(pid: int) -> str | None:
    """proc(5)'s state letter, None when nobody has this PID."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(") ")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None


def alive(pid: int) -> bool:
    """Whether a live task has this PID."""
    return state(pid) not in (None, "Z", "X")


def children(pid: int) -> list[int]:
    """PIDs of the children, of all threads that have not just ended."""
    found: list[int] = []
    for tid in tasks(pid):
        with suppress(FileNotFoundError, ProcessLookupError):
            found += map(int, Path(f"/proc/{pid}/task/{tid}/children").read_text().split())
    return found


def tasks(pid: int) -> list[str]:
    """Its threads; none where nobody has this PID."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return os.listdir(f"/proc/{pid}/task")
    return []


def below(pid: int) -> list[int]:
    """Everybody below `pid`."""
    return [one for child in children(pid) for one in (child, *below(child))]


def reap(pid: int) -> int | None:
    """Wait for one process that is our child by now; its wait status, None when somebody else read it."""
    try:
        return os.waitpid(pid, 0)[1]
    except ChildProcessError:
        return None


def clean_up() -> None:
    """Kill and reap everybody that this test run has started."""
    end = time.monotonic() + DEADLINE
    while pids := below(os.getpid()):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, os.WNOHANG)
            except (ProcessLookupError, ChildProcessError):
                continue
        assert time.monotonic() < end, f"tasks that cannot be killed: {pids}"
        time.sleep(0.001)


class Outcome:
    """How one pycriu command ended: its exit status and its log."""

    def __init__(self, status: int, log: str, seconds: float) -> None:
        self.status, self.log, self.seconds = status, log, seconds

    @property
    def ok(self) -> bool:
        """Exit status 0."""
        return self.status == 0

    def errors(self) -> str:
        """The lines of the log that begin with the word Error, and the hints that follow them."""
        return "\n".join(line for line in self.log.splitlines() if "Error" in line or line.startswith("  "))

    def __repr__(self) -> str:
        return f"exit status {self.status}\n{self.log}"


class Subject:
    """A process under test. `pid` stays the same over dump and restore."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process, self.folder, self.pid = process, folder, process.pid

    def said(self) -> list[str]:
        """The complete lines it has written."""
        return (self.folder / "out").read_text(errors="replace").split("\n")[:-1]

    def wait_for(self, word: str) -> None:
        """Wait for a line that begins with `word`."""
        wait_until(
            lambda: any(line.startswith(word) for line in self.said()) or not alive(self.pid),
            f"{self.pid} has not said {word!r} but {self.said()[-5:]}",
        )
        assert any(line.startswith(word) for line in self.said()), f"ended after saying {self.said()[-8:]}"

    def go(self) -> list[str]:
        """Let it check itself; what it said until its end."""
        (self.folder / "go").touch()
        wait_until(lambda: not alive(self.pid), f"{self.pid} has not ended: {self.said()[-5:]}")
        reap(self.pid)
        said = self.said()
        return said[said.index("ready") + 1 :]

    def proc(self, name: str) -> str:
        """A file of /proc/PID."""
        return Path(f"/proc/{self.pid}/{name}").read_text(errors="replace")

    def status(self, name: str) -> str:
        """One field of /proc/PID/status."""
        return (
            next(line for line in self.proc("status").splitlines() if line.startswith(name + ":"))
            .split(":", 1)[1]
            .strip()
        )


@contextmanager
def traced(subject: Subject) -> Iterator[int]:
    """A debugger has it, whose PID this is; it does not stop it."""
    code = PRELUDE + f"libc.ptrace(0x4206, {subject.pid}, 0, 0)\nsay('traced')\ntime.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as tracer:
        assert tracer.stdout is not None
        assert tracer.stdout.readline() == b"traced\n"
        try:
            yield tracer.pid
        finally:
            tracer.kill()
    wait_until(lambda: subject.status("TracerPid") == "0", "the tracer is gone")


def assert_sound(images: Path) -> None:
    """A checkpoint of which `crit check` finds nothing to say."""
    with open_source(str(images)) as source:
        assert [str(finding) for finding in findings(source)] == []


class Host:
    """One test's folder, subjects and commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = folder / "images"
        self.images.mkdir()
        self.pids: set[int] = set()  # of all that were started

    def start(self, *argv: str, **options: object) -> Subject:
        """Start a program and wait for its `ready`; skip where the machine lacks what it needs."""
        with open(self.folder / "out", "wb") as out:
            process = subprocess.Popen(
                argv, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                **{"start_new_session": True, **options},
            )  # type: ignore[call-overload]  # fmt: skip
        subject = Subject(process, self.folder)
        self.pids.add(subject.pid)
        try:
            subject.wait_for("ready")
        except AssertionError:
            lacking = [line for line in subject.said() if line.startswith("lacks ")]
            if not lacking:
                raise
            reap(subject.pid)
            pytest.skip(f"this machine {lacking[0]}")
        return subject

    def python(self, code: str, **options: object) -> Subject:
        """Start a Python program that has PRELUDE's words."""
        (self.folder / "subject.py").write_text(PRELUDE + code)
        return self.start(sys.executable, "-IS", "subject.py", **options)

    def command(self, *words: str) -> list[str]:
        """The command line of pycriu."""
        return [sys.executable, "-m", "pycriu", *words]

    def run(self, action: str, *words: str, timeout: float = DEADLINE) -> Outcome:
        """Run pycriu to its end; the log is on its standard output."""
        begin = time.monotonic()
        done = subprocess.run(
            self.command(action, "-v4", "-o", "-", *words),
            cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=timeout, check=False,
        )  # fmt: skip
        log = done.stdout + done.stderr
        assert "Traceback" not in log, log
        assert "bug of pycriu" not in log, log
        return Outcome(done.returncode, log, time.monotonic() - begin)

    def dump(self, subject: Subject, *words: str, images: Path | None = None) -> Outcome:
        """Dump; a subject that is gone afterwards has been reaped."""
        outcome = self.run("dump", "-t", str(subject.pid), "-D", str(images or self.images), *words)
        if not alive(subject.pid):
            reap(subject.pid)
        if outcome.ok:
            assert_sound(images or self.images)
        return outcome

    def restore(self, *words: str, images: Path | None = None) -> Outcome:
        """Restore, detached."""
        return self.run("restore", "-d", "-D", str(images or self.images), *words)

    def round_trip(self, subject: Subject, *words: str) -> None:
        """Dump and restore, both of which must succeed."""
        dumped = self.dump(subject, *words)
        assert dumped.ok, dumped
        assert not alive(subject.pid), "the root survived the dump"
        restored = self.restore(*words)
        assert restored.ok, restored
        assert state(subject.pid) is not None, "the root has not come back"

    def refused(self, subject: Subject, *needles: str, options: tuple[str, ...] = ()) -> Outcome:
        """A dump that must fail with every needle in its errors, and leave the subject as it was."""
        pids = [subject.pid, *below(subject.pid)]
        before = {pid: untouched(pid) for pid in pids}
        outcome = self.dump(subject, *options)
        assert not outcome.ok, f"was not refused:\n{outcome}"
        for needle in needles:
            assert needle in outcome.errors(), f"{needle!r} is not in:\n{outcome.errors()}\n{outcome}"
        assert {pid: untouched(pid) for pid in pids} == before
        assert not list(self.images.iterdir()), "a refused dump left files"
        return outcome

    def refused_by_name(self, body: str, *needles: str, options: tuple[str, ...] = (), **start: object) -> None:
        """A program that does `body` must be refused with every needle and its or a child's PID, and go on unharmed."""
        subject = self.python(body + "\npause_for_dump()\nsay('ok')", **start)
        pids = [subject.pid, *below(subject.pid)]
        errors = self.refused(subject, *needles, options=options).errors()
        assert any(str(pid) in errors for pid in pids), errors
        assert subject.go() == ["ok"]


def untouched(pid: int, *, scratch_pages: bool = True) -> tuple[object, ...]:
    """What a dump that fails must not change; one that is killed may leave its scratch pages."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines())
    maps = Path(f"/proc/{pid}/maps").read_text(errors="replace")
    keep = ("SigBlk", "SigIgn", "SigCgt", "TracerPid", "Uid", "Gid", "CapEff", "Seccomp", "Threads", "NoNewPrivs")
    fds = sorted(os.listdir(f"/proc/{pid}/fd"))
    stack_free = [line for line in maps.splitlines() if "[stack]" not in line and (scratch_pages or " rwx" not in line)]
    return (tuple(fields[name] for name in keep), tuple(stack_free), tuple(fds), alive(pid))


def traces(pid: int, *, scratch_pages: bool = True) -> object:
    """What a dump could leave behind in a process whose memory changes: mask, tracer, scratch pages, descriptors."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines())
    maps = Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines()
    scratch = [line for line in maps if scratch_pages and " rwx" in line]
    return (
        [fields[name] for name in ("SigBlk", "SigIgn", "SigCgt", "TracerPid")],
        scratch,
        os.listdir(f"/proc/{pid}/fd"),
    )


# What the whole machine has but once; tests that use it run one after the other, whatever else runs beside them: a
# restore wants the terminal of the same number, the segment or the huge pages that were free a moment ago.
OF_THE_MACHINE = {
    "core_pattern": ("test_core_kernel",),
    "terminals": ("test_programs.py", "[pty_"),
    "devices": ("test_tun", "[tun"),
    "memory": (
        "sysv",
        "test_postgres",
        "hugepages",
        "swap",
        "test_peer_memory",
        "test_refused_memory",
        "test_memory_images",
        "test_check",
    ),
}


@pytest.fixture(autouse=True)
def alone(request: pytest.FixtureRequest) -> Iterator[None]:
    """No other worker runs a test that uses the same of the machine."""
    item = request.node
    groups = {group for group, words in OF_THE_MACHINE.items() if any(word in item.nodeid for word in words)}
    if _opens_terminals(item.path):
        groups.add("terminals")
    with ExitStack() as held:
        for group in sorted(groups):
            _lock(held, group, fcntl.LOCK_EX)
        _lock(held, "pids", fcntl.LOCK_EX if _is_prolific(request) else fcntl.LOCK_SH)
        yield


def _lock(held: ExitStack, name: str, kind: int) -> None:
    path = Path(tempfile.gettempdir(), f"pycriu-tests-{name}.lock")
    fcntl.flock(held.enter_context(path.open("w")), kind)


def _is_prolific(request: pytest.FixtureRequest) -> bool:
    """Whether it uses up all PIDs there are in some seconds: the one of a dumped process is soon somebody else's."""
    return request.node.get_closest_marker("prolific") is not None


@cache
def interpreter_for_others() -> str:
    """A Python that users other than root may run: that of these tests can lie in root's home."""
    reasons = []
    for path in (os.path.realpath(sys.executable), "/usr/bin/python3"):
        script = 'exec "$0" -ISc "import sys; assert sys.version_info >= (3, 11)"'
        done = subprocess.run(["sh", "-c", script, path], user=65534, capture_output=True, text=True, check=False)
        if not done.returncode:
            return os.path.realpath(path)
        reasons.append(done.stderr.strip()[-200:])
    pytest.skip(f"no Python that others than root may run: {'; '.join(reasons)}")


@cache
def _opens_terminals(path: Path) -> bool:
    return re.search(r"\bpty\b|pexpect|openpty|ptmx|\bShell\(", path.read_text()) is not None


@pytest.fixture(scope="session", autouse=True)
def subreaper() -> None:
    """Root, and orphans come to us: PID 1 of a container may not reap."""
    if os.geteuid():
        pytest.skip("the host tests trace processes and choose PIDs: they need root")
    assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    # Who runs the tests in the background, or under nohup, ignores these, and all that we start would.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def unpacked_programs() -> None:
    """What `make host` has fetched is found, behind what the host has."""
    os.environ.update(debian.environment())


@pytest.fixture(scope="session", autouse=True)
def plain_python() -> None:
    """Whatever this machine has set: users have Python write bytecode, and buffer what it prints."""
    for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"):
        os.environ.pop(name, None)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A folder, and words to start, dump and restore; afterwards nobody is left."""
    made = Host(tmp_path)
    try:
        yield made
    finally:
        clean_up()
        rules.let_go(rules.of_trees(made.pids))
        if (tmp_path / "undo").exists():  # of a victim, see tests/victims/README.md
            subprocess.run(["sh", "undo"], cwd=tmp_path, check=True)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Compile a C program of tests/host, with more options of the compiler if need be; the path of the executable."""
    folder = tmp_path_factory.mktemp("compiled")

    def build(name: str, *options: str) -> str:
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler is None:
            pytest.skip("no C compiler on this machine: apt-get install gcc")
        target = folder / "".join((name, *options))
        if not target.exists():
            source = Path(__file__).parent / f"{name}.c"
            subprocess.run([compiler, "-O1", *options, "-o", str(target), str(source)], check=True)
        return str(target)

    return build
