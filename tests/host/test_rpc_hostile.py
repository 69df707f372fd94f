# SPDX-License-Identifier: GPL-2.0-only
"""Clients that mean ill: what is no request, too large a one, going away at any moment, other people's processes.

After each: the tree that was asked for is as it was, or dumped whole; no worker is left.
"""

from __future__ import annotations

import errno
import os
import random
import socket
import stat
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pycriu import rpc
from pycriu.images import messages as m
from tests import clients
from tests.host.conftest import DEADLINE, alive, reap, state, traces, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.host.conftest import Host, Subject

SUBJECT = """
memory = bytearray(os.urandom(1 << 20))
copy = bytes(memory)
pause_for_dump()
say("memory", memory == copy)
"""
LARGE = """
memory = mmap.mmap(-1, 256 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, len(memory), 1 << 20): memory[at : at + (1 << 20)] = os.urandom(1 << 12) * 256
pause_for_dump()
say("memory", len(memory))
"""
USER, OTHER = 4711, 4712


class Service:
    """A service that runs in the foreground, below this test."""

    def __init__(self, host: Host) -> None:
        self.host, self.path = host, host.folder / "service.socket"
        words = ["service", "--address", str(self.path), "-v4", "-o", "service.log", "-W", str(host.folder)]
        self.process = subprocess.Popen([clients.criu(host.folder), *words], stdin=subprocess.DEVNULL)
        wait_until(lambda: "Waiting for a connection" in self.log(), "the service listens")

    def log(self) -> str:
        path = self.host.folder / "service.log"
        return path.read_text() if path.exists() else ""

    def workers(self) -> list[int]:
        return [
            int(pid) for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        ]

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.settimeout(DEADLINE)
        connection.connect(str(self.path))
        return connection

    def idle(self) -> None:
        """Every worker is gone, and the service still serves."""
        wait_until(lambda: not self.workers(), f"the workers are gone: {self.workers()}")
        with self.connect() as connection:
            assert ask(connection, m.criu_req(type=rpc.VERSION)).success


@pytest.fixture
def service(host: Host) -> Iterator[Service]:
    served = Service(host)
    yield served
    served.idle()
    assert "bug of pycriu" not in served.log()
    served.process.terminate()
    assert served.process.wait(DEADLINE) == 0
    assert not served.path.exists()


def ask(connection: socket.socket, request: m.criu_req) -> m.criu_resp:
    connection.send(request.SerializeToString())
    return m.criu_resp.FromString(connection.recv(1 << 16))


def request(kind: int, images: int, pid: int = 0, **more: object) -> m.criu_req:
    opts = m.criu_opts(images_dir_fd=images, log_level=4, **more)  # type: ignore[arg-type]
    if pid:
        opts.pid = pid
    return m.criu_req(type=kind, opts=opts)


@pytest.fixture
def images(host: Host) -> Iterator[int]:
    """A descriptor of the directory of images."""
    fd = os.open(host.images, os.O_DIRECTORY)
    yield fd
    os.close(fd)


# ------------------------------------------------------------------------------------------------------- no requests


@pytest.mark.parametrize(
    "packet",
    [
        b"\0",
        b"\xff" * 100,
        b"\x08\x63",  # a type that there is not
        b"\x12\x00",  # options, but no type
        m.criu_req(type=rpc.DUMP).SerializeToString(),  # no directory
        m.criu_req(type=rpc.EMPTY).SerializeToString(),
        m.criu_req(type=rpc.NOTIFY, notify_success=True).SerializeToString(),
        m.criu_req(type=rpc.VERSION).SerializeToString() + b"\xf8\x07\x01",  # a field that there is not
        m.criu_req(type=rpc.DUMP, keep_open=True).SerializeToString(),
    ],
)
def test_what_is_no_request_is_answered_and_ends_the_connection(service: Service, packet: bytes) -> None:
    with service.connect() as connection:
        connection.send(packet)
        answer = m.criu_resp.FromString(connection.recv(1 << 16))
        assert not answer.success
        assert answer.cr_errno == errno.EBADRQC
        assert answer.cr_errmsg
        assert connection.recv(1) == b""


def test_noise_is_answered_every_time(service: Service) -> None:
    random.seed(20261121)
    whole = request(rpc.DUMP, 3, 1, external=["a"], root="/x").SerializeToString()
    for _ in range(60):
        packet = bytearray(whole)
        for _ in range(random.randint(1, 6)):
            packet[random.randrange(len(packet))] = random.randrange(256)
        with service.connect() as connection:
            connection.send(packet[: random.randint(1, len(packet))])
            answer = connection.recv(1 << 16)
        assert not answer or not m.criu_resp.FromString(answer).success or answer[1] == rpc.CHECK


def test_sizes(service: Service) -> None:
    """A packet may be as large as the buffer of a socket; root can make that large."""
    with service.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, 32, 8 << 20)  # SO_SNDBUFFORCE
        connection.send(bytes(3 << 20))
        answer = m.criu_resp.FromString(connection.recv(1 << 16))
        assert "3145728 bytes" in answer.cr_errmsg
    many = request(rpc.DUMP, 3, 1, external=["x" * 1000] * 900).SerializeToString()
    with service.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, 32, 8 << 20)
        connection.send(many)
        assert not m.criu_resp.FromString(connection.recv(1 << 16)).success


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"root": "a\0b"}, "zero byte"),
        ({"log_file": ".."}, "log_file"),
        ({"log_file": "a/b"}, "log_file"),
        ({"log_file": "x" * 300}, "log_file"),
        ({"log_file": "fifo"}, "log_file"),
        ({"log_file": "link"}, "log_file"),
        ({"timeout": 0}, "timeout"),
        ({"work_dir_fd": 0}, "work_dir_fd 0 is not a directory"),
        ({"work_dir_fd": 1 << 30}, "work_dir_fd"),
        ({"work_dir_fd": -5}, "work_dir_fd"),
    ],
)
def test_values_that_mean_ill(service: Service, images: int, more: dict[str, object], said: str) -> None:
    os.mkfifo(service.host.images / "fifo")
    (service.host.folder / "precious").write_text("precious")
    (service.host.images / "link").symlink_to(service.host.folder / "precious")
    subject = service.host.python(SUBJECT)
    with service.connect() as connection:
        answer = ask(connection, request(rpc.DUMP, images, subject.pid, **more))
    assert (answer.success, answer.cr_errno) == (False, errno.EBADRQC)
    assert said in answer.cr_errmsg
    assert (service.host.folder / "precious").read_text() == "precious"
    assert subject.go() == ["memory True"]


def test_a_string_that_is_not_utf_8(service: Service, images: int) -> None:
    packet = request(rpc.DUMP, images, 1, root="abcd").SerializeToString().replace(b"abcd", b"\xff\xfe\xfd\xfc")
    with service.connect() as connection:
        connection.send(packet)
        assert m.criu_resp.FromString(connection.recv(1 << 16)).cr_errno == errno.EBADRQC


def test_negative_and_impossible_pids(service: Service, images: int) -> None:
    for pid in (-1, -(1 << 31), (1 << 31) - 1):
        with service.connect() as connection:
            assert not ask(connection, request(rpc.DUMP, images, pid)).success
    for pid in (0, 1, (1 << 32) - 1):
        with service.connect() as connection:
            assert not ask(connection, m.criu_req(type=rpc.WAIT_PID, pid=pid)).success


# --------------------------------------------------------------------------------------------------------- going away


@pytest.mark.parametrize("what", ["nothing", "half", "whole"])
def test_who_connects_and_goes(service: Service, what: str) -> None:
    with service.connect() as connection:
        if what != "nothing":
            packet = m.criu_req(type=rpc.CHECK).SerializeToString()
            connection.send(packet[:1] if what == "half" else packet)


@pytest.mark.parametrize("after", [0.0, 0.02, 0.05, 0.1, 0.2, 0.4])
def test_a_client_that_goes_during_a_dump(service: Service, images: int, after: float) -> None:
    """What was asked for is done, and done whole: nobody can tell how far it is."""
    subject = service.host.python(LARGE)
    with service.connect() as connection:
        connection.send(request(rpc.DUMP, images, subject.pid).SerializeToString())
        connection.settimeout(after or 0.001)
        with suppress(TimeoutError):
            connection.recv(1, socket.MSG_PEEK)
    wait_until(lambda: not service.workers(), "the worker is gone")
    wait_until(lambda: not alive(subject.pid), "the dump is done")
    reap(subject.pid)
    restored = service.host.restore()
    assert restored.ok, restored
    assert subject.go() == [f"memory {256 << 20}"]


@contextmanager
def worker_of(service: Service, subject: Subject, images: int) -> Iterator[tuple[socket.socket, int]]:
    """A dump under way, which has just stopped the subject; the connection and the PID of the worker."""
    with service.connect() as connection:
        connection.send(request(rpc.DUMP, images, subject.pid).SerializeToString())
        wait_until(lambda: state(subject.pid) == "t" or not alive(subject.pid), "the subject is stopped")
        yield connection, service.workers()[0]


def test_a_worker_that_is_told_to_end_undoes_what_it_has_begun(service: Service, images: int) -> None:
    subject = service.host.python(LARGE)
    before = traces(subject.pid)
    with worker_of(service, subject, images) as (connection, worker):
        os.kill(worker, 15)
        answer = m.criu_resp.FromString(connection.recv(1 << 16))
    assert not answer.success
    assert "interrupted by signal 15" in answer.cr_errmsg
    assert traces(subject.pid) == before
    assert os.listdir(service.host.images) == ["criu.log"]
    assert subject.go() == [f"memory {256 << 20}"]


def test_a_worker_that_is_killed_leaves_the_tree(service: Service, images: int) -> None:
    subject = service.host.python(LARGE)
    with worker_of(service, subject, images) as (connection, worker):
        os.kill(worker, 9)
        with pytest.raises((ConnectionError, AssertionError)):
            assert connection.recv(1)
    assert subject.go() == [f"memory {256 << 20}"]


def test_a_client_that_never_answers_keeps_nobody_else(service: Service, images: int) -> None:
    """At pre-dump nothing is stopped yet; when it goes, the dump is off."""
    subject = service.host.python(SUBJECT)
    with service.connect() as connection:
        connection.send(request(rpc.DUMP, images, subject.pid, notify_scripts=True).SerializeToString())
        assert m.criu_resp.FromString(connection.recv(1 << 16)).notify.script == "pre-dump"
        assert state(subject.pid) in ("S", "R")
        with service.connect() as other:
            assert ask(other, m.criu_req(type=rpc.VERSION)).success
    assert subject.go() == ["memory True"]


def test_a_client_that_never_answers_runs_out_of_time(service: Service, images: int) -> None:
    """The tree stands still for as long as the client thinks, but not for longer than it has asked for."""
    subject = service.host.python(SUBJECT)
    with service.connect() as connection:
        connection.send(request(rpc.DUMP, images, subject.pid, notify_scripts=True, timeout=1).SerializeToString())
        ack = m.criu_req(type=rpc.NOTIFY, notify_success=True).SerializeToString()
        assert m.criu_resp.FromString(connection.recv(1 << 16)).notify.script == "pre-dump"
        connection.send(ack)
        assert m.criu_resp.FromString(connection.recv(1 << 16)).notify.script == "post-dump"
        answer = m.criu_resp.FromString(connection.recv(1 << 16))
    assert (answer.type, answer.success) == (rpc.DUMP, False)
    assert "the time of --timeout is over" in answer.cr_errmsg
    assert subject.go() == ["memory True"]


def test_another_request_is_no_answer(service: Service, images: int) -> None:
    subject = service.host.python(SUBJECT)
    with service.connect() as connection:
        connection.send(request(rpc.DUMP, images, subject.pid, notify_scripts=True).SerializeToString())
        connection.recv(1 << 16)
        answer = ask(connection, m.criu_req(type=rpc.VERSION))
    assert (answer.type, answer.success) == (rpc.DUMP, False)
    assert "instead of an answer" in answer.cr_errmsg
    assert subject.go() == ["memory True"]


def test_a_client_that_does_not_read(service: Service) -> None:
    """The worker does not serve for ever whoever does not listen; others are served meanwhile."""
    packet = m.criu_req(type=rpc.VERSION, keep_open=True).SerializeToString()
    with service.connect() as deaf:
        deaf.settimeout(0.3)
        with pytest.raises(TimeoutError):
            for _ in range(100000):
                deaf.send(packet)
        with service.connect() as other:
            assert ask(other, m.criu_req(type=rpc.VERSION)).success


# ---------------------------------------------------------------------------------------------------------- two at once


def test_two_clients_want_the_same_process(service: Service, images: int) -> None:
    """One gets it; the other is told."""
    subject = service.host.python(LARGE)
    second = service.host.folder / "second"
    second.mkdir()
    other = os.open(second, os.O_DIRECTORY)
    with service.connect() as one, service.connect() as two:
        one.send(request(rpc.DUMP, images, subject.pid, leave_running=True).SerializeToString())
        two.send(request(rpc.DUMP, other, subject.pid, leave_running=True).SerializeToString())
        answers = [m.criu_resp.FromString(connection.recv(1 << 16)) for connection in (one, two)]
    os.close(other)
    assert any(answer.success for answer in answers)
    for answer, folder in zip(answers, (service.host.images, second), strict=True):
        assert (folder / "inventory.img").exists() == answer.success, answer.cr_errmsg
    assert subject.go() == [f"memory {256 << 20}"]


def test_two_clients_want_the_same_directory(service: Service, images: int) -> None:
    subjects = [service.host.python(LARGE)]
    folder = service.host.folder / "more"
    folder.mkdir()
    with service.connect() as one, service.connect() as two:
        one.send(request(rpc.DUMP, images, subjects[0].pid, leave_running=True, log_file="1").SerializeToString())
        wait_until(lambda: state(subjects[0].pid) == "t", "the first dump is under way")
        answer = ask(two, request(rpc.DUMP, images, subjects[0].pid, leave_running=True, log_file="2"))
        assert not answer.success
        assert m.criu_resp.FromString(one.recv(1 << 16)).success
    assert subjects[0].go() == [f"memory {256 << 20}"]


# ------------------------------------------------------------------------------------------------------- other people

# A client with another user id: connects, sends what is on its standard input, and prints the answer in hexadecimal.
AS_USER = """
import os, socket, sys
os.setgroups([]); os.setresgid(*[{group}] * 3); os.setresuid(*[{user}] * 3)
images = os.open({images!r}, os.O_DIRECTORY) if {images!r} else -1
connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
connection.connect({path!r})
connection.send(bytes.fromhex({packet!r}).replace(b"\\x08\\x63", bytes([8, images])))
print(connection.recv(1 << 16).hex())
"""


def ask_as(service: Service, user: int, asked: m.criu_req, images: Path) -> m.criu_resp:
    """What a user is answered. `images` is opened by that user; 99 stands for its descriptor."""
    packet = asked.SerializeToString().hex()
    code = AS_USER.format(user=user, group=user, images=str(images), path=str(service.path), packet=packet)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    return m.criu_resp.FromString(bytes.fromhex(done.stdout.strip()))


def as_user(user: int, group: int | None = None) -> str:
    """What a subject does to be a user's."""
    ids = f"os.setgroups([]); os.setresgid(*[{group or user}] * 3); os.setresuid(*[{user}] * 3)"
    return f"{ids}; libc.prctl(4, 1, 0, 0, 0)\nmemory = b'x'\npause_for_dump()\nsay('memory', memory)\n"


@pytest.fixture
def theirs(service: Service) -> Path:
    """A directory that belongs to the user, and a way to it."""
    for folder in service.host.folder.parents:
        if folder != Path("/") and not stat.S_IMODE(folder.stat().st_mode) & stat.S_IXOTH:
            folder.chmod(folder.stat().st_mode | stat.S_IXOTH)
    service.host.folder.chmod(0o755)
    folder = service.host.folder / "theirs"
    folder.mkdir()
    os.chown(folder, USER, USER)
    (service.host.folder / "out").touch()
    return folder


def test_a_user_has_an_own_process_dumped(service: Service, theirs: Path) -> None:
    subject = service.host.python(as_user(USER))
    answer = ask_as(service, USER, request(rpc.DUMP, 99, subject.pid, leave_running=True), theirs)
    assert answer.success, answer.cr_errmsg
    assert (theirs / "inventory.img").exists()
    assert (theirs / "criu.log").stat().st_uid == USER
    restored = service.host.folder / "restored"
    restored.mkdir()
    assert subject.go() == ["memory b'x'"]


@pytest.mark.parametrize(
    "whose",
    [
        "pause_for_dump()\nsay('on')\n",  # root's
        as_user(OTHER),
        as_user(USER, OTHER),  # another group
        f"os.setresuid({USER}, {USER}, 0)\npause_for_dump()\n",  # could become root again
        as_user(USER).replace("prctl(4, 1", "prctl(4, 0"),  # does not let itself be traced
        as_user(USER).replace(
            "os.setgroups", "child = os.fork()\nif not child: time.sleep(60)\nos.setgroups"
        ),  # with a child that is root's
    ],
    ids=["root", "other", "group", "saved", "undumpable", "child"],
)
def test_a_user_gets_nobody_elses(service: Service, theirs: Path, whose: str) -> None:
    subject = service.host.python(whose)
    before = traces(subject.pid)
    answer = ask_as(service, USER, request(rpc.DUMP, 99, subject.pid), theirs)
    assert (answer.success, answer.cr_errno) == (False, errno.EPERM), answer.cr_errmsg
    assert traces(subject.pid) == before
    assert os.listdir(theirs) == ["criu.log"]


@pytest.mark.parametrize(
    ("asked", "number"),
    [
        (request(rpc.RESTORE, 99), errno.EPERM),
        (request(rpc.PAGE_SERVER, 99), errno.EPERM),
        (request(rpc.CPUINFO_DUMP, 99), errno.EPERM),
        (request(rpc.DUMP, 99, config_file="/etc/shadow"), errno.EBADRQC),
        (request(rpc.DUMP, -1, images_dir="/etc"), errno.EBADRQC),
        (request(rpc.DUMP, -1, images_dir="/root"), errno.EBADRQC),
        (request(rpc.DUMP, 99, work_dir_fd=0), errno.EBADRQC),
        (request(rpc.DUMP, 99, parent_img="../../secret"), errno.EBADRQC),
        (request(rpc.DUMP, 99, link_remap=True), errno.EBADRQC),
    ],
)
def test_a_user_does_not_get_what_only_root_may_ask_for(
    service: Service, theirs: Path, asked: m.criu_req, number: int
) -> None:
    if asked.opts.pid == 0 and asked.type == rpc.DUMP:
        asked.opts.pid = service.host.python(as_user(USER)).pid
    answer = ask_as(service, USER, asked, theirs)
    assert (answer.success, answer.cr_errno) == (False, number), answer.cr_errmsg
    assert "root:x" not in answer.cr_errmsg


def test_a_user_cannot_have_other_peoples_files_written(service: Service, theirs: Path) -> None:
    """By a directory of root's, by a link in an own one, by a file of root's that lies there."""
    subject = service.host.python(as_user(USER))
    precious = service.host.folder / "precious"
    precious.write_text("precious")
    (theirs / "link").symlink_to(precious)
    os.link(precious, theirs / "hard")
    (theirs / "stats-dump.tmp").symlink_to(precious)
    for folder, log in ((service.host.images, "x"), (theirs, "link"), (theirs, "hard")):
        answer = ask_as(service, USER, request(rpc.DUMP, 99, subject.pid, leave_running=True, log_file=log), folder)
        assert (answer.success, answer.cr_errno) == (False, errno.EBADRQC), answer.cr_errmsg
    answer = ask_as(service, USER, request(rpc.DUMP, 99, subject.pid, leave_running=True), theirs)
    assert answer.success, answer.cr_errmsg
    assert precious.read_text() == "precious"
    assert subject.go() == ["memory b'x'"]


def test_a_user_may_have_so_many_connections(service: Service, theirs: Path) -> None:
    code = f"""
import os, socket
os.setgroups([]); os.setresgid(*[{USER}] * 3); os.setresuid(*[{USER}] * 3)
open_ones = []
for _ in range(24):
    one = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    one.connect({str(service.path)!r})
    one.settimeout(0.5)
    open_ones.append(one)
closed = 0
for one in open_ones:
    try:
        closed += one.recv(1) == b""
    except TimeoutError:
        pass
print(closed)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, cwd="/")
    assert done.stdout == "8\n"


# --------------------------------------------------------------------------------------------------------- the command


def swrk(host: Host, *words: str, pass_fds: tuple[int, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [clients.criu(host.folder), "swrk", *words],
        capture_output=True, text=True, timeout=DEADLINE, check=False, pass_fds=pass_fds, cwd=host.folder,
    )  # fmt: skip


@pytest.mark.parametrize("words", [(), ("x",), ("-1",), ("987",), ("99999999999",), ("0",)])
def test_swrk_wants_a_socket(host: Host, words: tuple[str, ...]) -> None:
    done = swrk(host, *words)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "swrk needs" in done.stderr or "descriptor" in done.stderr or "unknown option" in done.stderr


def test_swrk_wants_one_of_the_right_type(host: Host) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as wrong:
        done = swrk(host, str(wrong.fileno()), pass_fds=(wrong.fileno(),))
    assert done.returncode == 1
    assert "SOCK_SEQPACKET" in done.stderr


@pytest.mark.parametrize(
    ("packet", "status"),
    [
        (b"", 255),
        (b"\xff", 255),
        (m.criu_req(type=rpc.CHECK).SerializeToString(), 0),
        (m.criu_req(type=rpc.VERSION, keep_open=True).SerializeToString(), 255),
        (m.criu_req(type=rpc.DUMP).SerializeToString(), 1),
        (m.criu_req(type=rpc.RESTORE).SerializeToString(), 1),
        (m.criu_req(type=rpc.WAIT_PID, pid=1).SerializeToString(), 0),
    ],
)
def test_exit_statuses_are_those_of_criu(host: Host, packet: bytes, status: int) -> None:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, its:
        if packet:
            ours.send(packet)
        ours.shutdown(socket.SHUT_WR)
        assert swrk(host, str(its.fileno()), pass_fds=(its.fileno(),)).returncode == status


def test_an_address_is_not_taken_from_others(host: Host) -> None:
    """A file that is no socket, a service that listens; one that has been killed leaves its socket to the next."""
    program = clients.criu(host.folder)

    def start(path: Path) -> subprocess.CompletedProcess[str]:
        words = [program, "service", "--address", str(path)]
        return subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE, check=False)

    (host.folder / "file").write_text("precious")
    assert "is no socket" in start(host.folder / "file").stderr
    assert (host.folder / "file").read_text() == "precious"
    first = Service(host)
    assert "listens there already" in start(first.path).stderr
    first.process.kill()
    first.process.wait()
    assert first.path.exists()
    (host.folder / "service.log").unlink()
    second = Service(host)
    second.idle()
    second.process.terminate()
    assert second.process.wait(DEADLINE) == 0
