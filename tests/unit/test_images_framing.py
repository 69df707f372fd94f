# SPDX-License-Identifier: GPL-2.0-only
"""Bytes and their meaning; images that CRIU wrote; images that lie."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from pycriu.errors import ImageError
from pycriu.images import catalogue, framing, messages, schema

SAMPLES = sorted(path for path in (Path(__file__).parent / "samples" / "criu").iterdir() if path.name != "README")

INVENTORY = bytes.fromhex("16313158 02000000 0802")  # magic, size, img_version = 2
PAGEMAP = bytes.fromhex(
    "19435654 25400856"  # IMG_COMMON, PAGEMAP
    "02000000 0801"  # pages_id = 1
    "0a000000 088080011002200428 02"  # vaddr = 0x4000, compat_nr_pages = 2, flags = PRESENT, nr_pages = 2
)
PIPES_DATA = bytes.fromhex("19435654 09374556 04000000 08071003 616263 04000000 08081000")


def kind(file: str) -> catalogue.Kind:
    found = catalogue.lookup(file)
    assert found is not None, file
    return found


def read(file: str, data: bytes) -> list[tuple[object, bytes]]:
    return [(m, data[at : at + n]) for m, at, n in framing.entries(kind(file), data, file)]


def test_an_inventory() -> None:
    [(entry, _)] = read("inventory.img", INVENTORY)
    assert entry == messages.inventory_entry(img_version=2)


def test_a_pagemap_has_a_head() -> None:
    head, entry = (message for message, _ in read("pagemap-7.img", PAGEMAP))
    assert head == messages.pagemap_head(pages_id=1)
    assert entry == messages.pagemap_entry(vaddr=0x4000, compat_nr_pages=2, flags=catalogue.PRESENT, nr_pages=2)


def test_payloads_follow_their_entries() -> None:
    first, second = read("pipes-data.img", PIPES_DATA)
    assert first == (messages.pipe_data_entry(pipe_id=7, bytes=3), b"abc")
    assert second == (messages.pipe_data_entry(pipe_id=8, bytes=0), b"")


@pytest.mark.parametrize(
    ("file", "data"), [("inventory.img", INVENTORY), ("pagemap-7.img", PAGEMAP), ("pipes-data.img", PIPES_DATA)]
)
def test_what_is_read_is_built_again(file: str, data: bytes) -> None:
    items = [(m, payload) if payload else m for m, payload in read(file, data)]
    assert b"".join(framing.build(kind(file), items, file)) == data  # type: ignore[arg-type]


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_images_of_criu_come_back_byte_for_byte(path: Path) -> None:
    data = path.read_bytes()
    items = [message for message, _ in read(path.name, data)]
    assert items
    assert b"".join(framing.build(kind(path.name), items, path.name)) == data  # type: ignore[arg-type]


def test_what_criu_says_of_its_sleep() -> None:
    one = {path.name: [message for message, _ in read(path.name, path.read_bytes())] for path in SAMPLES}
    [task] = one["pstree.img"]
    assert (task.pid, task.ppid, task.sid, list(task.threads)) == (27273, 0, 27273, [27273])
    [core] = one["core-27273.img"]
    assert core.mtype == messages.core_entry.X86_64
    assert core.tc.comm == "sleep"
    assert {file.reg.name for file in one["files.img"]} >= {"/usr/bin/sleep", "/dev/null", "/"}
    assert [(entry.fd, entry.type) for entry in one["fdinfo-2.img"]] == [(fd, 1) for fd in range(3)]
    _, *runs = one["pagemap-27273.img"]
    present = [run for run in runs if run.flags & catalogue.PRESENT]
    assert sum(run.compat_nr_pages for run in present) * 4096 == 106496  # size of the pages-1.img beside it
    assert one["stats-dump"][0].dump.pages_written == 26


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_a_cut_image_is_damaged_or_ends_between_entries(path: Path) -> None:
    data = path.read_bytes()
    whole = read(path.name, data)
    ends = {framing.entries_start(kind(path.name), data, path.name)}
    ends |= {at + n for _, at, n in framing.entries(kind(path.name), data, path.name)}
    for size in range(len(data)):
        try:
            part = read(path.name, data[:size])
        except ImageError as error:
            assert path.name in error.message
            assert "offset" in error.message
        else:
            assert size in ends
            assert kind(path.name).many
            assert part == whole[: len(part)]


@pytest.mark.parametrize("at", range(len(PAGEMAP)))
def test_a_changed_byte_is_found_or_changes_a_field(at: int) -> None:
    for value in (0x00, 0x7F, 0x80, 0xFF):
        data = PAGEMAP[:at] + bytes([value]) + PAGEMAP[at + 1 :]
        try:
            read("pagemap-7.img", data)
        except ImageError as error:
            assert error.message.startswith("pagemap-7.img: offset ")


@pytest.mark.parametrize("size", [7, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_a_size_beyond_the_file(size: int) -> None:
    data = PAGEMAP[:8] + struct.pack("<I", size) + PAGEMAP[12:16]
    with pytest.raises(ImageError, match=f"offset 8: an entry of {size} bytes where 4 are left"):
        read("pagemap-7.img", data)


def test_an_entry_of_absurd_size() -> None:
    size = framing.MAX_MESSAGE + 1
    data = PAGEMAP[:8] + struct.pack("<I", size) + bytes(size)
    with pytest.raises(ImageError, match="none is larger than"):
        read("pagemap-7.img", data)


@pytest.mark.parametrize("length", [4, 0xFFFFFFFF])
def test_a_payload_beyond_the_file(length: int) -> None:
    entry = messages.pipe_data_entry(pipe_id=7, bytes=length).SerializeToString()
    data = PIPES_DATA[:8] + struct.pack("<I", len(entry)) + entry + b"abc"
    with pytest.raises(ImageError, match=f"a payload of {length} bytes where 3 are left"):
        read("pipes-data.img", data)


def ipc_message_queue(count: int) -> bytes:
    desc = messages.ipc_desc_entry(key=1, uid=0, gid=0, cuid=0, cgid=0, mode=0o600, id=3)
    entry = messages.ipc_msg_entry(desc=desc, qbytes=16384, qnum=count).SerializeToString()
    one = messages.ipc_msg(mtype=1, msize=5).SerializeToString()
    payload = struct.pack("<I", len(one)) + one + b"hello\0\0\0"
    return framing.header(kind("ipcns-msg-9.img")) + struct.pack("<I", len(entry)) + entry + payload


def test_payloads_that_hold_messages() -> None:
    [(entry, payload)] = read("ipcns-msg-9.img", ipc_message_queue(1))
    assert entry.qnum == 1  # type: ignore[attr-defined]
    assert payload.endswith(b"hello\0\0\0")


@pytest.mark.parametrize("count", [2, 0xFFFFFFFF])
def test_a_false_count_ends_with_the_data(count: int) -> None:
    with pytest.raises(ImageError, match="payload"):
        read("ipcns-msg-9.img", ipc_message_queue(count))


def ghost(*chunks: tuple[int, bytes]) -> bytes:
    entry = messages.ghost_file_entry(uid=0, gid=0, mode=0o100600, chunks=True).SerializeToString()
    data = framing.header(kind("ghost-file-1.img")) + struct.pack("<I", len(entry)) + entry
    for length, content in chunks:
        head = messages.ghost_chunk_entry(len=length, off=0).SerializeToString()
        data += struct.pack("<I", len(head)) + head + content
    return data


def test_chunks_of_a_deleted_file() -> None:
    [(_, payload)] = read("ghost-file-1.img", ghost((3, b"abc"), (2, b"de")))
    assert payload.endswith(b"de")
    with pytest.raises(ImageError, match="payload"):
        read("ghost-file-1.img", ghost((4, b"abc")))
    with pytest.raises(ImageError, match="payload"):
        read("ghost-file-1.img", ghost((3, b"abc")) + b"\x07")


def test_version_1_files_are_read() -> None:
    assert read("pagemap-7.img", PAGEMAP[4:]) == read("pagemap-7.img", PAGEMAP)


@pytest.mark.parametrize(
    ("file", "data", "words"),
    [
        ("inventory.img", b"", "ends in the middle of a word"),
        ("inventory.img", INVENTORY[:4], "no entry"),
        ("inventory.img", INVENTORY + INVENTORY[4:], "behind the only entry"),
        ("inventory.img", PAGEMAP, "magic 0x54564319 is not that of a inventory image"),
        ("core-1.img", PAGEMAP, "magic 0x56084025 is not that of a core image"),
        ("pagemap-1.img", PAGEMAP[:8], "no entry"),
        ("inventory.img", INVENTORY[:4] + bytes(4), "no inventory_entry"),  # a required field is missing
        ("inventory.img", INVENTORY[:8] + b"\x08\xff", "no inventory_entry"),
    ],
)
def test_impossible_images(file: str, data: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        read(file, data)


def test_what_cannot_be_written() -> None:
    with pytest.raises(ImageError, match="missing required fields"):
        list(framing.build(kind("inventory.img"), [messages.inventory_entry()], "inventory.img"))
    with pytest.raises(ImageError, match="holds inventory_entry, not fs_entry"):
        list(framing.build(kind("inventory.img"), [messages.fs_entry(cwd_id=1, root_id=1)], "inventory.img"))


@pytest.mark.parametrize(
    ("file", "stem"),
    [
        ("core-12.img", "core"),
        ("pagemap-shmem-5.img", "pagemap-shmem"),
        ("pagemap-5.img", "pagemap"),
        ("tmpfs-dev-3.tar.gz.img", "tmpfs-dev"),
        ("ghost-file-1a.img", "ghost-file"),
        ("ipcns-shm-1.img", "ipcns-shm"),
        ("stats-dump", "stats-dump"),
        ("signal-s-3.img", "signal-s"),
    ],
)
def test_names(file: str, stem: str) -> None:
    assert kind(file).stem == stem


@pytest.mark.parametrize(
    "file", ["core-12", "stats-dump.img", "dump.log", "x.img", "core-../../x.img", "", ".img", "-1.img"]
)
def test_names_of_no_image(file: str) -> None:
    assert catalogue.lookup(file) is None


def test_magics_are_known_once() -> None:
    twins = {"pagemap", "pagemap-shmem", "signal-s", "signal-p", "stats-dump", "stats-restore"}
    single = [kind.magic for kind in catalogue.KINDS if kind.magic and kind.stem not in twins]
    assert len(single) == len(set(single))
    assert len(catalogue.BY_STEM) == len(catalogue.KINDS)


def test_unknown_fields_are_kept() -> None:
    entry = schema.message("fs_entry").FromString(bytes.fromhex("0801 1002 f83f2a"))  # number 1023
    assert entry.SerializeToString() == bytes.fromhex("0801 1002 f83f2a")


@pytest.mark.parametrize(
    ("file", "entry", "field"),
    [
        ("files.img", messages.file_entry(type=15, id=1, tunf=messages.tunfile_entry(id=1, netdev="WORD")), "netdev"),
        (
            "netdev-1.img",
            messages.net_device_entry(type=1, ifindex=1, mtu=1, flags=1, name="x", peer_nsid=1, conf4=[
                messages.sysctl_entry(type=6, sarg="WORD")
            ]),
            "sarg",
        ),
    ],
)  # fmt: skip
def test_texts_are_utf_8(file: str, entry: object, field: str) -> None:
    """protobuf gives others as bytes, which nobody expects."""
    data = b"".join(framing.build(kind(file), [entry], file))  # type: ignore[list-item]
    assert read(file, data)
    with pytest.raises(ImageError, match=f"{field} is not UTF-8"):
        read(file, data.replace(b"WORD", b"WO\xffD"))


def test_messages_within_themselves() -> None:
    inner = messages.aa_namespace(name="inner")
    assert schema.not_text(messages.aa_namespace(name="outer", namespaces=[inner])) is None
    data = messages.aa_namespace(name="outer", namespaces=[inner]).SerializeToString().replace(b"inner", b"inn\xffr")
    assert schema.not_text(messages.aa_namespace.FromString(data)) == "name"
