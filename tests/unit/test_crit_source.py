# SPDX-License-Identifier: GPL-2.0-only
"""Where crit reads from: directories, archives of all kinds, and archives that mean harm."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pycriu.crit import cli, source
from pycriu.errors import ImageError, UserError
from pycriu.images import catalogue, magics, store
from pycriu.images import messages as m

NAMES = ["inventory.img", "pages-1.img", "pstree.img"]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A directory with three images, written as a dump writes them, and a log."""
    where = tmp_path / "checkpoint"
    where.mkdir()
    with store.NewCheckpoint(str(where)) as new:
        new.write("pstree.img", [m.pstree_entry(pid=7, ppid=0, pgid=7, sid=7, threads=[7])])
        new.write_raw("pages-1.img", b"x" * 8192)
        new.write("inventory.img", [m.inventory_entry(img_version=2)])
        new.commit()
    (where / "dump.log").write_text("done")
    return where


def pack(tree: Path, archive: Path, mode: str, prefix: str) -> Path:
    with tarfile.open(archive, mode) as tar:
        tar.add(tree, prefix)
    return archive


@pytest.mark.parametrize("prefix", [".", "checkpoint", "/deep/er/checkpoint"])
@pytest.mark.parametrize("mode", ["w:", "w:gz", "w:bz2", "w:xz"])
def test_an_archive_reads_as_the_directory_does(checkpoint: Path, tmp_path: Path, mode: str, prefix: str) -> None:
    archive = pack(checkpoint, tmp_path / "x.tar", mode, prefix)  # type: ignore[arg-type]
    with source.open_source(str(checkpoint)) as one, source.open_source(str(archive)) as other:
        for images in (one, other):
            assert images.names() == NAMES
            assert images.other_names() == ["dump.log"]
            assert images.inventory().img_version == 2
            assert images.read("pstree.img")[0].pid == 7  # type: ignore[attr-defined]
            assert images.size("pages-1.img") == 8192
            assert images.parent() is None
            assert images.exists("pstree.img")
            assert not images.exists("core-7.img")
            with pytest.raises(ImageError):
                images.raw("core-7.img")
            with images.raw("pages-1.img") as file:
                file.seek(8190)
                assert file.read(10) == b"xx"


def test_parents_are_found_in_directories_and_archives(checkpoint: Path, tmp_path: Path) -> None:
    child = tmp_path / "child"
    child.mkdir()
    for name in NAMES:
        (child / name).write_bytes((checkpoint / name).read_bytes())
    (child / "parent").symlink_to("../checkpoint")
    with tarfile.open(tmp_path / "both.tar", "w") as tar:
        tar.add(checkpoint, "checkpoint")
        tar.add(child, "child")
    for path in (child, tmp_path / "both.tar"):
        with source.open_source(str(path)) as images:
            chain = source.chain(images)
            assert [one.names() for one in chain] == [NAMES, NAMES]
            for one in chain[1:]:
                one.close()
    (child / "parent").unlink()
    (child / "parent").symlink_to("nowhere")
    with source.open_source(str(child)) as images, pytest.raises(ImageError, match="leads to no directory"):
        images.parent()


def test_a_circle_of_parents_ends(checkpoint: Path) -> None:
    (checkpoint / "parent").symlink_to(".")
    with source.open_source(str(checkpoint)) as images, pytest.raises(ImageError, match="circle"):
        source.chain(images)


def _member(name: str, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, io.BytesIO]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, io.BytesIO(data)


def _archive(tmp_path: Path, *members: tuple[tarfile.TarInfo, io.BytesIO]) -> str:
    with tarfile.open(tmp_path / "evil.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        for info, data in members:
            tar.addfile(info, data)
    return str(tmp_path / "evil.tar")


INVENTORY = b"\x16\x31\x31\x58\x02\0\0\0\x08\x02"


def test_links_and_devices_in_an_archive_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    path = _archive(
        tmp_path,
        _member("inventory.img", INVENTORY),
        _member("pstree.img", type=tarfile.SYMTYPE, linkname=str(tmp_path / "secret")),
        _member("files.img", type=tarfile.LNKTYPE, linkname="../../etc/passwd"),
        _member("seccomp.img", type=tarfile.CHRTYPE, devmajor=1, devminor=5),
        _member("fs-1.img", type=tarfile.LNKTYPE, linkname="inventory.img"),
        _member("../../core-1.img", b"x"),
        _member("parent", type=tarfile.SYMTYPE, linkname="/etc"),
    )
    with source.open_source(path) as images:
        for name in ("pstree.img", "files.img", "seccomp.img"):
            with pytest.raises(ImageError, match="not a regular file"):
                images.raw(name)
        with images.raw("fs-1.img") as file:
            assert file.read() == INVENTORY
        assert not images.exists("core-1.img")
        with pytest.raises(ImageError, match="no other folder"):
            images.parent()


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda data: b"", "empty file"),
        (lambda data: b"no archive at all" * 100, "neither a directory nor a tar archive"),
        (lambda data: _cut(gzip.compress(data)), "cannot be expanded"),
        (lambda data: b"\x1f\x8b" + bytes(100), "cannot be expanded"),
        (lambda data: b"\xfd7zXZ\0" + bytes(100), "cannot be expanded"),
        (lambda data: b"BZh9" + bytes(100), "cannot be expanded"),
    ],
)
def test_what_is_no_archive_is_refused(
    checkpoint: Path, tmp_path: Path, spoil: Callable[[bytes], bytes], words: str
) -> None:
    archive = pack(checkpoint, tmp_path / "x.tar", "w:", ".")
    archive.write_bytes(spoil(archive.read_bytes()))
    with pytest.raises(UserError, match=words):
        source.open_source(str(archive))


def test_an_archive_without_or_with_several_checkpoints_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint in this archive"):
        source.open_source(_archive(tmp_path, _member("a/pstree.img", b"")))
    with pytest.raises(UserError, match="several checkpoints"):
        source.open_source(_archive(tmp_path, _member("a/inventory.img"), _member("b/inventory.img")))
    with pytest.raises(UserError):
        source.open_source(str(tmp_path / "nothing"))


def test_a_false_size_of_a_member_is_refused(tmp_path: Path) -> None:
    path = Path(_archive(tmp_path, _member("inventory.img", INVENTORY), _member("pages-1.img", b"x" * 600)))
    data = bytearray(path.read_bytes())
    at = 1024 + 124  # the size field of the second member
    data[at : at + 12] = b"77777777777\0"
    data[1024 + 148 : 1024 + 156] = b" " * 8
    data[1024 + 148 : 1024 + 156] = b"%06o\0 " % sum(data[1024:1536])
    path.write_bytes(data)
    with pytest.raises(UserError, match="cut short"):
        source.open_source(str(path))


def test_every_magic_has_one_name() -> None:
    named = {kind.magic: magics.name_of(kind) for kind in catalogue.KINDS if kind.magic}
    assert len(set(named.values())) >= len(set(named)) - 1
    assert (named[0x58313116], named[0x44523722], named[0x55563928]) == ("INVENTORY", "EVENTFD_FILE", "MNTS")
    for name, kind in magics.BY_NAME.items():
        assert magics.BY_VALUE[kind.magic].message == kind.message, name


def test_the_command_tells_magic_and_count(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", str(checkpoint / "pstree.img")]) == 0
    assert json.loads(capsys.readouterr().out) == {"magic": "PSTREE", "count": 1}
    (checkpoint / "pstree.img").write_bytes(b"\x19\x43\x56\x54\1\2\3\4")
    assert cli.main(["info", str(checkpoint / "pstree.img")]) == 1
    assert "unknown magic 0x04030201" in capsys.readouterr().err
    assert cli.main(["info", str(checkpoint / "nothing.img")]) == 1


def test_the_module_runs_and_needs_nothing_of_the_engine(checkpoint: Path) -> None:
    code = (
        "import sys; from pycriu.crit import cli; cli.main(['info', sys.argv[1]]); "
        "print([n for n in sys.modules if n.startswith('pycriu.') and n.split('.')[1] not in "
        "('crit', 'images', 'errors', 'record', 'kernel', 'log')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(checkpoint / "pstree.img")], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    done = subprocess.run([sys.executable, "-m", "pycriu.crit"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "info" in done.stderr or "COMMAND" in done.stderr


def test_a_compression_that_this_python_lacks_is_named(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = pack(checkpoint, tmp_path / "x.tar", "w:xz", ".")  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "lzma", None)
    with pytest.raises(UserError, match="compressed with xz, which this Python cannot read"):
        source.open_source(str(archive))
    for module in ("compression.zstd", "backports.zstd", "pyzstd"):
        monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "x.tar.zst").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(100))
    with pytest.raises(UserError, match="compressed with zstd, which this Python cannot read"):
        source.open_source(str(tmp_path / "x.tar.zst"))


def test_every_command_does_with_the_modules_that_a_target_has() -> None:
    """Of Python's library; see recipes/python3.yaml."""
    code = (
        "import sys, importlib\n"
        "for name in 'bz2 lzma ssl _hashlib sqlite3 curses readline xml pydoc doctest unicodedata _uuid'.split():\n"
        "    sys.modules[name] = None\n"
        "from pycriu.crit import cli\n"
        "for module, _ in cli.COMMANDS.values():\n"
        "    importlib.import_module('pycriu.crit.' + module)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr


def test_what_has_no_end_is_no_image(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(store, "MAX_IMAGE", 1 << 16)
    assert cli.main(["decode", "-i", "/dev/zero"]) == 1
    assert "/dev/zero: more than 65536 bytes" in capsys.readouterr().err
    with open("/dev/zero") as endless:
        monkeypatch.setattr("sys.stdin", endless)
        assert cli.main(["decode"]) == 1
    assert "standard input: more than 65536 bytes" in capsys.readouterr().err
