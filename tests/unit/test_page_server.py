# SPDX-License-Identifier: GPL-2.0-only
"""The page server without a dump: what a client says, how late either side is, and what is left of it all."""

from __future__ import annotations

import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pycriu import log
from pycriu.errors import PycriuError, UserError
from pycriu.images import children
from pycriu.pageserver import wire
from pycriu.pageserver.server import Server

PAGE = bytes(4096)


@contextmanager
def serving(place: Server, late: int = 1) -> Iterator[socket.socket]:
    """The client's end of a connection to a server, which begins to read when so many bytes are there."""
    ours, its = socket.socketpair()
    failed: list[BaseException] = []

    def work() -> None:
        while 0 < len(its.recv(late, socket.MSG_PEEK)) < late:
            time.sleep(0.01)
        with wire.Link(its, "the client") as link:
            try:
                place.serve(link)
            except PycriuError as error:
                failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        with ours:
            yield ours
    finally:
        thread.join()
    if failed:
        raise failed[0]


def send_page(link: wire.Link, number: int) -> None:
    link.send(link.header(wire.OPEN2, wire.TASK, number))
    link.answer(wire.ANSWER_OPEN)
    link.send(link.header(wire.ADD_F, wire.TASK, number, 4096, 1, 4), PAGE)


def finish(link: wire.Link) -> None:
    link.send(link.header(wire.CLOSE, 0, 0))
    assert link.answer(wire.ANSWER_CLOSE, patient=True) == 0


def received(folder: Path, *numbers: int, parent: str | None = None) -> Path:
    """A set of images with one page of each of these processes."""
    folder.mkdir(exist_ok=True)
    with Server(str(folder), parent, log.Log()) as place, serving(place) as client:
        link = wire.Link(client, "the server", wire.SHORT)
        link.send(link.header(wire.PARENT, wire.TASK, numbers[0]))
        assert link.answer(wire.ANSWER_PARENT) == (parent is not None)
        for number in numbers:
            send_page(link, number)
        finish(link)
    return folder


@pytest.mark.parametrize("number", [7, 256, 70000])
def test_a_server_that_answers_late_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The client has taken it for one of CRIU 4.2 by then."""
    monkeypatch.setattr(wire, "PATIENCE", 0.1)
    with Server(str(tmp_path), None, log.Log()) as place, serving(place, wire.LONG.size) as client:
        link = wire.Link(client, "the server")
        assert not link.agree(number)
        assert link.form == wire.LONG
        send_page(link, number)
        finish(link)
    assert (tmp_path / f"pagemap-{number}.img").exists()


def test_work_between_two_words_may_take_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree that is copied before its pages are sent; a disk that takes its time."""
    monkeypatch.setattr(wire, "SILENCE", 0.1)
    with Server(str(tmp_path), None, log.Log()) as place, serving(place) as client:
        link = wire.Link(client, "the server", wire.SHORT)
        client.settimeout(30)
        link.send(link.header(wire.ADD_F, wire.TASK, 1, 4096, 1, 4) + PAGE)
        time.sleep(0.3)
        finish(link)
    ours, its = socket.socketpair()
    with wire.Link(its, "the server") as link, ours:
        threading.Timer(0.3, lambda: ours.send(bytes(4))).start()
        assert link.answer(wire.ANSWER_CLOSE, patient=True) == 0


def test_who_is_silent_in_the_middle_of_pages_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "SILENCE", 0.1)
    with (
        Server(str(tmp_path), None, log.Log()) as place,
        pytest.raises(wire.LinkError, match="silent"),
        serving(place) as client,
    ):
        link = wire.Link(client, "the server", wire.SHORT)
        client.settimeout(30)
        link.send(link.header(wire.ADD_F, wire.TASK, 1, 4096, 2, 4) + PAGE)
        assert client.recv(1) == b""
    assert not list(tmp_path.iterdir())


def test_a_set_that_builds_upon_another_says_so_once_it_is_there(tmp_path: Path) -> None:
    first = received(tmp_path / "first", 5)
    second = received(tmp_path / "second", 5, parent="../first")
    assert os.readlink(second / "parent") == "../first"
    assert [child for _, child in children.noted(str(first))] == [str(second)]


def test_nothing_is_left_of_what_was_sent_before(tmp_path: Path) -> None:
    """It would tell of the pages of others, which have the same names."""
    received(tmp_path, 5, 6)
    (tmp_path / "pycriu-punched.img").touch()
    (tmp_path / "core-7.img").touch()  # of a client that writes beside us
    received(tmp_path, 7)
    assert sorted(os.listdir(tmp_path)) == ["core-7.img", "pagemap-7.img", "pages-65537.img"]


@pytest.mark.parametrize("which", ["whole", "no parent", "nobody came"])
def test_what_is_refused_or_fails_changes_no_link(tmp_path: Path, which: str) -> None:
    first, other = received(tmp_path / "first", 5), received(tmp_path / "other", 5)
    second = received(tmp_path / "second", 5, parent="../first")
    if which == "whole":
        (second / "inventory.img").touch()
    if which == "no parent":
        (other / "pstree.img").touch()
    before = sorted(path.name for path in second.iterdir())
    with pytest.raises(PycriuError), Server(str(second), "../other", log.Log()) as place, serving(place):
        pass
    assert os.readlink(second / "parent") == "../first"
    assert sorted(path.name for path in second.iterdir()) == before
    assert not list(children.noted(str(other)))
    assert len(list(children.noted(str(first)))) == 1


def test_a_set_cannot_build_upon_itself(tmp_path: Path) -> None:
    received(tmp_path, 5)
    with pytest.raises(PycriuError), Server(str(tmp_path), ".", log.Log()):
        pass


def test_as_many_processes_as_descriptors_may_be_had(tmp_path: Path) -> None:
    """A process each; and a limit that cannot be raised is told of, as that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = max(map(int, os.listdir("/proc/self/fd"))) + 1
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 20, hard))
        received(tmp_path / "many", *range(1, 61))
        assert len(list((tmp_path / "many").glob("pages-*.img"))) == 60
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_disk_without_room_for_a_file_is_told(tmp_path: Path) -> None:
    with Server(str(tmp_path), None, log.Log()) as place:
        os.rmdir(tmp_path / ".pycriu-received")  # nothing can be made in it any more
        with pytest.raises(UserError, match="No such file"), serving(place) as client:
            link = wire.Link(client, "the server", wire.SHORT)
            link.send(link.header(wire.OPEN2, wire.TASK, 1))
            assert client.recv(1) == b""
