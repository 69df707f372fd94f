# SPDX-License-Identifier: GPL-2.0-only
"""`dump --dry-run`: everything that stands in the way at once, with the options that help; and nobody is harmed."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.host.conftest import DEADLINE, below, traced, untouched

if TYPE_CHECKING:
    from pathlib import Path

    from tests.host.conftest import Host, Subject

# What goes away with an option: what the subject does; the kind, words, the option.
WITH_OPTION = (
    ("import fcntl\nlocked = open('locked', 'w')\nfcntl.flock(locked, fcntl.LOCK_EX)",
     "regular", "file lock", "--file-locks"),
    ("import socket\nservice = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\nservice.connect('service')",
     "unix", "outside the tree", "--ext-unix-sk"),
    ("import socket\nserver = socket.create_connection(('127.0.0.1', int(open('port').read())))",
     "inet", "TCP connection (ESTABLISHED)", "--tcp-established"),
    ("ghost = open('ghost', 'w+b')\nghost.write(os.urandom(3 << 20))\nghost.flush()\nos.unlink('ghost')",
     "regular", "more than the limit", "--ghost-limit=3M"),
    ("small = open('small', 'w+b')\nsmall.write(os.urandom(2 << 20))\nsmall.flush()\nos.unlink('small')",
     "regular", "more than the limit", "--ghost-limit=2M"),
    ("import os\nother = open('first', 'w')\nos.link('first', 'second')\nos.unlink('first')",
     "regular", "other name(s)", "--link-remap"),
    ("import socket\nlistener = socket.create_server(('127.0.0.1', 0))\n"
     "client = socket.create_connection(listener.getsockname())",
     "inet", "waiting to be accepted", "--skip-in-flight"),
)  # fmt: skip


@pytest.fixture
def service(host: Host, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A UNIX datagram socket and a TCP server that are not of the tree."""
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams,
        socket.create_server(("127.0.0.1", 0)) as server,
    ):
        monkeypatch.chdir(host.folder)
        datagrams.bind("service")
        (host.folder / "port").write_text(str(server.getsockname()[1]))
        yield server


def dry_run(host: Host, subject: Subject, *words: str) -> tuple[int, dict[str, Any]]:
    """Exit status and report; the subject must be as it was, and the images directory empty."""
    pids = [subject.pid, *below(subject.pid)]
    before = {pid: untouched(pid) for pid in pids}
    done = subprocess.run(
        host.command("dump", "--dry-run", "--json", "-t", str(subject.pid), "-D", str(host.images), *words),
        cwd=host.folder, capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert {pid: untouched(pid) for pid in pids} == before
    assert not list(host.images.iterdir())
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def test_everything_is_listed_at_once_and_the_options_are_enough(host: Host, service: socket.socket) -> None:
    """Seven obstacles of which options rid: each is told, with its option; with these the dump passes."""
    code = "\n".join(body for body, *_ in WITH_OPTION)
    subject = host.python(code + "\npause_for_dump()\nserver.send(b'ok')\nsay('ok')", start_new_session=False)
    connection, _ = service.accept()

    status, report = dry_run(host, subject)
    assert status == 1
    assert (report["schema"], report["passes"], report["passes_with_options"]) == (1, False, True)
    told = report["obstacles"]
    for _, kind, words, option in WITH_OPTION:
        mine = [one for one in told if words in one["problem"] and one["option"] == option]
        assert {one["kind"] for one in mine} == {kind}, (words, told)
        assert len(mine) == (2 if option == "--tcp-established" else 1)
        assert mine[0]["process"] == subject.pid
        assert os.path.lexists(f"/proc/{subject.pid}/fd/{mine[0]['descriptor']}")
    outside = [one for one in told if one["option"] == "--shell-job"]
    assert [one["process"] for one in outside] == [subject.pid]
    assert len(told) == len(WITH_OPTION) + 2
    assert sorted(report["options"]) == [
        "--ext-unix-sk", "--file-locks", "--ghost-limit=3M", "--link-remap", "--shell-job", "--skip-in-flight",
        "--tcp-established",
    ]  # fmt: skip
    assert report["microseconds_stopped"] < 1_000_000

    refused = host.refused(subject, *(words for _, _, words, _ in WITH_OPTION[:4]))
    assert "things stand in the way" in refused.errors()

    assert dry_run(host, subject, *report["options"])[0] == 0
    dumped = host.dump(subject, *report["options"])
    assert dumped.ok, dumped
    again = [option for option in report["options"] if not option.startswith("--ghost-limit")]
    restored = host.restore(*again)
    assert restored.ok, restored
    assert subject.go()[-1] == "ok"
    assert connection.recv(2) == b"ok"


def test_what_shows_only_behind_an_option_is_told_too(host: Host, service: socket.socket) -> None:
    """Urgent data of a connection matter only to who keeps the connection."""
    body = WITH_OPTION[2][0] + "\nserver.recv(1, socket.MSG_PEEK)\npause_for_dump()\nsay('ok')"
    import threading

    accepted: list[socket.socket] = []

    def serve() -> None:
        one, _ = service.accept()
        one.send(b"a")
        one.send(b"!", socket.MSG_OOB)
        accepted.append(one)

    thread = threading.Thread(target=serve)
    thread.start()
    subject = host.python(body)
    thread.join()
    time.sleep(0.1)
    status, report = dry_run(host, subject)
    assert status == 1
    assert not report["passes_with_options"]
    assert [(one["kind"], one["option"]) for one in report["obstacles"]] == [
        ("inet", "--tcp-established"), ("inet", None),
    ]  # fmt: skip
    assert "urgent data" in report["obstacles"][1]["problem"]
    assert subject.go() == ["ok"]
    accepted[0].close()


# What no option helps against: name → what the subject does, what it is, the words that tell it.
HOPELESS = {
    "io_uring": (
        "ring = libc.syscall(425, 4, ctypes.create_string_buffer(120))\nif ring < 0: say('kernel lacks it')",
        "an io_uring", "io_uring",
    ),
    "namespace": ("space = os.open(f'/proc/{kid}/ns/uts', 0)", "namespace", "a namespace that the tree is not in"),
    "pidfd": ("outsider = os.pidfd_open(os.getppid())", "pidfd", "outside the tree"),
    "other process": ("x = os.open(f'/proc/{os.getppid()}/status', 0)", "regular", "is part of process"),
    "inotify": (
        "watch = libc.inotify_init1(0)\nlibc.inotify_add_watch(watch, b'.', 0xfff)\nopen('new', 'w').close()",
        "inotify", "bytes of events",
    ),
}  # fmt: skip


def test_obstacles_of_every_kind_of_a_whole_tree(host: Host) -> None:
    """Two processes with five hopeless things, a third in a namespace of its own: all are told, none is missed."""
    body = "\n".join(code for code, *_ in HOPELESS.values())
    subject = host.python(
        f"kid = os.fork()\nif kid == 0:\n    assert libc.unshare(0x04000000) == 0\n"
        "    wait_for_go()\n    os._exit(0)\ntime.sleep(0.1)\n"
        f"os.getppid = lambda: {os.getpid()}\n{body}\n"
        "one = os.fork()\npause_for_dump() if one else wait_for_go()\nif one: say('ok')"
    )
    if "kernel lacks it" in subject.said():
        pytest.skip("this kernel or its limits have no io_uring")
    time.sleep(0.1)
    family = [subject.pid, *below(subject.pid)]
    status, report = dry_run(host, subject)
    assert status == 1
    assert report["processes"] == len(family) == 3
    assert report["options"] == []
    for name, (_, kind, words) in HOPELESS.items():
        mine = [one for one in report["obstacles"] if one["kind"] == kind and words in one["problem"]]
        assert {one["process"] for one in mine} <= set(family), (name, mine)
        assert len(mine) == (1 if name == "other process" else 2), (name, mine)  # once per open file, or per descriptor
    spaces = [one for one in report["obstacles"] if "uts namespace" in one["problem"]]
    assert len(spaces) == 1
    assert len(report["obstacles"]) == 2 * len(HOPELESS), report["obstacles"]
    assert subject.go()[-1] == "ok"


def test_in_words(host: Host) -> None:
    subject = host.python(
        "import fcntl\nx = open('x', 'w')\nfcntl.flock(x, fcntl.LOCK_EX)\npause_for_dump()\nsay('ok')"
    )
    words = ("dump", "--dry-run", "-t", str(subject.pid), "-D", str(host.images))
    refused = subprocess.run(host.command(*words), capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    problem, remedy, sum_, helps = refused.stdout.splitlines()
    assert problem.startswith(f"descriptor 3 of process {subject.pid} ({host.folder}/x) holds a file lock")
    assert remedy == "  --file-locks (-l) keeps locks"
    assert sum_.startswith("The dump would be refused for 1 thing (1 process, 1 thread, ")
    assert helps == "With --file-locks it would succeed."
    passes = subprocess.run(host.command(*words, "-l"), capture_output=True, text=True, check=False)
    assert passes.returncode == 0
    assert passes.stdout.startswith("The dump would succeed (1 process, 1 thread, ")
    assert subject.go() == ["ok"]


def test_what_cannot_even_be_stopped_is_told_with_the_rest(host: Host) -> None:
    """A debugger has it: that, and what can be seen of a running process."""
    subject = host.python(
        "import fcntl\nx = open('x', 'w')\nfcntl.flock(x, fcntl.LOCK_EX)\npause_for_dump()\nsay('ok')"
    )
    with traced(subject) as tracer:
        status, report = dry_run(host, subject)
    assert status == 1
    assert [one["option"] for one in report["obstacles"]] == ["--file-locks", None]
    assert f"traced by {tracer}" in report["obstacles"][1]["problem"]
    assert report["obstacles"][1]["remedy"] == "detach that debugger first"
    assert dry_run(host, subject, "-l")[0] == 0
    assert subject.go() == ["ok"]


def test_nobody_there(host: Host) -> None:
    done = subprocess.run(
        host.command("dump", "--dry-run", "--json", "-t", "4000000"), cwd=host.folder, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert [one["problem"] for one in json.loads(done.stdout)["obstacles"]] == ["no process has PID 4000000"]


def test_where_the_images_go_and_what_they_build_upon(host: Host) -> None:
    subject = host.python(
        "import fcntl\nx = open('x', 'w')\nfcntl.flock(x, fcntl.LOCK_EX)\npause_for_dump()\nsay('ok')"
    )
    status, report = dry_run(host, subject, "--prev-images-dir", "../nowhere")
    assert status == 1
    assert [one["option"] for one in report["obstacles"]] == ["--file-locks", None]
    assert "nowhere" in report["obstacles"][1]["problem"]
    first = host.folder / "first"
    first.mkdir()
    dumped = host.run("dump", "-t", str(subject.pid), "-D", str(first), "-l", "-R")
    assert dumped.ok, dumped
    assert dry_run(host, subject, "-l", "--prev-images-dir", "../first")[0] == 0
    assert subject.go() == ["ok"]


def test_killed_at_any_moment_it_leaves_the_tree_as_it_was(host: Host, service: socket.socket, tmp_path: Path) -> None:
    """Connections held, threads, a computation: after each of thirty murders all goes on."""
    subject = host.python(
        WITH_OPTION[2][0] + "\nimport threading\nthreading.Thread(target=wait_for_go).start()\nready()\nn = 0\n"
        "while not os.path.exists('go'): n += 1\nserver.send(b'ok')\nsay('ok')"
    )
    connection, _ = service.accept()
    connection.settimeout(DEADLINE)
    before = untouched(subject.pid, scratch_pages=False)
    words = host.command("dump", "--dry-run", "-t", str(subject.pid), "-D", str(host.images), "--tcp-established")
    chance = random.Random(4)
    for _ in range(30):
        run = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(chance.uniform(0.03, 0.2))
        run.send_signal(signal.SIGKILL)
        run.wait()
    status, report = dry_run(host, subject, "--tcp-established")
    assert (status, report["obstacles"]) == (0, [])
    assert untouched(subject.pid, scratch_pages=False) == before
    assert subject.go()[-1] == "ok"
    assert connection.recv(2) == b"ok"
