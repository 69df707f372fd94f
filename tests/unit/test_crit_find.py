# SPDX-License-Identifier: GPL-2.0-only
"""Finding in memory: nothing is missed at borders of pages and pieces, nothing is found twice, memory is bounded."""

from __future__ import annotations

import json
import random
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from pycriu.crit import cli, find, search
from pycriu.errors import UserError
from pycriu.images import messages as m
from tests.unit import checkpoints as c


def cut(data: bytes, rng: random.Random, largest: int) -> list[bytes]:
    """The bytes in pieces of any size."""
    pieces = []
    while data:
        size = rng.randint(1, largest)
        pieces.append(data[:size])
        data = data[size:]
    return pieces


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("words", ["aba", "a", "(ab){1,3}", "b[ab]{4}b", "(?<=b)a", "a|b"])
def test_pieces_change_nothing(seed: int, words: str) -> None:
    rng = random.Random(seed)
    data = bytes(rng.choices(b"ab ", k=rng.randint(0, 200)))
    expected = [(one.start() + 1000, one[0]) for one in re.finditer(words.encode(), data, re.DOTALL)]
    pattern = search.expression(words, longest=8)
    found = list(pattern.matches(1000, cut(data, rng, rng.choice((1, 3, 20))), context=4))
    assert [(one.at, one.text) for one in found] == expected
    for one in found:
        at = one.at - 1000
        assert one.before == data[max(at - 4, 0) : at]
        assert one.behind == data[at + len(one.text) : at + len(one.text) + 4]


def test_an_exact_pattern_as_long_as_many_pieces() -> None:
    data = bytes(range(256)) * 40
    pattern = search.exact(data)
    assert [one.at for one in pattern.matches(0, cut(b"x" + data + b"x", random.Random(1), 7))] == [1]


def test_patterns_that_are_none() -> None:
    for wrong in (lambda: search.hexadecimal("zz"), lambda: search.expression("("), lambda: search.text("")):
        with pytest.raises(UserError):
            wrong()
    assert not list(search.expression("x*").matches(0, [b"aaa"])), "empty matches are none"


def lines(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    cli.main(["find", *words])
    return capsys.readouterr().out.splitlines()


def test_a_match_over_the_border_of_pages_and_mappings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(images: dict[str, Any]) -> None:
        images[f"mm-{c.FIRST}.img"] = [
            c.mm([c.vma(c.ANON, 2, 1 | 1 << 9), c.vma(c.ANON + 2 * c.PAGE, 2, 1 | 1 << 9, prot=1)])
        ]
        images[f"pagemap-{c.FIRST}.img"] = c.pagemap(1, [(c.ANON, 1, 4), (c.ANON + c.PAGE, 3, 4)])
        data = bytearray(4 * c.PAGE)
        for page in (1, 2, 3):
            data[page * c.PAGE - 3 : page * c.PAGE + 3] = b"needle"
        images["pages-1.img"] = bytes(data)

    images = str(c.write(tmp_path, change))
    found = lines(capsys, images, "needle", "-C", "2")
    assert [line.split()[1] for line in found] == ["0x200ffd", "0x201ffd", "0x202ffd"]
    assert found[1] == r"100 0x201ffd (200000-202000 rw-p +0x1ffd): \x00\x00[needle]\x00\x00"
    assert "(202000-204000 r--p +0xffd)" in found[2]
    assert lines(capsys, images, "6e 65 65 64 6c65", "-x") == lines(capsys, images, "needle")
    assert lines(capsys, images, "NEEDLE", "-i", "-c") == ["100: 3", "102: 0"]
    assert len(lines(capsys, images, "n[e]+d", "-e", "-m", "2")) == 2


def test_shared_memory_is_told_for_every_mapping(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = str(c.write(tmp_path))
    found = [json.loads(line) for line in lines(capsys, images, "S{4096}", "-e", "--json")]
    assert [(one["pid"], one["address"], one["offset"]) for one in found] == [
        (c.FIRST, c.SHARED + c.PAGE, c.PAGE),
        (c.SECOND, c.SHARED, 0),
    ]
    assert found[0]["mapping"]["name"] == "/dev/zero (shared memory 77)"
    assert found[0]["mapping"]["protection"] == "rw-s"
    assert len(bytes.fromhex(found[0]["match"])) == c.PAGE


def test_mapped_files_only_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = str(c.write(tmp_path))
    assert cli.main(["find", images, "hhh"]) == 1
    assert cli.main(["find", images, "ggg"]) == 1
    assert cli.main(["find", images, "xxx"]) == 0, "what the process has written is in the images"
    capsys.readouterr()
    assert str(tmp_path / "mapped") in lines(capsys, images, "hhh", "--files", "-m", "1")[0]


def test_names_and_content_cannot_harm_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(images: dict[str, Any]) -> None:
        images["files.img"][0].reg.name = "/\x1b]0;evil\x07\n"
        images["pages-1.img"] = b"\x1b[2Jsecret\xff".ljust(3 * c.PAGE, b"\0")

    images = str(c.write(tmp_path, change))
    (line,) = lines(capsys, images, "secret")
    assert line.isascii() and line.isprintable()
    assert "\\x1b[2J[secret]\\xff" in line


@pytest.mark.parametrize(
    "words", [("x", "-p", "7"), ("",), ("(", "-e"), ("x", "--longest", "0"), ("x", "-C", "-1"), ("x", "-m", "0")]
)
def test_wrong_requests(tmp_path: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["find", str(c.write(tmp_path)), *words]) == 2
    assert capsys.readouterr().err.startswith("crit: ")


def test_memory_is_bounded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """64 MiB of pages in one run are searched in a few."""
    pages = 1 << 14

    def change(images: dict[str, Any]) -> None:
        images[f"mm-{c.FIRST}.img"] = [c.mm([c.vma(c.ANON, pages, 1 | 1 << 9)])]
        images[f"pagemap-{c.FIRST}.img"] = c.pagemap(1, [(c.ANON, pages, 4)])
        images["pages-1.img"] = b""

    images = c.write(tmp_path, change)
    with open(images / "pages-1.img", "r+b") as file:
        file.truncate(pages * c.PAGE)
        file.seek(pages * c.PAGE - 5)
        file.write(b"there")
    cli.main(["find", str(images), "warm up"])
    tracemalloc.start()
    try:
        found = lines(capsys, str(images), "there")
        assert tracemalloc.get_traced_memory()[1] < 12 << 20
    finally:
        tracemalloc.stop()
    assert len(found) == 1


def test_a_page_count_that_is_a_lie_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(images: dict[str, Any]) -> None:
        images[f"pagemap-{c.FIRST}.img"] = [
            m.pagemap_head(pages_id=1),
            m.pagemap_entry(vaddr=c.ANON, compat_nr_pages=1, nr_pages=1 << 50, flags=4),
        ]

    assert cli.main(["find", str(c.write(tmp_path, change)), "x"]) == 2
    assert "promises 4611686018427387904 bytes" in capsys.readouterr().err


def test_runs() -> None:
    assert find.protection(c.vma(0, 1, 1, prot=5)) == "r-xp"


def test_text_in_utf_16(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(images: dict[str, Any]) -> None:
        images["pages-1.img"] = "grüße".encode("utf-16-le").ljust(3 * c.PAGE, b"\0")

    images = str(c.write(tmp_path, change))
    assert [line.split()[1] for line in lines(capsys, images, "grüße", "--utf16")] == [f"{c.FILE + c.PAGE:#x}"]
    assert lines(capsys, images, "grüße") == []
