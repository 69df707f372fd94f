# SPDX-License-Identifier: GPL-2.0-only
"""Differences of two checkpoints: each is found, by entry and field, and nothing is told where there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pycriu.crit import cli, differences
from pycriu.images import messages as m
from pycriu.images import schema
from tests.unit import checkpoints as c


def pair(tmp_path: Path, change: Any) -> tuple[str, str]:
    """Two checkpoints, of which the second is changed. What they map is the same file."""
    before = c.write(tmp_path)
    (tmp_path / "images").rename(tmp_path / "before")
    return str(before.parent / "before"), str(c.write(tmp_path, change))


def compared(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    status = cli.main(["diff", *words, "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert status == (1 if any(found.values()) else 0)
    return found


def test_the_same_is_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = pair(tmp_path, lambda images: None)
    assert cli.main(["diff", before, after]) == 0
    assert capsys.readouterr().out == ""
    assert compared(capsys, before, after) == {"images": {}, "entries": {}, "memory": []}


def test_fields_of_every_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(images: dict[str, Any]) -> None:
        core = images[f"core-{c.FIRST}.img"][0]
        core.tc.timers.real.vsec = 9
        core.tc.rlimits.rlimits[3].cur = 7
        core.thread_core.creds.groups.append(5)
        core.tc.oom_score_adj = -5
        core.thread_core.ClearField("comm")
        images["files.img"][2].usk.name = b"/run/other\0"
        images["files.img"][2].usk.peer = 99
        del images["files.img"][1]
        images["pstree.img"][1].threads.append(103)

    found = compared(capsys, *pair(tmp_path, change))
    assert {
        (name, one["path"], one["change"] if "change" in one else one["kind"])
        for name, changes in found["entries"].items()
        for one in changes
    } == {
        ("core-100.img", "tc.timers.real.vsec", "changed"),
        ("core-100.img", "tc.rlimits.rlimits[3].cur", "changed"),
        ("core-100.img", "thread_core.creds.groups", "changed"),
        ("core-100.img", "tc.oom_score_adj", "added"),
        ("core-100.img", "thread_core.comm", "removed"),
        ("files.img", "[id=2]", "removed"),
        ("files.img", "[id=3].usk.name", "changed"),
        ("files.img", "[id=3].usk.peer", "changed"),
        ("pstree.img", "[pid=102].threads", "changed"),
    }
    by_path = {one["path"]: one for changes in found["entries"].values() for one in changes}
    assert (by_path["tc.timers.real.vsec"]["before"], by_path["tc.timers.real.vsec"]["after"]) == (0, 9)
    assert by_path["thread_core.creds.groups"]["after"] == [1000, 5]
    assert by_path["[id=2]"]["before"]["isk"]["src_port"] == 80
    assert by_path["tc.oom_score_adj"]["before"] is None
    assert by_path["[id=3].usk.name"]["after"] == b"/run/other\0".hex()


def test_an_entry_in_front_does_not_change_those_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(images: dict[str, Any]) -> None:
        images["fdinfo-1000.img"].insert(0, m.fdinfo_entry(id=1, flags=0, type=1, fd=0))
        images[f"mm-{c.FIRST}.img"][0].vmas.insert(0, c.vma(0x10000, 1, 1 | 1 << 9))

    found = compared(capsys, *pair(tmp_path, change))
    assert [one["path"] for one in found["entries"]["fdinfo-1000.img"]] == ["[fd=0]"]
    assert [one["path"] for one in found["entries"][f"mm-{c.FIRST}.img"]] == ["vmas[start=0x10000]"]


def test_pages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(images: dict[str, Any]) -> None:
        images[f"pagemap-{c.FIRST}.img"] = c.pagemap(1, [(c.ANON, 2, 4), (c.ANON + 4 * c.PAGE, 1, 4)])
        images["pages-1.img"] = b"other" * 1000 + bytes(3 * c.PAGE - 5000)
        images["pages-3.img"] = b"S" * (c.PAGE - 1) + b"T"

    before, after = pair(tmp_path, change)
    found = compared(capsys, before, after)
    assert found["entries"] == {}
    rows = [[one[key] for key in ("pid", "start", "changed", "added", "removed")] for one in found["memory"]]
    assert rows == [
        [c.FIRST, c.FILE, 0, 0, 1],
        [c.FIRST, c.ANON, 1, 2, 1],
        [c.FIRST, c.SHARED, 1, 0, 0],
        [c.SECOND, c.SHARED, 1, 0, 0],
    ]
    assert cli.main(["diff", before, after]) == 1
    said = capsys.readouterr().out
    assert "memory of 100 (first)\n" in said
    assert "  200000-20d000 rw-p : of 13 pages 1 changed, 2 new, 1 gone\n" in said
    assert cli.main(["diff", before, after, "--no-pages"]) == 0


def test_images_payloads_and_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def both(images: dict[str, Any]) -> None:
        images["pipes-data.img"] = [(m.pipe_data_entry(pipe_id=5, bytes=3, size=0), b"abc")]
        images["route-9.img"] = b"a route"

    def change(images: dict[str, Any]) -> None:
        both(images)
        images["pipes-data.img"] = [(m.pipe_data_entry(pipe_id=5, bytes=3, size=0), b"abd")]
        images["route-9.img"] = b"b route"
        images["ifaddr-9.img"] = b"an address"
        del images[f"fs-{c.SECOND}.img"]

    before = c.write(tmp_path, both).rename(tmp_path / "before")
    found = compared(capsys, str(before), str(c.write(tmp_path, change)))
    assert found["images"] == {"ifaddr-9.img": "added", f"fs-{c.SECOND}.img": "removed"}
    assert found["entries"]["pipes-data.img"][0]["path"] == "[pipe_id=5].payload"
    assert found["entries"]["route-9.img"][0]["kind"] == "changed"


def test_what_is_ignored(tmp_path: Path) -> None:
    def change(images: dict[str, Any]) -> None:
        images[f"core-{c.FIRST}.img"][0].tc.timers.real.vsec = 9

    before, after = pair(tmp_path, change)
    assert cli.main(["diff", before, after, "-q", "-I", "core-*.img:tc.timers.*"]) == 0
    assert cli.main(["diff", before, after, "-q", "-I", "core-*.img:tc.rlimits.*"]) == 1


def test_trouble_is_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = pair(tmp_path, lambda images: None)
    assert cli.main(["diff", before, str(tmp_path / "nowhere")]) == 2
    (Path(after) / "pstree.img").write_bytes(b"damaged")
    assert cli.main(["diff", before, after]) == 2
    assert "crit: " in capsys.readouterr().err


def test_entries_with_one_id_are_told_apart() -> None:
    twice = [(m.fdinfo_entry(id=n, flags=0, type=1, fd=3), b"") for n in (1, 2)]
    (found,) = differences.entries(twice, twice[:1])
    assert (found.path, found.kind) == ("[fd=3, again 1]", "removed")


def test_what_tells_entries_apart_is_a_field_of_theirs() -> None:
    for message, names in differences.KEYS.items():
        assert set(names) <= set(schema.message(message).DESCRIPTOR.fields_by_name), message
