# SPDX-License-Identifier: GPL-2.0-only
"""What is in flight in pipes: duplicated without being consumed, put back packet by packet; images that lie."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pycriu.errors import ImageError
from pycriu.fds import fifo, inflight
from pycriu.fds.inflight import Content
from pycriu.fds.openfile import OpenFile
from pycriu.images import messages as m
from pycriu.images import store
from pycriu.log import Log
from pycriu.options import DumpOptions

DATA, PACKETS = "pipes-data.img", "pycriu-packets.img"


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe2(os.O_NONBLOCK)
    yield reader, writer
    os.close(reader)
    os.close(writer)


def test_a_look_takes_nothing(ends: tuple[int, int]) -> None:
    os.write(ends[1], b"one")
    os.write(ends[1], b"two")
    for _ in range(2):
        assert inflight.peek(ends[0], "it", packets=False) == Content(65536, b"onetwo", ())
    assert os.read(ends[0], 99) == b"onetwo"
    assert inflight.peek(ends[0], "it", packets=True) == Content(65536, b"", ())


def test_packets_there_and_back(ends: tuple[int, int]) -> None:
    content = Content(65536, b"onethree4", (3, 5, 1))
    inflight.fill(ends[1], content, "it")
    assert inflight.peek(ends[0], "it", packets=False) == content
    assert [os.read(ends[0], 99) for _ in range(3)] == [b"one", b"three", b"4"]
    os.write(ends[1], b"a")
    os.write(ends[1], b"b")
    assert os.read(ends[0], 9) == b"ab", "the writer is not in packet mode"


@pytest.mark.parametrize("content", [Content(4096, bytes(4097)), Content(4096, b"ab", (1, 1)), Content(1 << 31, b"")])
def test_more_than_a_pipe_can_hold(ends: tuple[int, int], content: Content) -> None:
    with pytest.raises(ImageError, match="it "):
        inflight.fill(ends[1], content, "it")


def read(folder: Path, data: list[tuple[Any, bytes]], rows: list[tuple[int, int]]) -> dict[int, Content]:
    with store.NewCheckpoint(str(folder)) as new:
        new.write(DATA, data)
        if rows:
            sizes = {number: [size for one, size in rows if one == number] for number, _ in rows}
            new.write(PACKETS, [m.pycriu_packets_entry(pipe_id=number, bytes=sizes[number]) for number in sizes])
        new.write("inventory.img", [m.inventory_entry(img_version=2)])
        new.commit()
    with store.ImagesDir(str(folder)) as images:
        return inflight.read(images, DATA, PACKETS)


def entry(number: int, data: bytes) -> tuple[Any, bytes]:
    return m.pipe_data_entry(pipe_id=number, bytes=len(data), size=4096), data


def test_images(tmp_path: Path) -> None:
    found = read(tmp_path, [entry(7, b"abc"), entry(8, b"de")], [(7, 1), (7, 2)])
    assert found == {7: Content(4096, b"abc", (1, 2)), 8: Content(4096, b"de", ())}


@pytest.mark.parametrize("rows", [[(7, 1)], [(7, 4)], [(7, 3), (7, 0)], [(7, (1 << 32) - 1)]])
def test_packets_that_lie(tmp_path: Path, rows: list[tuple[int, int]]) -> None:
    with pytest.raises(ImageError, match="packets of pipe 7"):
        read(tmp_path, [entry(7, b"abc")], rows)


def test_fifos_of_two_file_systems_with_one_inode_are_two(tmp_path: Path) -> None:
    """Those of two tmpfs often have the same: each has data of its own."""
    os.mkfifo(tmp_path / "fifo")
    fd = os.open(tmp_path / "fifo", os.O_RDWR)
    kind = fifo.Fifo(DumpOptions(1, str(tmp_path), str(tmp_path)), Log(2, 2, 0.0))
    files = []
    for device, inode in ((39, 2), (40, 2), (40, 3), (39, 2), (41, 1 << 32)):
        file = OpenFile(os.getpid(), fd)
        file.status = os.stat_result((file.status.st_mode, inode, device, *file.status[3:10]))
        files.append(file)
    os.close(fd)
    assert [kind.pipe_of(file) for file in files] == [2, 3, 4, 2, 1]
    assert [kind.pipe_of(file) for file in files] == [2, 3, 4, 2, 1], "the second time, too"
