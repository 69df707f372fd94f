# SPDX-License-Identifier: GPL-2.0-only
"""Deleted files: holes, images of them that lie, and that making them again overwrites nothing and leaves nothing."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from pycriu.errors import ImageError, Unsupported, UserError
from pycriu.fds import deleted, ghost
from pycriu.fds.openfile import no_owner
from pycriu.images import messages as m
from pycriu.images import store
from pycriu.options import DumpOptions


def reg(number: int, name: str, flags: int = os.O_RDWR) -> Any:
    return m.reg_file_entry(id=number, flags=flags, pos=0, fown=no_owner(), name=name)


def remap(orig: int, number: int, kind: int = ghost.GHOST) -> Any:
    return m.remap_file_path_entry(orig_id=orig, remap_id=number, remap_type=kind)


def ghost_entry(mode: int = 0o100600, **more: Any) -> Any:
    return m.ghost_file_entry(uid=os.getuid(), gid=os.getgid(), mode=mode, **more)


def chunk(offset: int, data: bytes) -> bytes:
    body = m.ghost_chunk_entry(len=len(data), off=offset).SerializeToString()
    return len(body).to_bytes(4, "little") + body + data


class Images:
    """A checkpoint with nothing but deleted files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def write(self, remaps: list[Any], ghosts: dict[int, Any]) -> None:
        with store.NewCheckpoint(str(self.folder)) as new:
            new.write("remap-fpath.img", remaps)
            for number, content in ghosts.items():
                new.write(f"ghost-file-{number:x}.img", [content])
            new.write("inventory.img", [m.inventory_entry(img_version=2)])
            new.commit()

    def opened(self, *regs: Any) -> list[int]:
        """Descriptors of the files, in order."""
        remaps = ghost.Remaps()
        with store.ImagesDir(str(self.folder)) as images:
            try:
                remaps.read(images, {one.id: one for one in regs})
                return [remaps.open(one.id) for one in regs if remaps.has(one.id)]
            finally:
                remaps.close()


@pytest.fixture
def images(tmp_path: Path) -> Images:
    return Images(tmp_path / "images")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


def test_extents(tmp_path: Path) -> None:
    with open(tmp_path / "f", "wb", buffering=0) as file:
        assert list(ghost.extents(file.fileno(), 0)) == []
        file.truncate(1 << 20)
        assert list(ghost.extents(file.fileno(), 1 << 20)) == []
        file.write(b"x")
        file.seek(1 << 19)
        file.write(b"y" * 4096)
        found = list(ghost.extents(file.fileno(), 1 << 20))
        assert found[0][0] == 0
        assert found[-1][0] <= 1 << 19 < sum(found[-1])


def test_two_who_share_a_deleted_file(images: Images, place: Path) -> None:
    path = place / "gone"
    images.write([remap(1, 7), remap(2, 7)], {7: (ghost_entry(0o100640), b"content")})
    one, two = images.opened(reg(1, str(path)), reg(2, str(path), os.O_RDONLY))
    status = os.fstat(one)
    assert (status.st_nlink, stat.S_IMODE(status.st_mode), status.st_size) == (0, 0o640, 7)
    assert os.fstat(two).st_ino == status.st_ino
    assert os.readlink(f"/proc/self/fd/{two}") == f"{path} (deleted)"
    assert os.read(two, 100) == b"content"
    os.write(one, b"C")
    assert os.pread(two, 2, 0) == b"Co"
    assert list(place.iterdir()) == []
    os.close(one)
    os.close(two)


def test_holes_and_times(images: Images, place: Path) -> None:
    when = m.timeval(tv_sec=1000, tv_usec=5)
    entry = ghost_entry(chunks=True, size=1 << 20, atim=when, mtim=when)
    images.write([remap(1, 1)], {1: (entry, chunk(1 << 18, b"abc") + chunk(1 << 19, b"de"))})
    (fd,) = images.opened(reg(1, str(place / "gone")))
    status = os.fstat(fd)
    assert (status.st_size, status.st_mtime_ns) == (1 << 20, 1000 * 10**9 + 5000)
    assert status.st_blocks * 512 < 1 << 18
    assert os.pread(fd, 3, 1 << 18) + os.pread(fd, 3, 1 << 19) == b"abcde\0"
    os.close(fd)


def test_directories_that_are_gone_too(images: Images, place: Path) -> None:
    images.write([remap(1, 1), remap(2, 2)], {1: ghost_entry(0o40750), 2: (ghost_entry(), b"x")})
    folder, file = place / "a" / "b", place / "a" / "b" / "c" / "f"
    one, two = images.opened(reg(1, str(folder), os.O_RDONLY | os.O_DIRECTORY), reg(2, str(file)))
    assert os.readlink(f"/proc/self/fd/{one}") == f"{folder} (deleted)"
    assert os.readlink(f"/proc/self/fd/{two}") == f"{file} (deleted)"
    assert stat.S_IMODE(os.fstat(one).st_mode) == 0o750
    assert list(place.iterdir()) == []
    os.close(one)
    os.close(two)


def test_symbolic_link_and_fifo(images: Images, place: Path) -> None:
    link, fifo = ghost_entry(0o120777, symlnk_target="nowhere"), ghost_entry(0o10600)
    images.write([remap(1, 1), remap(2, 2)], {1: link, 2: fifo})
    one, two = images.opened(reg(1, str(place / "l"), os.O_PATH | os.O_NOFOLLOW), reg(2, str(place / "p")))
    assert os.readlink("", dir_fd=one) == "nowhere"
    assert stat.S_ISFIFO(os.fstat(two).st_mode)
    assert list(place.iterdir()) == []
    os.close(one)
    os.close(two)


def test_file_without_a_name_gets_none(images: Images, place: Path) -> None:
    images.write([remap(1, 1), remap(2, 1)], {1: (ghost_entry(), b"x")})
    regs = reg(1, str(place / "#12"), os.O_TMPFILE | os.O_RDWR), reg(2, str(place / "#12"), os.O_RDONLY)
    try:
        one, two = images.opened(*regs)
    except UserError:
        pytest.skip("no O_TMPFILE on this file system")
    os.link(f"/proc/self/fd/{one}", place / "named", src_dir_fd=one)  # linkat(2), which follows
    assert (place / "named").read_bytes() == b"x" == os.read(two, 9)
    os.close(one)
    os.close(two)


def test_nothing_is_overwritten(images: Images, place: Path) -> None:
    path = place / "taken"
    path.write_text("theirs")
    images.write([remap(1, 1)], {1: (ghost_entry(), b"ours")})
    (fd,) = images.opened(reg(1, str(path)))
    assert os.read(fd, 9) == b"ours"
    assert path.read_text() == "theirs"
    assert [one.name for one in place.iterdir()] == ["taken"]
    os.close(fd)


def test_a_symbolic_link_in_its_place_is_not_followed(images: Images, place: Path) -> None:
    (place / "aim").write_text("theirs")
    (place / "link").symlink_to("aim")
    (place / "dangling").symlink_to("new")
    images.write([remap(1, 1), remap(2, 2)], {1: (ghost_entry(), b"ours"), 2: (ghost_entry(), b"ours")})
    for fd in images.opened(reg(1, str(place / "link")), reg(2, str(place / "dangling"))):
        os.close(fd)
    assert (place / "aim").read_text() == "theirs"
    assert sorted(one.name for one in place.iterdir()) == ["aim", "dangling", "link"]


def test_link_remap(images: Images, place: Path) -> None:
    kept, other = place / "link_remap.5", place / "other"
    other.write_text("content")
    os.link(other, kept)
    images.write([remap(1, 5, ghost.LINKED)], {})
    (fd,) = images.opened(reg(1, str(place / "gone")), reg(5, str(kept)))
    assert os.fstat(fd).st_ino == other.stat().st_ino
    assert os.readlink(f"/proc/self/fd/{fd}") == f"{place}/gone (deleted)"
    assert sorted(one.name for one in place.iterdir()) == ["link_remap.5", "other"]
    os.close(fd)


@pytest.mark.parametrize(
    ("remaps", "ghosts", "names", "words"),
    [
        ([remap(9, 1)], {1: ghost_entry()}, {1: "/x"}, "file 9 is unknown"),
        ([remap(1, 1), remap(1, 1)], {1: ghost_entry()}, {1: "/x"}, "named twice"),
        ([remap(1, 1)], {}, {1: "/x"}, "ghost-file-1.img"),
        ([remap(1, 1)], {1: ghost_entry()}, {1: "x"}, "not absolute"),
        ([remap(1, 1)], {1: ghost_entry()}, {1: "/tmp/../etc/x"}, "not plain"),
        ([remap(1, 1)], {1: ghost_entry()}, {1: "/tmp/"}, "not plain"),
        ([remap(1, 1)], {1: ghost_entry(0o20666)}, {1: "/x"}, "kind that is not known"),
        ([remap(1, 1)], {1: ghost_entry(0o120777)}, {1: "/x"}, "link to nowhere"),
        ([remap(1, 1)], {1: ghost_entry(chunks=True, size=1 << 63)}, {1: "/x"}, "bytes"),
        ([remap(1, 2, ghost.LINKED)], {}, {1: "/x"}, "file 2, which is not"),
        ([remap(1, 2, ghost.LINKED)], {}, {1: "/x", 2: "/etc/passwd"}, "no link that a dump has made"),
        ([remap(1, 2, ghost.LINKED)], {}, {1: "/x", 2: "/etc/link_remap.x"}, "no link that a dump has made"),
        ([remap(1, 2, ghost.PROCFS)], {}, {1: "/x"}, "process that has ended"),
    ],
)
def test_images_that_lie(
    images: Images, remaps: list[Any], ghosts: dict[int, Any], names: dict[int, str], words: str
) -> None:
    images.write(remaps, ghosts)
    with pytest.raises(ImageError, match=words):
        images.opened(*(reg(number, name) for number, name in names.items()))


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (chunk(60, b"abcdef"), "out of bounds"),
        (chunk(0, b"abc")[:-1], "out of bounds"),
        (chunk(0, b"abc") + b"\xff\xff\xff\xff", "no ghost_chunk_entry"),
        (b"\x01\0\0", "no ghost_chunk_entry"),
    ],
)
def test_chunks_that_lie(images: Images, place: Path, payload: bytes, words: str) -> None:
    images.write([remap(1, 1)], {1: (ghost_entry(chunks=True, size=64), payload)})
    with pytest.raises(ImageError, match=words):
        images.opened(reg(1, str(place / "gone")))
    assert list(place.iterdir()) == []


def test_attributes() -> None:
    some = [("user.a", b""), ("user.b", b"x" * 300)]
    assert ghost.attributes_of(ghost.own_entry(1, some)) == some
    assert ghost.attributes_of(ghost.own_entry(1, [])) == []


@pytest.mark.parametrize("name", ["abc", "security.selinux", "user.\0", "trusted.overlay.x"[:6]])
def test_attributes_that_lie(name: str) -> None:
    with pytest.raises(ImageError, match=r"pycriu-ghosts\.img"):
        ghost.attributes_of(ghost.own_entry(1, [(name, b"")]))


def test_failure_leaves_nothing(place: Path) -> None:
    """The second of two cannot be made: the first is gone again, and so are the directories made for both."""
    before = os.listdir("/proc/self/fd")
    plans = [
        deleted.Plan(str(place / "a" / "first"), stat.S_IFREG, ((1, os.O_RDWR),), ghost=1),
        deleted.Plan(str(place / "b" / ("n" * 300)), stat.S_IFREG, ((2, os.O_RDWR),), ghost=2),
    ]
    with pytest.raises(UserError, match="File name too long"):
        deleted.make(plans)
    assert list(place.iterdir()) == []
    assert os.listdir("/proc/self/fd") == before


def test_size_limit(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with open(path, "w+b") as file:
        file.write(bytes(range(256)) * 64)
        file.flush()
        path.unlink()
        status = os.fstat(file.fileno())
        ghost.inspect(f"{path} (deleted)", status, "it", DumpOptions(1, "/", "/", ghost_limit=16384))
        with pytest.raises(Unsupported, match="holds 16384 bytes, more than the limit of 16383") as refused:
            ghost.inspect(f"{path} (deleted)", status, "it", DumpOptions(1, "/", "/", ghost_limit=16383))
        assert "--ghost-limit 1M" in str(refused.value)
