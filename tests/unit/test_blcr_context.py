# SPDX-License-Identifier: GPL-2.0-only
"""BLCR's commands without a process: names of contexts, archives, relocation."""

from __future__ import annotations

import errno
import io
import os
import stat
import tarfile
from pathlib import Path
from typing import IO

import pytest

from pycriu.blcr import archive, changes, context, options
from pycriu.blcr.codes import Failure
from pycriu.blcr.options import CHECKPOINT
from pycriu.blcr.workplace import Workplace
from pycriu.edits import rules
from pycriu.errors import ImageError, UserError

# ------------------------------------------------------------------------------------------------------------ contexts


def test_backups_are_numbered_above_the_highest(tmp_path: Path) -> None:
    path = str(tmp_path / "context.7")
    assert context.next_backup(path) == f"{path}.~1~"
    for name in ("context.7.~3~", "context.7.~x~", "context.7.~9", "context.77.~8~", "context.7.~-1~"):
        (tmp_path / name).touch()
    assert context.next_backup(path) == f"{path}.~4~"


def put(where: context.Destination, content: bytes = b"new") -> None:
    with where:
        where.store(lambda out: out.write(content) and None)


@pytest.mark.parametrize(
    ("words", "left"),
    [
        ([], {"c": b"new"}),
        (["--backup"], {"c": b"new", "c.~1~": b"old"}),
        (["--backup=kept"], {"c": b"new", "kept": b"old"}),
        (["--clobber"], {"c": b"new"}),
        (["--nosync"], {"c": b"new"}),
    ],
)
def test_what_becomes_of_an_old_context(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], left: dict[str, bytes]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c").write_bytes(b"old context")
    values: options.Values = {}
    options.parse(CHECKPOINT, words, values)
    put(context.choose(("file",), "c", 7, dict(values)))
    assert {path.name: path.read_bytes()[:3] for path in tmp_path.iterdir()} == left
    if "--clobber" not in words:
        assert stat.S_IMODE(Path("c").stat().st_mode) == 0o400


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    link = tmp_path / "c"
    link.symlink_to("far/context")
    put(context.choose(("file",), str(link), 7, {}))
    put(context.choose(("file",), str(link), 7, {"replace": "backup"}), b"newer")
    assert link.is_symlink()
    assert {path.name: path.read_bytes() for path in (tmp_path / "far").iterdir()} == {
        "context": b"newer", "context.~1~": b"new",
    }  # fmt: skip
    with pytest.raises(Failure) as caught:
        put(context.choose(("file",), str(link), 7, {"replace": "noclobber"}))
    assert caught.value.code == errno.EEXIST


@pytest.mark.parametrize("replace", ["atomic", "backup", "clobber"])
@pytest.mark.parametrize("kind", ["device", "pipe"])
def test_what_is_no_file_is_not_replaced_by_one(tmp_path: Path, kind: str, replace: str) -> None:
    path = tmp_path / "c"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/null")
    before = path.stat()
    with pytest.raises(Failure) as caught:
        put(context.choose(("file",), str(path), 7, {"replace": replace}))
    assert caught.value.code == (errno.ENXIO if (kind, replace) == ("pipe", "clobber") else errno.EINVAL)
    assert (path.stat().st_ino, path.stat().st_mode) == (before.st_ino, before.st_mode)
    assert [one.name for one in tmp_path.iterdir()] == ["c"]


def test_a_context_that_comes_meanwhile_is_not_replaced_under_noclobber(tmp_path: Path) -> None:
    path = tmp_path / "c"
    with pytest.raises(Failure) as caught, context.choose(("file",), str(path), 7, {"replace": "noclobber"}) as where:
        path.write_bytes(b"other")
        where.store(lambda out: out.write(b"new") and None)
    assert caught.value.code == errno.EEXIST
    assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == [("c", b"other")]


def test_places_of_the_dead_are_removed_those_of_the_living_not(tmp_path: Path) -> None:
    first = Workplace(str(tmp_path), "x-")
    killed = os.fork()
    if not killed:
        try:
            forsaken = Workplace(str(tmp_path), "x-")
            Path(forsaken.images, "core-7.img").touch()
        finally:
            os._exit(0)
    os.waitpid(killed, 0)
    (tmp_path / "x-file").touch()
    assert len(list(tmp_path.iterdir())) == 3
    second = Workplace(str(tmp_path), "x-")
    assert {one.name for one in tmp_path.iterdir()} == {
        os.path.basename(first.path), os.path.basename(second.path), "x-file",
    }  # fmt: skip
    for one in (first, second, first):
        one.close()
    assert [one.name for one in tmp_path.iterdir()] == ["x-file"]


@pytest.mark.parametrize("words", [[], ["--backup"]], ids=str)
def test_a_context_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c").write_bytes(b"old")

    def fail(_out: object) -> None:
        raise OSError(errno.ENOSPC, "no room")

    values: options.Values = {}
    options.parse(CHECKPOINT, words, values)
    with pytest.raises(Failure) as caught, context.choose(("file",), "c", 7, dict(values)) as where:
        where.store(fail)
    assert caught.value.code == errno.ENOSPC
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"c": b"old"}


@pytest.mark.parametrize("replace", ["clobber", "noclobber"])
def test_half_a_context_does_not_stay(tmp_path: Path, replace: str) -> None:
    path = tmp_path / "c"
    if replace == "clobber":
        path.write_bytes(b"old")

    def fail(out: IO[bytes]) -> None:
        out.write(b"half")
        raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        context.choose(("file",), str(path), 7, {"replace": replace}) as where,
    ):
        where.store(fail)
    assert not list(tmp_path.iterdir())


def test_destinations_that_are_refused(tmp_path: Path) -> None:
    for kinds in (("file", "fd"), ("file", "file"), ("cwd", "fd")):
        with pytest.raises(Failure, match="conflicting") as caught:
            context.choose(kinds, 1, 7, {})
        assert caught.value.code == errno.EINVAL
    with pytest.raises(Failure) as caught, context.choose(("file",), str(tmp_path), 7, {}):
        pass
    assert caught.value.code == errno.EISDIR
    (tmp_path / "there").touch()
    with (
        pytest.raises(Failure) as caught,
        context.choose(("file",), str(tmp_path / "there"), 7, {"replace": "noclobber"}),
    ):
        pass
    assert caught.value.code == errno.EEXIST
    for name, code in (("", errno.ENOENT), (f"{tmp_path}/no/", errno.EISDIR), (f"{tmp_path}/no/x", errno.ENOENT)):
        with pytest.raises(Failure) as caught, context.choose(("file",), name, 7, {}):
            pass
        assert caught.value.code == code
    null = os.open("/dev/null", os.O_WRONLY)
    with pytest.raises(Failure) as caught, context.choose(("fd",), null, 7, {}):
        pass
    os.close(null)
    assert caught.value.code == errno.EINVAL


# ------------------------------------------------------------------------------------------------------------ archives


def images(folder: Path) -> Path:
    """What looks like the images of a dump."""
    folder.mkdir()
    for name, content in {"inventory.img": b"last", "pages-1.img": bytes(70000), "core-7.img": b"core"}.items():
        (folder / name).write_bytes(content)
    (folder / "stats-dump").write_bytes(b"of the run")
    archive.write_meta(str(folder), {"id": 7})
    return folder


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_images_go_into_a_stream_and_come_back(tmp_path: Path, packed: bool) -> None:
    before, stream = images(tmp_path / "before"), io.BytesIO()
    archive.pack(str(before), stream)
    data = stream.getvalue()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getnames() == ["core-7.img", "pages-1.img", archive.META, "inventory.img"]
    if packed:
        import gzip

        data = gzip.compress(data)
    after = tmp_path / "after"
    after.mkdir()
    archive.unpack("x", io.BytesIO(data), str(after))
    assert {path.name: path.read_bytes() for path in after.iterdir()} == {
        path.name: path.read_bytes() for path in before.iterdir() if path.name != "stats-dump"
    }
    assert archive.meta(str(after))["id"] == 7
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in after.iterdir())


@pytest.mark.parametrize("spoiled", ["core-7.img", "pages-1.img", "inventory.img", archive.META])
@pytest.mark.parametrize("how", ["one bit", "left out"])
def test_what_has_been_spoiled_on_its_way_is_refused(tmp_path: Path, spoiled: str, how: str) -> None:
    stream = io.BytesIO()
    archive.pack(str(images(tmp_path / "before")), stream)
    with tarfile.open(fileobj=io.BytesIO(stream.getvalue())) as tar:
        found = {one.name: bytearray(file.read()) for one in tar if (file := tar.extractfile(one))}
    if how == "one bit":
        found[spoiled][-2] ^= 4
    else:
        del found[spoiled]
    after = tmp_path / "after"
    after.mkdir()
    if (how, spoiled) == ("left out", archive.META):  # an archive of somebody else's making
        archive.unpack("x", io.BytesIO(of_members(*found.items())), str(after))
        return
    with pytest.raises(ImageError):
        archive.unpack("x", io.BytesIO(of_members(*found.items())), str(after))


def of_members(*members: tuple[str, bytes]) -> bytes:
    """An archive with such files; a name that ends with @ is a link."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name.removesuffix("@"))
            member.size = len(content)
            if name.endswith("@"):
                member.type, member.linkname, member.size = tarfile.SYMTYPE, "/etc/passwd", 0
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


WHOLE = of_members(("core-7.img", b"x" * 5000), ("inventory.img", b"x"))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not a context file, or cut short"),
        (b"nonsense" * 200, "not a context file"),
        (WHOLE[:3000], "cut short"),
        (of_members(("core-7.img", b"x")), "inventory.img is missing"),
        (of_members(("../core-7.img", b"x")), "is no image"),
        (of_members(("/etc/inventory.img", b"x")), "is no image"),
        (of_members(("sub/core-7.img", b"x")), "is no image"),
        (of_members(("core-7.img@", b"")), "is no image"),
        (of_members(("bash", b"x")), "is no image"),
        (of_members(("core-7.img", b"x"), ("./core-7.img", b"y")), "there twice"),
        (b"\x1f\x8b\x08\0" + bytes(500), "not a context file"),
        (b"\x1f\x8b\x08", "cut short"),
        (b"BZh9" + bytes(500), "not a context file"),
        (b"\xfd7zXZ\0" + bytes(500), "not a context file"),
    ],
)
def test_archives_that_are_refused(tmp_path: Path, data: bytes, said: str) -> None:
    with pytest.raises(ImageError, match=said):
        archive.unpack("x", io.BytesIO(data), str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} <= {"core-7.img", "inventory.img"}


def test_what_stands_beside_the_images_may_be_anything(tmp_path: Path) -> None:
    (tmp_path / archive.META).write_bytes(b"[" * 65536)
    with pytest.raises(ImageError, match="not JSON"):
        archive.meta(str(tmp_path))
    (tmp_path / archive.META).unlink()
    (tmp_path / archive.META).mkdir()
    with pytest.raises(ImageError, match="Is a directory"):
        archive.meta(str(tmp_path))


# ---------------------------------------------------------------------------------------------------------- relocation


@pytest.mark.parametrize(
    ("relocation", "path", "new"),
    [
        ("/old=/new", "/old/file", "/new/file"),
        ("/old=/new", "/old", "/new"),
        ("/old=/new", "/older/file", None),
        ("/old=/new", "/a/old/file", None),
        ("/a\\=b=/c\\\\d", "/a=b/x", "/c\\d/x"),
        ("/100%=/new", "/100%/x", "/new/x"),
        ("/100%=/new", "/100x/x", None),
        ("/=/root", "/any/x", "/root/any/x"),
        ("/old=/", "/old/x", "/x"),
        ("/old/=/new//", "/old/x", "/new/x"),
        ("/a\\b=/c", "/a\\b/x", "/c/x"),
        ("/old=/no/../new", "/old/x", "/new/x"),
    ],
)
def test_relocation_is_of_whole_components(relocation: str, path: str, new: str | None) -> None:
    found = [rules.parse(text) for text in changes.rules(relocation)]
    assert {rule.target for rule in found} == {"files:reg", "files:unix"}
    replaced = [text for rule in found if rule.target == "files:reg" and (text := rule.replacement(path)) is not None]
    assert replaced[:1] == ([] if new is None else [new])


@pytest.mark.parametrize("relocation", ["", "/a", "a=/b", "/a=b", "/a=/b=/c", "/a/../b=/c", "/a\\=/b", "/a//b=/c"])
def test_relocations_that_make_no_sense(relocation: str) -> None:
    with pytest.raises(UserError, match="--relocate"):
        changes.rules(relocation)


def test_a_relocation_to_the_same_place_is_none() -> None:
    assert changes.rules("/a/b=/a/b/") == []
