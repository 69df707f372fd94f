# SPDX-License-Identifier: GPL-2.0-only
"""decode, encode, show, info: every type of image comes back byte for byte; what cannot be is refused."""

from __future__ import annotations

import io
import json
import random
import struct
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pycriu.crit import cli
from pycriu.errors import ImageError
from pycriu.images import catalogue, decoded, framing, magics, schema
from pycriu.images import messages as m
from pycriu.images.catalogue import Kind
from tests.images import InMemory, example, framed

SAMPLES = sorted(path for path in (Path(__file__).parent / "samples" / "criu").iterdir() if path.name != "README")
WITH_MAGIC = [kind for kind in catalogue.KINDS if kind.magic]


def payload_of(kind: Kind, message: Any, dice: random.Random) -> bytes:
    """Bytes that may follow an entry; the fields that tell their length are set."""

    def some(size: int) -> bytes:
        return dice.randbytes(size)

    size = dice.choice([0, 1, 7, 4096])
    match kind.payload:
        case "pipe":
            message.bytes = size
        case "packet":
            message.length = size
        case "tcp":
            message.inq_len, message.outq_len, size = size, 5, size + 5
        case "bpfmap":
            message.keys_bytes, message.values_bytes, size = size, 3, size + 3
        case "ipc-shm":
            message.size, message.in_pagemaps = size, False
            return some(size) + bytes(-size % 4)
        case "ipc-sem":
            message.nsems = 3
            return some(6) + bytes(2)
        case "ipc-msg":
            message.qnum = 2
            one: Any = m.ipc_msg(mtype=1, msize=5)
            head = one.SerializeToString()
            return (len(head).to_bytes(4, "little") + head + some(5) + bytes(3)) * 2
        case "ghost" if message.chunks:
            chunk: Any = m.ghost_chunk_entry(len=9, off=4096)
            head = chunk.SerializeToString()
            return (len(head).to_bytes(4, "little") + head + some(9)) * 2
    return some(size)


def images_of(kind: Kind, number: int) -> bytes:
    """An image of this kind with entries full of random values, others with nothing but what is required."""
    dice = random.Random(f"{kind.stem} {number}")
    entries: list[Any] = []
    for place in range(4 if kind.many else 1):
        name = kind.head if kind.head and not place else kind.message
        message: Any = example(name, dice, full=(number + place) % 2 == 0)
        entries.append((message, payload_of(kind, message, dice)) if kind.payload else message)
    return b"".join(framing.build(kind, entries, kind.stem))


def older(kind: Kind, data: bytes) -> bytes:
    """The same image as CRIU 1.0 framed it."""
    return data if kind.framing == catalogue.INVENTORY else data[4:]


@pytest.mark.parametrize("kind", WITH_MAGIC, ids=lambda kind: kind.stem)
@pytest.mark.parametrize("pretty", [False, True])
def test_every_type_comes_back_byte_for_byte(kind: Kind, pretty: bool) -> None:
    for number in range(4):
        for data in (images_of(kind, number), older(kind, images_of(kind, number))):
            image = json.loads(json.dumps(decoded.load(data, kind.stem, pretty=pretty)))
            assert magics.BY_NAME[image["magic"]].magic == kind.magic
            assert not any("_message" in entry or "_extra" in entry for entry in image["entries"])
            assert decoded.dump(image, kind.stem) == data


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_images_of_criu_come_back_through_the_command(path: Path, tmp_path: Path) -> None:
    for words in (["-f", "raw"], ["-f", "nice"], ["--pretty"], []):
        text, back = tmp_path / "text", tmp_path / "back"
        assert cli.main(["decode", "-i", str(path), "-o", str(text), *words]) == 0
        assert cli.main(["encode", "-i", str(text), "-o", str(back)]) == 0
        assert back.read_bytes() == path.read_bytes()
        assert back.stat().st_mode & 0o777 == 0o600


def test_the_form_is_that_of_2015(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Options before the command; nice on standard output, raw in files, and both as asked for."""
    image = SAMPLES[0].parent / "pstree.img"
    values = {
        "magic": "PSTREE",
        "entries": [{"pid": 27273, "ppid": 0, "pgid": 27273, "sid": 27273, "threads": [27273]}],
    }
    nice, raw = json.dumps(values, indent=4), json.dumps(values)
    assert cli.main(["-i", str(image), "decode"]) == 0
    assert capsys.readouterr().out == nice + "\n"
    assert cli.main(["-f", "raw", "-i", str(image), "decode"]) == 0
    assert capsys.readouterr().out == raw + "\n"
    out = tmp_path / "out"
    assert cli.main([f"--in={image}", "-o", str(out), "decode"]) == 0
    assert out.read_text() == raw
    assert cli.main(["-i", str(image), "-o", str(out), "-f", "nice", "decode"]) == 0
    assert out.read_text() == nice
    assert cli.main(["-i", str(out), "-o", str(tmp_path / "img"), "encode"]) == 0
    assert (tmp_path / "img").read_bytes() == image.read_bytes()


def test_what_is_for_reading(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["show", str(SAMPLES[0].parent / "mm-27273.img")]) == 0
    mm = json.loads(capsys.readouterr().out)["entries"][0]
    assert mm["mm_brk"].startswith("0x")
    assert mm["vmas"][0]["prot"] == "PROT_READ"
    assert "VMA_AREA_REGULAR | VMA_FILE_PRIVATE" in {vma["status"] for vma in mm["vmas"]}
    opts = example("sk_opts_entry", random.Random(1), full=False)
    sock: Any = m.inet_sk_entry(
        id=1, ino=2, family=2, type=1, proto=6, state=10, src_port=80, dst_port=0, flags=2, backlog=5,
        src_addr=[0x0100007F], dst_addr=[0, 0, 0, 0x01000000], fown=example("fown_entry", random.Random(1), full=False),
        opts=opts,
    )  # fmt: skip
    (shown,) = decoded.load(framed("inetsk.img", [sock]), "x", pretty=True)["entries"]
    assert (shown["src_addr"], shown["dst_addr"]) == (["127.0.0.1"], ["::1"])
    assert (shown["family"], shown["type"], shown["proto"], shown["state"]) == ("INET", "STREAM", "TCP", "LISTEN")
    data = framed("pipes-data.img", [(m.pipe_data_entry(pipe_id=1, bytes=2048), bytes(2048))])
    (tmp_path / "x.img").write_bytes(data)
    assert cli.main(["show", "--nopl", str(tmp_path / "x.img")]) == 0
    assert json.loads(capsys.readouterr().out)["entries"] == [{"pipe_id": 1, "bytes": 2048, "extra": "... <2KB>"}]


def test_a_whole_checkpoint_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A directory, an archive of it, and single images in the archive."""
    folder = SAMPLES[0].parent
    with tarfile.open(tmp_path / "c.tar.gz", "w:gz") as tar:
        tar.add(folder, "checkpoint")
    for place in (folder, tmp_path / "c.tar.gz"):
        text, back = tmp_path / "text", tmp_path / f"back-{place.name}"
        assert cli.main(["decode", "-i", str(place), "-o", str(text)]) == 0
        assert cli.main(["encode", "-i", str(text), "-o", str(back)]) == 0
        assert {path.name: path.read_bytes() for path in back.iterdir()} == {p.name: p.read_bytes() for p in SAMPLES}
    capsys.readouterr()
    assert cli.main(["info", str(tmp_path / "c.tar.gz" / "fdinfo-2.img")]) == 0
    assert json.loads(capsys.readouterr().out) == {"magic": "FDINFO", "count": 3}
    assert cli.main(["info", str(tmp_path / "c.tar.gz")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["fdinfo-2.img"] == {"magic": "FDINFO", "count": 3, "bytes": (folder / "fdinfo-2.img").stat().st_size}
    assert cli.main(["encode", "-i", str(tmp_path / "text")]) == 1
    assert "-o names the directory" in capsys.readouterr().err


def raw_image(*messages: bytes) -> bytes:
    return framed("pstree.img", []) + b"".join(len(one).to_bytes(4, "little") + one for one in messages)


TREE = m.pstree_entry(pid=1, ppid=0, pgid=1, sid=1, threads=[1])


def test_unknown_fields_stay() -> None:
    """Of a newer CRIU, in a message and in one inside of it; an edit beside them does not lose them."""
    unknown = b"\xf8\x07\x01"
    data = raw_image(TREE.SerializeToString() + unknown)
    image = decoded.load(data, "x")
    assert decoded.dump(image, "x") == data
    image["entries"][0]["pid"] = 5
    changed = decoded.dump(image, "x")
    assert changed != data
    assert unknown in changed
    fown = example("fown_entry", random.Random(1), full=False).SerializeToString() + unknown
    reg = m.reg_file_entry(id=1, flags=0, pos=0, name="/x").SerializePartialToString()
    inner = reg + b"\x2a" + bytes([len(fown)]) + fown
    data = framed("reg-files.img", []) + len(inner).to_bytes(4, "little") + inner
    image = decoded.load(data, "x")
    assert "_unknown" in image["entries"][0]["fown"]
    assert decoded.dump(image, "x") == data


def test_what_is_written_in_another_way_comes_back_as_it_was() -> None:
    """Fields in another order, a default that is written out, names that are not UTF-8, padding."""
    whole = TREE.SerializeToString()
    reordered = whole[2:] + whole[:2]
    assert schema.message("pstree_entry").FromString(reordered) == TREE
    image = decoded.load(raw_image(reordered), "x")
    assert decoded.dump(json.loads(json.dumps(image)), "x") == raw_image(reordered)
    image["entries"][0]["ppid"] = 7
    again = decoded.load(decoded.dump(image, "x"), "x")
    assert again["entries"][0]["ppid"] == 7
    name = m.reg_file_entry(
        id=1, flags=0, pos=0, name="/x?", fown=example("fown_entry", random.Random(1), full=False)
    ).SerializeToString()
    data = framed("reg-files.img", []) + len(name).to_bytes(4, "little") + name.replace(b"/x?", b"/x\xff")
    image = decoded.load(data, "x")
    assert image["entries"][0]["name"] == "/x\udcff"
    assert decoded.dump(json.loads(json.dumps(image)), "x") == data
    desc = example("ipc_desc_entry", random.Random(1), full=False)
    sem = framed("ipcns-sem-1.img", [(m.ipc_sem_entry(desc=desc, nsems=1), b"\1\0garbag")])
    image = decoded.load(sem, "x")
    assert image["entries"][0]["extra"] == [1]
    assert decoded.dump(json.loads(json.dumps(image)), "x") == sem
    image["entries"][0]["extra"] = [2]
    assert decoded.dump(image, "x").endswith(b"\2\0\0\0\0\0\0\0")


PIPE: dict[str, Any] = {"magic": "PIPES_DATA", "entries": [{"pipe_id": 1, "bytes": 3, "extra": "YWJj"}]}


def _with(image: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return image | {"entries": [image["entries"][0] | changes]}


WRONG: list[tuple[Any, str]] = [
    ([], "no magic"),
    ({}, "no magic"),
    ({"magic": "NOTHING", "entries": []}, "unknown magic 'NOTHING'"),
    ({"magic": ["CORE"], "entries": []}, "no decoded image|no magic"),
    ({"magic": "PSTREE"}, "not {"),
    ({"magic": "PSTREE", "entries": [], "more": 1}, "not {"),
    ({"magic": "PSTREE", "entries": [5]}, "entry 0: not a dictionary"),
    ({"magic": "PSTREE", "entries": [{"pid": 1}]}, "entry 0: "),
    ({"magic": "CORE", "entries": []}, "no entry"),
    ({"magic": "CPUINFO", "entries": [{}, {}]}, "behind the only entry"),
    (_with(PIPE, bytes=4), "a payload of 4 bytes"),
    (_with(PIPE, extra="%%%"), "not base64"),
    (_with(PIPE, extra=7), "not base64"),
    (_with(PIPE, pipe_id=-1), r"entry 0: pipe_data_entry\.pipe_id: -1 cannot be"),
    (_with(PIPE, pipe_id=1 << 32), r"pipe_data_entry\.pipe_id"),
    (_with(PIPE, pipe_id=True), "True is not a number"),
    (_with(PIPE, pipe_id="two"), "'two' cannot be"),
    (_with(PIPE, pipeid=1), "no field 'pipeid'"),
    (_with(PIPE, size=[1]), "not a number"),
    ({"magic": "PIPES_DATA", "entries": [{"pipe_id": 1, "bytes": 3}]}, '"extra" is missing'),
    ({"magic": "PSTREE", "entries": [{"pid": 1, "ppid": 0, "pgid": 1, "sid": 1, "extra": ""}]}, "something extra"),
    ({"magic": "PSTREE", "entries": [{"pid": 1, "ppid": 0, "pgid": 1, "sid": 1, "threads": 1}]}, "not a list"),
    ({"magic": "PSTREE", "entries": [{"_message": "AAAA"}]}, "_message is no pstree_entry"),
    ({"magic": "FDINFO", "entries": [{"id": 1, "fd": 1, "flags": 0, "type": "REGULAR"}]}, "is none of UND, REG"),
    ({"magic": "FS", "entries": [{"cwd_id": 1, "root_id": 1, "umask": "rwx"}]}, r"fs_entry\.umask"),
    ({"magic": "REG_FILES", "entries": [{"id": 1, "flags": 0, "pos": 0, "fown": 5, "name": "/"}]}, "not a dictionary"),
    ({"magic": "REG_FILES", "entries": [{"id": 1, "flags": 0, "pos": 0, "name": "\udcff"}]}, r"reg_file_entry\.name"),
]


@pytest.mark.parametrize(("image", "words"), WRONG, ids=[words for _, words in WRONG])
def test_values_that_are_no_image_are_refused(image: Any, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        decoded.dump(image, "x.json")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: data[:6],
        lambda data: b"\1\2\3\4" + data[4:],
        lambda data: data[:4] + b"\1\2\3\4" + data[8:],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[:8] + b"\xff\xff\xff\x7f" + data[12:],
        lambda data: data[:12] + b"\xff" * (len(data) - 12),
    ],
)
def test_images_that_are_damaged_are_refused(
    spoil: Callable[[bytes], bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "files.img"
    path.write_bytes(spoil((SAMPLES[0].parent / "files.img").read_bytes()))
    for words in (["decode", "-i", str(path)], ["info", str(path)], ["show", str(path)]):
        assert cli.main(words) == 1
        assert capsys.readouterr().err.startswith(f"crit: {path}: ")


def test_standard_input_and_output(monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    image = (SAMPLES[0].parent / "files.img").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(image)))
    assert cli.main(["decode"]) == 0
    text = capsysbinary.readouterr().out
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    assert cli.main(["encode"]) == 0
    assert capsysbinary.readouterr().out == image
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(image)))
    assert cli.main(["encode"]) == 1
    assert b"not text" in capsysbinary.readouterr().err


@pytest.mark.parametrize(("text", "words"), [("{", "not JSON"), ("[" * 100_000, "not JSON"), ("5", "no magic")])
def test_what_is_no_json_is_refused(tmp_path: Path, text: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x").write_text(text)
    assert cli.main(["encode", "-i", str(tmp_path / "x"), "-o", str(tmp_path / "y")]) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "y").exists()


def test_a_file_that_cannot_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "good").write_text(json.dumps(PIPE))
    (tmp_path / "bad").write_text(json.dumps(_with(PIPE, bytes=9)))
    out = tmp_path / "out"
    assert cli.main(["encode", "-i", str(tmp_path / "good"), "-o", str(out)]) == 0
    before = out.read_bytes()
    assert cli.main(["encode", "-i", str(tmp_path / "bad"), "-o", str(out)]) == 1
    assert out.read_bytes() == before
    assert before == struct.pack("<II", 0x54564319, 0x56453709) + b"\x04\0\0\0\x08\x01\x10\x03abc"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad", "good", "out"]


def test_the_images_of_the_tests_are_framed_as_the_store_frames_them() -> None:
    assert InMemory({"pstree.img": [TREE]}).read("pstree.img") == [TREE]
