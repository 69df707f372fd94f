# SPDX-License-Identifier: GPL-2.0-only
"""Clients that mean ill: what is no request, too large a one, going away at any moment, two at once.

After each: the tree that was asked for is as it was, or dumped whole; no worker is left.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import socket
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from pycriu import rpc
from pycriu.images import messages as m
from tests.host import rpc as shared
from tests.host.conftest import alive, reap, state, traces, wait_until
from tests.host.rpc import LARGE, SUBJECT, Service, ask, request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.host.conftest import Subject

images, service = shared.images, shared.service

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
    """A dump under way, with the subject stopped; the connection and the PID of the worker, which goes on with SIGCONT.

    Whoever looks may be late, and the dump be done: then another one is made.
    """
    while True:
        with service.connect() as connection:
            connection.send(request(rpc.DUMP, images, subject.pid, leave_running=True).SerializeToString())
            wait_until(lambda: state(subject.pid) == "t" or not service.workers(), "the subject is stopped")
            for worker in service.workers():
                os.kill(worker, signal.SIGSTOP)
                wait_until(lambda worker=worker: state(worker) in "TZX", "the worker stands")  # type: ignore[misc]
            if state(subject.pid) == "t" and not list(service.host.images.glob("*.img")):
                yield connection, worker
                return
            for worker in service.workers():
                os.kill(worker, signal.SIGCONT)
            assert m.criu_resp.FromString(connection.recv(1 << 16)).success
        for path in service.host.images.iterdir():
            path.unlink()


def test_a_worker_that_is_told_to_end_undoes_what_it_has_begun(service: Service, images: int) -> None:
    subject = service.host.python(LARGE)
    before = traces(subject.pid)
    with worker_of(service, subject, images) as (connection, worker):
        os.kill(worker, signal.SIGTERM)
        os.kill(worker, signal.SIGCONT)
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
        first = request(rpc.DUMP, images, subjects[0].pid, leave_running=True, log_file="1", notify_scripts=True)
        one.send(first.SerializeToString())
        ack = m.criu_req(type=rpc.NOTIFY, notify_success=True).SerializeToString()
        for stage in ("pre-dump", "post-dump"):  # at the last, the first dump waits, and has the directory
            assert m.criu_resp.FromString(one.recv(1 << 16)).notify.script == stage
            if stage == "post-dump":
                answer = ask(two, request(rpc.DUMP, images, subjects[0].pid, leave_running=True, log_file="2"))
            one.send(ack)
        assert not answer.success
        assert "is at work in this directory" in answer.cr_errmsg
        assert m.criu_resp.FromString(one.recv(1 << 16)).success
    assert subjects[0].go() == [f"memory {256 << 20}"]
