# SPDX-License-Identifier: GPL-2.0-only
"""Figures: that they are right, that zeros and copies are counted in bounded memory, that a page is only a page."""

from __future__ import annotations

import io
import json
import random
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pycriu.crit import cli, pages, stats, statspage, statstext
from tests.unit import checkpoints as c

EVIL = "</text><script>alert(1)</script>\"'&\x1b[2J"


def report(images: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert cli.main(["stats", str(images), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(images: dict[str, Any]) -> None:
        images["pages-1.img"] = b"A" * c.PAGE + bytes(c.PAGE) + b"A" * c.PAGE
        timers = images[f"core-{c.FIRST}.img"][0].tc.timers
        timers.real.vsec = 5
        for number, left in ((0, 0), (1, 7)):
            timers.posix.add(
                it_id=number, clock_id=0, si_signo=1, it_sigev_notify=0, sival_ptr=0, overrun=0, isec=0, insec=0,
                vsec=left, vnsec=0,
            )  # fmt: skip

    found = report(c.write(tmp_path, change), capsys)
    assert found["totals"]["processes"] == 2
    assert found["totals"]["threads"] == 3
    assert found["totals"]["files"] == 3
    assert [(one["pid"], one["parent"], one["name"], one["threads"]) for one in found["processes"]] == [
        (c.FIRST, 0, "first", 2),
        (c.SECOND, c.FIRST, "second", 1),
    ]
    assert found["memory"]["anonymous"] == {"mappings": 2, "mapped": 13 * c.PAGE + (1 << 32), "stored": 2 * c.PAGE}
    assert found["memory"]["file"] == {"mappings": 1, "mapped": 3 * c.PAGE, "stored": c.PAGE}
    assert found["memory"]["shared"] == {"mappings": 2, "mapped": 7 * c.PAGE, "stored": 2 * c.PAGE}
    assert found["files"] == {"REG": 1, "INETSK": 1, "UNIXSK": 1}
    assert found["sockets"] == {"IPv4 TCP, listening": 1, "UNIX stream, listening": 1}
    assert found["timers"]["interval"] == {"timers": 1, "armed": 1}
    assert found["timers"]["POSIX"] == {"timers": 2, "armed": 1}
    assert found["pages"] == {"size": c.PAGE, "pages": 4, "zero": 1, "duplicates": 1, "exact": True}
    assert found["sizes"]["pages-1.img"] == 3 * c.PAGE
    assert sum(found["sizes"].values()) == found["totals"]["bytes"]


def test_what_repeats_the_parent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parent = c.write(tmp_path / "parent")

    def change(images: dict[str, Any]) -> None:
        images["pages-1.img"] = b"x" * c.PAGE + b"B" * c.PAGE + b"C" * c.PAGE

    images = c.write(tmp_path, change)
    (images / "parent").symlink_to(parent)
    assert report(images, capsys)["pages"]["repeats the parent"] == 2


def test_a_zombie_has_no_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(images: dict[str, Any]) -> None:
        images[f"core-{c.SECOND}.img"][0].tc.task_state = 2
        del images[f"mm-{c.SECOND}.img"]

    found = report(c.write(tmp_path, change), capsys)
    assert found["totals"]["zombies"] == 1
    assert found["processes"][1]["state"] == "dead"


def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(images: dict[str, Any]) -> None:
        images[f"core-{c.SECOND}.img"][0].tc.comm = "a\x1b[2Jb\n"

    assert cli.main(["stats", str(c.write(tmp_path, change))]) == 0
    said = capsys.readouterr().out
    assert "2 processes, 3 threads, 0 zombies, 3 files" in said
    assert "first\n" in said
    assert "  a\\x1b[2Jb\\n\n" in said
    assert "\x1b" not in said
    assert "IPv4 TCP, listening" in said


class Tags(HTMLParser):
    """Every tag and every attribute of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.seen.append(data)


def test_the_page_is_whole_and_harmless(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(images: dict[str, Any]) -> None:
        images[f"core-{c.FIRST}.img"][0].tc.comm = EVIL
        images["files.img"][0].reg.name = "/" + EVIL

    images = c.write(tmp_path, change)
    assert cli.main(["stats", str(images), "--html", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().out == ""
    text = (tmp_path / "page.html").read_text()
    tags = Tags()
    tags.feed(text)
    assert "script" not in tags.tags
    assert not {"a", "img", "link", "iframe"} & tags.tags
    assert not [name for name, _ in tags.attributes if name.startswith("on") or name in ("href", "src")]
    assert "\x1b" not in text
    assert any("<script>alert(1)</script>" in data for data in tags.seen), "shown as it is, as text"
    assert text.count("<svg") == 4, "the tree, two address spaces, the images"
    for part in text.split("<svg")[1:]:
        ET.fromstring("<svg" + part.partition("</svg>")[0] + "</svg>")
    assert "url(" not in text and "@import" not in text and text.count("http") == 4 + 1


def test_every_kind_of_memory_has_a_colour() -> None:
    kinds = {stats._kind(c.vma(0, 1, 1 | status)) for status in [1 << bit for bit in range(17)]} | {"shared"}
    assert kinds <= statspage.COLOURS.keys()


def test_large_trees_are_cut_and_loops_end(tmp_path: Path) -> None:
    processes = [
        {"pid": n, "parent": n % 1500 + 1, "name": "x", "state": "alive", "threads": 1, "mapped": 1, "stored": 0,
         "mappings": []} for n in range(1, 1501)
    ]  # fmt: skip
    rows = list(statstext.tree(processes))
    assert sorted(one["pid"] for _, one in rows) == list(range(1, 1501))
    drawn = statspage._tree(processes)
    assert "500 processes are not shown" in drawn


def test_equal_pages_are_counted_and_estimated() -> None:
    rng = random.Random(5)
    kept = pages.Distinct(limit=1000)
    values = [rng.getrandbits(64) for _ in range(800)]
    for value in values * 3:
        kept.add(value)
    assert (kept.count, kept.exact) == (800, True)
    for value in (rng.getrandbits(64) for _ in range(99200)):
        kept.add(value)
    assert not kept.exact
    assert 85_000 < kept.count < 115_000
    assert len(kept._kept) <= 1000


def test_census_of_any_length() -> None:
    census = pages.Census(4096)
    census.take(io.BytesIO(b"a" * 4096 + bytes(4096) + b"a" * 4096 + b"short"))
    assert census.report() == {"size": 4096, "pages": 3, "zero": 1, "duplicates": 1, "exact": True}


def test_a_page_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["stats", str(c.write(tmp_path)), "--html", str(tmp_path / "no/where")]) == 1
    assert "No such file" in capsys.readouterr().err


def test_sizes() -> None:
    assert [statstext.size(n) for n in (0, 1023, 1024, 1536 << 10, 1 << 30, 5 << 40)] == [
        "0 B", "1023 B", "1.0 KiB", "1.5 MiB", "1.0 GiB", "5.0 TiB",
    ]  # fmt: skip
