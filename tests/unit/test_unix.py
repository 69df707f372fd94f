# SPDX-License-Identifier: GPL-2.0-only
"""UNIX sockets: queues that are looked into, names that lead nowhere, and images that lie."""

from __future__ import annotations

import array
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from pycriu.errors import ImageError, UserError
from pycriu.fds import queues
from pycriu.fds.queues import Message, Queue
from pycriu.fds.unix import checked, making, naming
from pycriu.images import messages as m
from pycriu.images import own
from pycriu.images.store import ImagesDir, NewCheckpoint
from pycriu.log import Log


def queue(one: socket.socket, kind: int, waiting: int, *, ended: bool = False) -> Queue:
    return Queue(one.fileno(), kind, waiting, ended, "a socket")


def peeked(one: Queue) -> list[Message]:
    (found,) = queues.peek([one])
    queues.close_rights(found)
    return found


def pair(kind: int) -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, kind)


def test_datagrams_are_seen_one_by_one_and_stay() -> None:
    left, right = pair(socket.SOCK_DGRAM)
    with left, right:
        for text in (b"one", b"", b"x" * 100_000, b"four"):
            left.send(text)
        found = peeked(queue(right, socket.SOCK_DGRAM, 3))
        assert [message.data for message in found] == [b"one", b"", b"x" * 100_000, b"four"]
        assert right.getsockopt(socket.SOL_SOCKET, 42) == -1
        assert right.recv(10) == b"one"


def test_a_stream_is_cut_where_descriptors_come() -> None:
    left, right = pair(socket.SOCK_STREAM)
    with left, right, open("/dev/null") as null:
        left.send(b"abc")
        socket.send_fds(left, [b"def"], [null.fileno(), null.fileno()])
        left.send(b"ghi")
        found = peeked(queue(right, socket.SOCK_STREAM, 9))
        assert [(message.data, len(message.rights)) for message in found] == [(b"abc", 0), (b"def", 2), (b"ghi", 0)]
        data, fds, _, _ = socket.recv_fds(right, 100, 10)
        assert (data, len(fds)) == (b"abcdef", 2)
        for fd in fds:
            os.close(fd)


def test_who_looks_at_an_offset_keeps_it() -> None:
    left, right = pair(socket.SOCK_STREAM)
    with left, right:
        left.send(b"abcdef")
        right.setsockopt(socket.SOL_SOCKET, 42, 2)
        assert [message.data for message in peeked(queue(right, socket.SOCK_STREAM, 6))] == [b"abcdef"]
        assert right.recv(3, socket.MSG_PEEK) == b"cde"


def test_the_end_of_a_sequence_is_no_message() -> None:
    left, right = pair(socket.SOCK_SEQPACKET)
    with left, right:
        left.send(b"a")
        left.shutdown(socket.SHUT_WR)
        assert [message.data for message in peeked(queue(right, socket.SOCK_SEQPACKET, 1, ended=True))] == [b"a"]


def test_credentials_come_along() -> None:
    left, right = pair(socket.SOCK_STREAM)
    with left, right:
        right.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        left.send(b"me")
        (message,) = peeked(queue(right, socket.SOCK_STREAM, 2))
        assert message.credentials == (os.getpid(), os.getuid(), os.getgid())
        left.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0]))])


def test_the_note_of_a_queue_is_read_as_written() -> None:
    messages = [Message(b"a"), Message(b"b", b"\0who"), Message(b"c", b"", (1, 2, 3)), Message(b"d", b"x", (4, 5, 6))]
    assert queues.parse_note(queues.pack_note(messages)) == {
        1: (b"\0who", None), 2: (b"", (1, 2, 3)), 3: (b"x", (4, 5, 6)),
    }  # fmt: skip
    assert queues.pack_note([Message(b"a")]) == b""


@pytest.mark.parametrize("bad", ["00", "00000000ff0000", "00000000000001", "0000000001000041" * 2, "00000000000002"])
def test_a_note_that_cannot_be_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="b'"):
        queues.parse_note(bytes.fromhex(bad))


@pytest.mark.parametrize("text", ["/run/a/b.sock", "/run/../b.sock", "b.sock", "x/../b.sock", "../../b.sock"])
def test_a_name_whose_file_is_gone_is_the_same_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    if os.geteuid():
        pytest.skip("chroot(2) is for root")
    monkeypatch.setattr(naming, "_SOMEWHERE", (str(tmp_path),))
    here = os.getcwd()
    with socket.socket(socket.AF_UNIX) as one:
        fd = naming.bind(one.fileno(), naming.Name(text.encode(), "/", None, None))
        assert one.getsockname() == text
        one.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"/proc/self/fd/{fd}")
        os.close(fd)
    assert (os.listdir(tmp_path), os.getcwd()) == ([], here)


def test_a_file_that_was_renamed_has_its_new_name_and_its_mode(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("chroot(2) is for root")
    perms = m.file_perms_entry(mode=0o140641, uid=5, gid=6)
    where = str(tmp_path / "new")
    with socket.socket(socket.AF_UNIX) as one:
        os.close(naming.bind(one.fileno(), naming.Name(b"/somewhere/old", "/", where, perms)))
        assert one.getsockname() == "/somewhere/old"
        status = os.stat(where)
        assert (status.st_mode & 0o777, status.st_uid, status.st_gid) == (0o641, 5, 6)
        assert os.listdir(tmp_path) == ["new"]


def test_what_stands_in_the_way_of_a_name_is_told(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    name = naming.Name(path.encode(), "/", path, None)
    naming.refuse_taken([name])
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(path)
        with pytest.raises(UserError, match="another process"):
            naming.refuse_taken([name])
    naming.refuse_taken([name])
    os.unlink(path)
    Path(path).write_text("")
    with pytest.raises(UserError, match="another file"):
        naming.refuse_taken([name])
    with pytest.raises(UserError, match="directory"):
        naming.refuse_taken([naming.Name(b"/no/such/s", "/", "/no/such/s", None)])


# ---------------------------------------------------------------------------------------------------- hostile images


def entry(number: int, **changes: object) -> m.unix_sk_entry:
    made = checked.outside_entry(number, 100 + number, 1, b"").usk
    made.state, made.uflags = 1, 0
    for field, value in changes.items():
        setattr(made, field, value)
    return made


def maker(tmp_path: Path, entries: list[m.unix_sk_entry], notes: Any = None, packets: object = ()) -> making.Maker:
    with NewCheckpoint(str(tmp_path)) as new:
        new.write_any(checked.NOTES_IMAGE, own.socket_entries({1: notes or {}}))
        new.write("sk-queues.img", packets)  # type: ignore[arg-type]
        new.write("inventory.img", [m.inventory_entry(img_version=2)])
        new.commit()
    with ImagesDir(str(tmp_path)) as images:
        return making.Maker(images, entries, Log())


def test_a_pair_is_taken(tmp_path: Path) -> None:
    made = maker(tmp_path, [entry(1, peer=102), entry(2, peer=101)], {"peercred": b"\1" + bytes(11)})
    assert made.outside == set()


@pytest.mark.parametrize(
    "bad",
    [
        [entry(1, ino=0)],
        [entry(1), entry(2, ino=101)],
        [entry(1, type=3)],
        [entry(1, peer=999)],
        [entry(1, peer=101)],
        [entry(1, peer=102), entry(2)],
        [entry(1, peer=102), entry(2, peer=101, type=5)],
        [entry(1, peer=102), entry(2, state=10, uflags=1, name=b"/x\0")],
        [entry(1, state=10)],
        [entry(1, backlog=1 << 31)],
        [entry(1, name=b"x" * 109)],
        [entry(1, name=b"a\0b\0")],
        [entry(1, name=b"rel\0", name_dir="not/absolute")],
    ],
)
def test_sockets_that_cannot_be_are_refused(tmp_path: Path, bad: list[m.unix_sk_entry]) -> None:
    with pytest.raises(ImageError):
        maker(tmp_path, bad)


@pytest.mark.parametrize(
    "notes",
    [{"peercred": b"\0"}, {"reset": b"\0"}, {"pending": b"\1\2"}, {"peergroups": b"\1"}, {"queue": b"\0"},
     {"owner": b"\1"}, {"queue": b"\5" + bytes(6)}, {"where": b"ab"}, {"unheard": b"\0"}, {"peername": b"a" * 109}],
)  # fmt: skip
def test_notes_that_cannot_be_are_refused(tmp_path: Path, notes: dict[str, bytes]) -> None:
    with pytest.raises(ImageError):
        maker(tmp_path, [entry(1, name=b"/x\0", deleted=True)], notes)


@pytest.mark.parametrize(
    "packet",
    [
        m.sk_packet_entry(id_for=9, length=1),
        m.sk_packet_entry(id_for=1, length=1, scm=[m.scm_entry(type=2)]),
        m.sk_packet_entry(id_for=1, length=1, scm=[m.scm_entry(type=1, rights=range(254))]),
    ],
)
def test_messages_that_cannot_be_are_refused(tmp_path: Path, packet: m.sk_packet_entry) -> None:
    with pytest.raises(ImageError):
        maker(tmp_path, [entry(1)], b"", [(packet, b"x")])


def test_an_offset_is_put_back_if_who_looks_is_killed() -> None:
    left, right = pair(socket.SOCK_DGRAM)
    with left, right:
        pid = os.fork()
        if not pid:
            with queues.guarded([right.fileno()]):
                right.setsockopt(socket.SOL_SOCKET, 42, 7)
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(pid, 0)
        end = time.monotonic() + 10
        while right.getsockopt(socket.SOL_SOCKET, 42) != -1:
            assert time.monotonic() < end
            time.sleep(0.001)
