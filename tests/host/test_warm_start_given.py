# SPDX-License-Identifier: GPL-2.0-only
"""Warm starts: what a program is given by whoever starts it, it has as if it had been started ordinarily."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from tests.host.conftest import DEADLINE, wait_until
from tests.host.warmth import APP, SNAPSHOT, Starts, starts

__all__ = ["starts"]

# All that proc(5) and a few calls tell of how it was started. The parent is told by the one that wants to know.
LOOK = """
import ctypes, os, resource, signal, socket, sys
def one(name):
    with open(f"/proc/self/{name}") as file:
        return file.read().strip()
def stream(file):
    return repr(file), file.mode, file.line_buffering, file.write_through, file.newlines, type(file.buffer).__name__
status = dict(line.split(":", 1) for line in one("status").splitlines())
names = "SigBlk", "SigIgn", "NoNewPrivs", "Groups", "CapPrm", "CapBnd", "Seccomp", "Umask"
files = {fd: f"/proc/self/fd/{fd}" for fd in range(100) if os.path.lexists(f"/proc/self/fd/{fd}")}
print(json.dumps(dict(
    parent=os.getppid(), nice=os.getpriority(0, 0), affinity=sorted(os.sched_getaffinity(0)),
    policy=os.sched_getscheduler(0), ioprio=ctypes.CDLL(None).syscall(IOPRIO_GET, 1, 0),
    limits=one("limits"), oom=one("oom_score_adj"), slack=one("timerslack_ns"), personality=one("personality"),
    filter=one("coredump_filter"), cgroup=one("cgroup"), session=os.getsid(0),
    group=os.getpgrp() == os.getpgid(os.getppid()), status=[status[name] for name in names],
    files={fd: os.readlink(path).split(":")[0] for fd, path in files.items()}, interrupt=str(signal.getsignal(2)),
    words=one("cmdline").split("\\0"), comm=one("comm"), exe=os.readlink("/proc/self/exe"),
    environ=sorted(word for word in one("environ").split("\\0") if not word.startswith("_=")),
    streams=[stream(file) for file in (sys.stdin, sys.stdout, sys.stderr)],
)), flush=True)
""".replace("IOPRIO_GET", {"x86_64": "252", "aarch64": "31"}[os.uname().machine])
PROGRAM = APP.replace("report()\n", "") + LOOK

WAYS = {
    "plain": [],
    "nice": ["nice", "-n", "7"],
    "CPUs": ["taskset", "-c", "0"],
    "policy": ["chrt", "-b", "0"],
    "I/O": ["ionice", "-c3"],
    "limits": ["prlimit", "--nofile=177:299", "--core=0", "--stack=4000000"],
    "OOM": ["sh", "-c", 'echo 500 >/proc/self/oom_score_adj; exec "$@"', "sh"],
    "umask": ["sh", "-c", 'umask 027; exec "$@"', "sh"],
    "core filter": ["sh", "-c", 'echo 1 >/proc/self/coredump_filter; exec "$@"', "sh"],
    "nohup": ["nohup"],
    "ignored": ["sh", "-c", 'trap "" INT QUIT USR1; exec "$@"', "sh"],
    "personality": ["setarch", "-R"],
    "variable": ["env", "Y=1"],
    "session": ["setsid", "-w"],
    "groups": ["setpriv", "--groups=5,6"],
    "capabilities": ["setpriv", "--bounding-set=-mknod"],
    "descriptors": ["bash", "-c", 'exec 9</etc/passwd 63< <(echo hello) 5>/dev/null; exec "$@"', "sh"],
}
OTHER = ["sh", "-c", 'trap "" INT HUP; exec nice -n 5 "$@" 9</dev/null 8</etc/passwd', "sh"]


def looked(starts: Starts, *words: str, warm: bool) -> dict[str, object]:
    """What a start under such a command finds."""
    switch = {} if warm else {"PYCRIU_WARM_START": "0"}
    done = subprocess.run(
        words, cwd=starts.folder, env=starts.environment(**switch), stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), starts.why_not()
    found: dict[str, object] = json.loads(done.stdout)
    found["environ"] = [word for word in found["environ"] if not word.startswith("PYCRIU_WARM_START")]  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("first", [[], OTHER], ids=["behind a plain one", "behind another"])
def test_like_an_ordinary_start(starts: Starts, way: str, first: list[str]) -> None:
    """Whatever the first start was like."""
    if WAYS[way] and shutil.which(WAYS[way][0]) is None:
        pytest.skip(f"no {WAYS[way][0]} on this machine")
    starts.write("app.py", PROGRAM)
    looked(starts, *first, sys.executable, "app.py", warm=True)
    if way in ("groups", "capabilities"):  # of which each kind has a checkpoint of its own
        looked(starts, *WAYS[way], sys.executable, "app.py", warm=True)
    runs = starts.runs()
    words = [*WAYS[way], sys.executable, "app.py", "an", "argument that is longer than what was there", ""]
    warm = looked(starts, *words, warm=True)
    assert starts.runs() == runs, starts.why_not()
    cold = looked(starts, *words, warm=False)
    differences = {name: (cold[name], warm[name]) for name in cold if cold[name] != warm[name]}
    if way == "session":
        assert cold["session"] != os.getsid(0) != warm["session"]
        del differences["session"], differences["group"]  # it leads neither: its parent does
    assert differences.keys() == {"parent"}, differences


@pytest.mark.parametrize("option", [[], ["-u"]])
def test_a_line_comes_when_it_is_written(starts: Starts, option: list[str]) -> None:
    """To a pipe: at once with -u, at the end without."""
    starts.write("app.py", APP.replace("report()\n", "print('line'); sys.stdin.read()\n"))
    starts.run(*option, "app.py")
    process = starts.popen(*option, "app.py", stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    if option:
        wait_until(lambda: process.stdout.readline() == "line\n", "it has come")  # type: ignore[union-attr]
    process.stdin.close()
    assert process.wait(DEADLINE) == 0
    os.set_blocking(process.stdout.fileno(), True)
    assert process.stdout.read() == ("" if option else "line\n")
    assert starts.runs() == 1, starts.why_not()


def test_input_with_all_kinds_of_ends_of_lines(starts: Starts) -> None:
    starts.write("app.py", APP.replace("report()\n", "print(repr(sys.stdin.read()), ascii(sys.stdin.encoding))\n"))
    said = []
    for switch in ("1", "1", "0"):
        process = starts.popen("app.py", stdin=subprocess.PIPE, env=starts.environment(PYCRIU_WARM_START=switch))
        said.append(process.communicate("a\rb\r\nc\n", timeout=DEADLINE)[0])
    assert len(set(said)) == 1, said
    assert starts.runs() == 2, starts.why_not()


def test_a_file_by_its_number(starts: Starts) -> None:
    """As bash has it for <(…). Where a start has children before it begins, no checkpoint is made, but used."""
    starts.write("app.py", APP.replace("report()\n", "print(open(sys.argv[1]).read(), end='')\n"))
    for number in range(4):
        if number == 2:
            starts.run("app.py", os.devnull)
        child = f"echo {number}; exec sleep 3 >/dev/null 2>&1"  # which is still there when the program begins
        command = f'exec "{sys.executable}" app.py <({child})'
        done = subprocess.run(
            ["bash", "-c", command], cwd=starts.folder, env=starts.environment(), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=DEADLINE, check=True,
        )  # fmt: skip
        assert done.stdout == f"{number}\n"
    assert starts.runs() == 3, starts.why_not()


def test_sockets_for_streams(starts: Starts) -> None:
    """As inetd and systemd give them."""
    starts.write("app.py", APP.replace("report()\n", "print(sys.stdin.readline().upper(), end='', flush=True)\n"))
    for number in range(2):
        ours, its = socket.socketpair()
        with ours, its:
            process = starts.popen("app.py", stdin=its)
            ours.sendall(b"hello\n")
            assert process.communicate(timeout=DEADLINE)[0] == "HELLO\n", number
    assert starts.runs() == 1, starts.why_not()


def test_socket_activation(starts: Starts) -> None:
    """sd_listen_fds(3): the variables name the process, and the socket is descriptor 3."""
    code = "print(os.environ['LISTEN_PID'] == str(os.getpid()), socket.socket(fileno=3).getsockname())\n"
    starts.write("app.py", APP.replace("report()\n", f"import socket\n{code}"))
    begin = ["sh", "-c", 'LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"', "sh", sys.executable]
    for number in range(2):
        with socket.create_server(("127.0.0.1", 0)) as server:
            name = server.getsockname()

            def take_three(fd: int = server.fileno()) -> None:
                os.dup2(fd, 3, inheritable=True)

            done = subprocess.run(
                [*begin, "app.py"], cwd=starts.folder, env=starts.environment(), stdin=subprocess.DEVNULL, check=True,
                capture_output=True, text=True, timeout=DEADLINE, preexec_fn=take_three, close_fds=False,
            )  # fmt: skip
        assert done.stdout == f"True {name}\n", number
    assert starts.runs() == 1, starts.why_not()


def test_a_number_that_is_taken(starts: Starts) -> None:
    """The block has a file open at the number that a later start is given: that one is an ordinary start, no other."""
    starts.write("app.py", APP.replace("import helper", "import helper; kept = os.dup2(os.open('/etc/passwd', 0), 9)")
                 .replace("import sys;", "import os, sys;"))  # fmt: skip
    starts.report("app.py")
    given = ["bash", "-c", 'exec 9</etc/passwd; exec "$@"', "sh", sys.executable, "app.py"]
    subprocess.run(
        given, cwd=starts.folder, env=starts.environment(), stdin=subprocess.DEVNULL, check=True, timeout=DEADLINE
    )
    assert starts.runs() == 2
    starts.report("app.py")
    assert starts.runs() == 2, starts.why_not()


@pytest.mark.parametrize("how", [(), SNAPSHOT])
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(starts: Starts, closed: str, how: tuple[str, ...]) -> None:
    """Such a start is an ordinary one, and does the others no harm."""
    starts.write("app.py", APP.replace("report()\n", "open('said', 'a').write('x')\n"))
    words = " ".join([f'"{sys.executable}"', *how, *([f'"{sys.executable}"'] if how else []), "app.py"])
    for redirection in (closed, "", "", closed, ""):
        subprocess.run(
            ["sh", "-c", f"exec {words} {redirection}"], cwd=starts.folder, env=starts.environment(), check=True,
            stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE,
        )  # fmt: skip
    assert (starts.folder / "said").read_text() == "xxxxx"
    assert starts.runs() == (2 if how else 3), starts.why_not()  # pycriu itself puts /dev/null there


def test_no_directory(starts: Starts) -> None:
    """Where the working directory has been removed."""
    starts.write("app.py", APP.replace("report()\n", "print('here')\n").replace("open(", "# "))
    path = str(starts.folder / "app.py")
    for how in ((), (*SNAPSHOT, sys.executable)):
        starts.run(*how, path)
        folder = starts.folder / "gone"
        folder.mkdir()
        code = f"import os; os.rmdir({str(folder)!r}); os.execv({sys.executable!r}, {[sys.executable, *how, path]!r})"
        assert starts.run("-c", code, cwd=folder, env=starts.environment(PYTHONDONTWRITEBYTECODE="1")) == "here\n"


def test_whoever_starts_it_ignores_sigchld(starts: Starts) -> None:
    """Then the kernel would reap the restored program, and nobody hear of its end; it is ignored there, too."""
    code = APP + 'print(open("/proc/self/status").read().split("SigIgn:")[1].split()[0])'
    starts.write("app.py", code)
    starts.run("app.py")
    lines = [
        starts.run("app.py", preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN), env=environment)
        for environment in (starts.environment(), starts.environment(PYCRIU_WARM_START="0"))
    ]
    assert starts.runs() == 2, starts.why_not()  # the first, and the last, which may not be warm
    warm, cold = (int(said.splitlines()[-1], 16) for said in lines)
    assert warm == cold
    assert cold & 1 << signal.SIGCHLD - 1


def test_a_directory_whose_name_leads_nowhere(starts: Starts) -> None:
    """It is too long to go there by it: an ordinary start is in it."""
    starts.write("app.py", APP)
    starts.report("app.py")

    def go_down() -> None:
        for _ in range(25):
            os.mkdir("d" * 200)
            os.chdir("d" * 200)

    words = (str(starts.folder / "app.py"), "argument")
    report = starts.report(*words, preexec_fn=go_down)
    assert report["argv"] == [*words]
    assert len(str(report["cwd"])) > 4096
    assert starts.runs() == 2


def test_what_is_no_python_has_its_signals(starts: Starts) -> None:
    """Python ignores some, which a program that it becomes must not."""
    said = starts.run(*SNAPSHOT, "grep", "SigIgn", "/proc/self/status")
    assert int(said.split()[1], 16) & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1) == 0
