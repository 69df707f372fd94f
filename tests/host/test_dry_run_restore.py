# SPDX-License-Identifier: GPL-2.0-only
"""`restore --dry-run`: everything that this machine would refuse, at once, and nothing is made; then it succeeds."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.host.conftest import DEADLINE, PRELUDE, alive, wait_until

if TYPE_CHECKING:
    from tests.host.conftest import Host

TREE = """
import fcntl, socket
def file(name, mode="w+"):
    opened = open(name, mode)
    opened.write("content")
    opened.flush()
    return opened
changed, removed, private, typed, locked = (file(n) for n in ("changed", "removed", "private", "typed", "locked"))
fcntl.flock(locked, fcntl.LOCK_EX)
os.mkdir("folder")
ghost = file("folder/ghost")
os.unlink("folder/ghost")
listener = socket.create_server(("127.0.0.1", 0))
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("127.0.0.1", 0))
named = socket.socket(socket.AF_UNIX)
os.mkdir("run")
named.bind("run/socket")
named.listen()
abstract = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
abstract.bind(f"\\0pycriu-test-{os.getpid()}")
service = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
service.connect(open("name").read())
server = socket.create_connection(("127.0.0.1", int(open("port").read())))
say("ports", listener.getsockname()[1], datagrams.getsockname()[1])
kid = os.fork()
if kid == 0:
    wait_for_go()
    os._exit(0)
say("kid", kid)
pause_for_dump()
server.send(b"ok")
say("ok")
"""


def dry_run(host: Host, *words: str) -> tuple[int, dict[str, Any]]:
    """Exit status and report; whatever there is must be as it was."""
    before = everything(host.folder)
    done = subprocess.run(
        host.command("restore", "--dry-run", "--json", "-D", str(host.images), *words),
        cwd=host.folder, capture_output=True, text=True, timeout=DEADLINE, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.stderr == ""
    assert everything(host.folder) == before
    return done.returncode, json.loads(done.stdout)


def everything(folder: Path) -> list[tuple[object, ...]]:
    """Every file with what a restore could change of it."""
    found = []
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        found.append((str(path), status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns, status.st_nlink))
    return found


def occupy(pid: int) -> subprocess.Popen[bytes]:
    """A process with a PID of our choice."""
    code = (
        "from pycriu.kernel import libc\nimport os, signal\n"
        f"pid = libc.clone3_set_tid({pid}, flags=0, exit_signal=17)\n"
        "if pid == 0: signal.pause()\nprint(flush=True)\nos.waitpid(pid, 0)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


SERVICE = f"service-{os.getpid()}"  # the kernel lists no more of a relative name than this


class Ruin:
    """Every way in which this machine may have changed since a dump of TREE, and back."""

    def __init__(self, folder: Path, pid: int, kid: int, ports: tuple[int, int]) -> None:
        self.folder, self.pids = folder, (pid, kid)
        self.squatters = [occupy(pid), occupy(kid)]
        self.content = (folder / "removed").read_text()
        (folder / "changed").write_text("another content")
        (folder / "removed").rename(folder / "away")
        (folder / "private").chmod(0o600)
        (folder / "typed").rename(folder / "was typed")
        (folder / "typed").mkdir()
        (folder / "folder").rmdir()
        (folder / "run").rename(folder / "ran")
        (folder / "pid").write_text("1")
        taken = socket.create_server(("127.0.0.1", ports[0]))
        taken_too = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        taken_too.bind(("0.0.0.0", ports[1]))
        abstract = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        abstract.bind(f"\0pycriu-test-{pid}")
        self.held = (taken, taken_too, abstract, open(folder / "locked"))  # noqa: SIM115  # until it is put right
        fcntl.flock(self.held[-1], fcntl.LOCK_SH)

    def put_right(self) -> None:
        """As the remedies say."""
        for one in self.held:
            one.close()
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
        for one in self.squatters:
            one.communicate()
        folder = self.folder
        (folder / "changed").write_text(self.content)
        (folder / "away").rename(folder / "removed")
        (folder / "typed").rmdir()
        (folder / "was typed").rename(folder / "typed")
        (folder / "folder").mkdir()
        (folder / "ran").rename(folder / "run")


def expected(pid: int, kid: int, ports: tuple[int, int]) -> tuple[tuple[str, str | None, str | None], ...]:
    """What is to be told of a Ruin: words, kind, option."""
    return (
        (f"PID {pid} is in use", None, None),
        (f"PID {kid} is in use", None, None),
        ("changed is 15 bytes, at the dump it was 7", "regular", None),
        ("removed cannot be opened as it was", "regular", None),
        ("private has the mode 0600, at the dump it had 0644", "regular", "--skip-file-rwx-check"),
        ("typed is no longer a file of the same type", "regular", None),
        ("the folder of the deleted file", "regular", None),
        (f"a socket cannot be bound to 127.0.0.1:{ports[0]} again", "inet", None),
        (f"a socket cannot be bound to 127.0.0.1:{ports[1]} again", "inet", None),
        ("the directory of the UNIX socket", None, None),
        (f"the name @pycriu-test-{pid} is in use by another UNIX socket", "unix", None),
        (f"the UNIX socket {SERVICE} outside the tree", "unix", None),
        ("locked is locked by process", None, None),
        ("--pidfile", None, None),
        ("there are TCP connections in this checkpoint", None, "--tcp-established"),
    )


def new_service() -> socket.socket:
    """The one outside, to which the tree is connected."""
    service = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    service.bind(SERVICE)
    return service


def test_everything_is_told_at_once_and_when_it_is_put_right_the_restore_succeeds(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(host.folder)
    (host.folder / "name").write_text(SERVICE)
    service, server = new_service(), socket.create_server(("127.0.0.1", 0))
    (host.folder / "port").write_text(str(server.getsockname()[1]))
    subject = host.python(TREE)
    connection, _ = server.accept()
    said = dict(line.split(" ", 1) for line in subject.said() if " " in line)
    tcp_port, udp_port = map(int, said["ports"].split())
    family = subject.pid, int(said["kid"])
    options = ("--tcp-established", "--ext-unix-sk", "--file-locks")
    dumped = host.dump(subject, *options)
    assert dumped.ok, dumped
    wait_until(lambda: not any(map(alive, family)), "the tree has ended")
    assert dry_run(host, *options)[0] == 0, dry_run(host, *options)[1]

    ruin = Ruin(host.folder, *family, (tcp_port, udp_port))
    service.close()
    status, report = dry_run(host, "--pidfile", str(host.folder / "pid"))
    assert status == 1
    for words, kind, option in expected(*family, (tcp_port, udp_port)):
        mine = [one for one in report["obstacles"] if words in one["problem"]]
        assert [(one["kind"], one["option"]) for one in mine] == [(kind, option)], (words, report["obstacles"])
        assert kind in (None, "unix") or mine[0]["process"] in family
    assert len(report["obstacles"]) == len(expected(*family, (0, 0))), report["obstacles"]
    assert sorted(report["options"]) == ["--skip-file-rwx-check", "--tcp-established"]
    assert (report["processes"], report["action"], report["passes_with_options"]) == (2, "restore", False)
    refused = host.restore("--pidfile", str(host.folder / "pid"))  # tells the same, but what shows with an option only
    hidden = [one["problem"] for one in report["obstacles"] if one["problem"] not in refused.log]
    assert (refused.ok, hidden) == (False, []), refused

    ruin.put_right()
    (host.folder / SERVICE).unlink()
    service = new_service()
    again = (*options, "--skip-file-rwx-check", "--pidfile", str(host.folder / "new pid"))
    status, report = dry_run(host, *again)
    assert [one["problem"].split()[0] for one in report["obstacles"]] == [f"{host.folder}/changed"], "written since"
    assert report["options"] == ["--file-validation=filesize"]
    assert dry_run(host, *again, *report["options"])[0] == 0
    restored = host.restore(*again, *report["options"])
    assert restored.ok, restored
    assert subject.go()[-1] == "ok"
    assert connection.recv(2) == b"ok"
    service.close()


def test_damaged_images_are_an_obstacle(host: Host) -> None:
    subject = host.python("pause_for_dump()\nsay('ok')")
    assert host.dump(subject).ok
    assert dry_run(host) == (0, {
        "schema": 1, "action": "restore", "passes": True, "passes_with_options": True, "options": [], "processes": 1,
        "threads": 1, "kibibytes": dry_run(host)[1]["kibibytes"], "obstacles": [], "remarks": [],
    })  # fmt: skip
    (host.images / f"core-{subject.pid}.img").unlink()
    status, report = dry_run(host)
    assert status == 1
    assert f"core-{subject.pid}.img" in report["obstacles"][0]["problem"]


def test_a_job_of_a_shell_and_the_terminal_that_it_needs(host: Host) -> None:
    """On a terminal it would succeed with --shell-job; without one there is nothing to take its place."""
    import pty

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-IS", "-c", PRELUDE + "open('ready', 'w').close()\nwait_for_go()"],
        cwd=host.folder, stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    wait_until((host.folder / "ready").exists, "it runs")
    dumped = host.run("dump", "-t", str(process.pid), "-D", str(host.images), "--shell-job")
    assert dumped.ok, dumped
    process.wait()
    status, report = dry_run(host)
    assert status == 1
    assert any("other end was not dumped" in one["problem"] for one in report["obstacles"])
    assert any("this command has none to take its place" in one["problem"] for one in report["obstacles"])
    os.close(ours)


def test_in_words(host: Host) -> None:
    subject = host.python("held = open('held', 'w')\npause_for_dump()\nsay('ok')")
    assert host.dump(subject).ok
    (host.folder / "held").unlink()
    words = ("restore", "--dry-run", "-D", str(host.images))
    done = subprocess.run(host.command(*words), capture_output=True, text=True, check=False, cwd=host.folder)
    assert done.returncode == 1
    problem, remedy, last = done.stdout.splitlines()
    assert problem == f"{host.folder}/held cannot be opened as it was: No such file or directory"
    assert remedy == "  put it back as it was"
    assert last.startswith("The restore would be refused for 1 thing (1 process, 1 thread, ")


@pytest.mark.parametrize("resource", ["RLIMIT_NOFILE"])
def test_limits(host: Host, resource: str) -> None:
    """A hard limit that this process may not give."""
    subject = host.python("pause_for_dump()\nsay('ok')")
    assert host.dump(subject).ok
    code = (
        "import os, resource, sys\n"
        f"resource.setrlimit(resource.{resource}, (500, 500))\n"
        "import ctypes\nctypes.CDLL(None).prctl(24, 24, 0, 0, 0)\n"  # PR_CAPBSET_DROP, CAP_SYS_RESOURCE
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *host.command("restore", "--dry-run", "--json", "-D", str(host.images))[1:]],
        cwd=host.folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert any(resource in one["problem"] for one in json.loads(done.stdout)["obstacles"]), done.stdout
