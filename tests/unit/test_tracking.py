# SPDX-License-Identifier: GPL-2.0-only
"""Which pages are the same by their entries in /proc/PID/pagemap: as a kernel showed them, and against a model."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from pycriu.dumping import tracking
from pycriu.images import framing, store
from pycriu.images import messages as m
from pycriu.kernel import softdirty
from pycriu.kernel.pagemap import PAGE_SIZE as P
from pycriu.kernel.pagemap import Run

HERE = Path(__file__).parent
BASE = 0x7F00_0000_0000
RUN = [(BASE, 8)]
USUAL = softdirty.PRESENT | softdirty.EXCLUSIVE


def sample() -> dict[str, bytes]:
    lines = (HERE / "samples/pagemap/soft-dirty").read_text().splitlines()
    steps = (line.split(": ") for line in lines if not line.startswith("#"))
    return {name: packed([int(word, 16) for word in words.split()]) for name, words in steps}


def packed(entries: list[int]) -> bytes:
    return struct.pack(f"<{len(entries)}Q", *entries)


def numbers(runs: list[Run], base: int = BASE) -> list[int]:
    return [(start - base) // P + n for start, pages in runs for n in range(pages)]


@pytest.mark.parametrize(
    ("before", "after", "same", "dirty"),
    [
        ("clean", "clean", [0, 1, 2, 3, 4, 5, 6, 7], []),
        ("clean", "written 2 5", [0, 1, 3, 4, 6, 7], [2, 5]),
        ("clean", "moved and back 3", [0, 1, 4, 6, 7], [2, 3, 5]),
        ("clean", "tables swapped", [], []),  # clean all of them, and others
        ("tables swapped", "shared with a child", [0, 1, 2, 3, 4, 5, 6, 7], []),
        ("tables swapped", "thrown away 6", [0, 1, 2, 3, 4, 5, 7], []),
        ("tables swapped", "protected, written 7", [0, 1, 2, 3, 4, 5], [7]),
    ],
)
def test_what_a_kernel_showed(before: str, after: str, same: list[int], dirty: list[int]) -> None:
    steps = sample()
    runs, entries = softdirty.certain(RUN, steps[before])
    assert (runs, entries) == (RUN, steps[before])
    found = softdirty.compare(RUN, entries, steps[after])
    assert (numbers(found[0]), numbers(found[1])) == (same, dirty)
    assert numbers(softdirty.dirty(RUN, steps[after])) == [
        n for n, (entry,) in enumerate(struct.iter_unpack("<Q", steps[after])) if entry & softdirty.DIRTY
    ]


def test_what_is_not_certain() -> None:
    """Dirty pages, those of shared memory (which others can write to), and those that changed from look to look."""
    steps = sample()
    assert numbers(softdirty.certain(RUN, steps["written 2 5"])[0]) == [0, 1, 3, 4, 6, 7]
    assert softdirty.certain(RUN, steps["memfd, written by write 1"]) == ([], b"")
    assert numbers(softdirty.certain(RUN, steps["clean"], steps["moved and back 3"])[0]) == [0, 1, 4, 6, 7]
    assert softdirty.certain(RUN, steps["clean"], steps["tables swapped"], steps["clean"]) == ([], b"")
    assert softdirty.certain(RUN, steps["tables swapped"], steps["shared with a child"])[0] == RUN
    hidden = packed([USUAL] * 8)  # page frames, from those without CAP_SYS_ADMIN
    assert softdirty.certain(RUN, hidden) == ([], b"")
    swapped = packed([softdirty.SWAPPED | 77 << 5] * 8)
    assert softdirty.certain(RUN, swapped) == ([], b"")


def test_against_a_plain_model() -> None:
    rng = random.Random(1)
    for _ in range(30):
        runs, at = [], BASE
        for _ in range(rng.randrange(1, 6)):
            at += rng.randrange(1, 9) * P
            runs.append((at, rng.choice([1, 7, 16, 17, 300, 1024, 2500])))
            at += runs[-1][1] * P
        count = sum(pages for _, pages in runs)
        before = [USUAL | 1000 + n for n in range(count)]
        now = list(before)
        for n in rng.sample(range(count), rng.randrange(count // 3 + 1)):
            now[n] = rng.choice(
                [
                    now[n] | softdirty.DIRTY,
                    now[n] ^ softdirty.EXCLUSIVE,
                    USUAL | 5,
                    USUAL | softdirty.DIRTY | 6,
                    softdirty.SWAPPED | 9 << 5,
                ]
            )
        same, dirty = softdirty.compare(runs, packed(before), packed(now))
        pages = [start // P + n for start, number in runs for n in range(number)]
        shared = softdirty.EXCLUSIVE
        expected = [page for page, old, new in zip(pages, before, now, strict=True) if old | shared == new | shared]
        assert numbers(same, 0) == expected
        assert numbers(dirty, 0) == [page for page, new in zip(pages, now, strict=True) if new & softdirty.DIRTY]


def entry(**changes: object) -> m.pycriu_track_entry:
    good = {
        "token": bytes(16), "boot": bytes(16), "started": 5, "marked": [BASE], "other": [BASE + P],
        "start": [BASE, BASE + 4 * P], "pages": [2, 1], "entries": packed([USUAL | 7] * 3),
    }  # fmt: skip
    return m.pycriu_track_entry(**(good | changes))  # type: ignore[arg-type]


def write(folder: Path, image: m.pycriu_track_entry) -> None:
    kind = store.kind_of("pycriu-track-7.img")
    (folder / "pycriu-track-7.img").write_bytes(b"".join(framing.build(kind, [image], "it")))


@pytest.mark.parametrize(
    "changes",
    [
        {"pages": [2]},
        {"pages": [2, 2]},
        {"start": [BASE, BASE + P]},
        {"start": [BASE + 4 * P, BASE]},
        {"start": [BASE + 1, BASE + 4 * P]},
        {"entries": b""},
        {"marked": []},
        {"other": []},
        {"marked": [BASE + 8]},
    ],
)
def test_an_image_that_makes_no_sense(tmp_path: Path, changes: dict[str, object]) -> None:
    write(tmp_path, entry(**changes))
    with store.ImagesDir(str(tmp_path)) as images, pytest.raises(tracking.Untracked, match="makes no sense"):
        tracking.read(7, images)


def test_images_of_another_process(tmp_path: Path) -> None:
    """That it is of this boot, and of a process that began then, is asked before anything else."""
    write(tmp_path, entry())
    with store.ImagesDir(str(tmp_path)) as images:
        track = tracking.read(7, images)
    with pytest.raises(tracking.Untracked, match="another process"):
        track.ask(5, [], [])
