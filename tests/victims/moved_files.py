# SPDX-License-Identifier: GPL-2.0-only
"""Files that have moved while they were open: a renamed file, a renamed directory with an open file in it, and (with
--link-remap) a file deleted under the name by which it was opened, which has another name.

Options: --link-remap
"""

import os
from collections.abc import Iterator

import victim


def scenario() -> Iterator[victim.Damage]:
    renamed = made("before")
    os.rename("before", "after")
    os.mkdir("folder")
    inner = made("folder/inner")
    os.rename("folder", "moved")
    linked = made("first-name")
    os.link("first-name", "second-name")
    os.unlink("first-name")
    twin = os.open(f"/proc/self/fd/{linked}", os.O_RDONLY)
    before = [os.readlink(f"/proc/self/fd/{fd}") for fd in (renamed, inner, linked, twin)]
    yield lambda: os.lseek(renamed, 0, os.SEEK_SET)
    victim.equal([os.readlink(f"/proc/self/fd/{fd}") for fd in (renamed, inner, linked, twin)], before, "the names")
    for fd, name in ((renamed, "after"), (inner, "moved/inner"), (linked, "second-name"), (twin, "second-name")):
        victim.check(
            os.path.sameopenfile(fd, fd) and os.path.samestat(os.fstat(fd), os.stat(name)), f"{name} is another"
        )
    victim.equal(os.lseek(renamed, 0, os.SEEK_CUR), 4, "the position")
    os.write(linked, b"more")
    victim.equal(os.read(twin, 100), b"textmore", "what was written by the first open file, read by the second")
    left = [name for name in os.listdir(".") if name.startswith("link_remap")]
    victim.check(
        len(left) <= 2, f"hard links that are left: {left}"
    )  # one with --leave-running: the checkpoint needs it


def made(name: str) -> int:
    fd = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
    os.write(fd, b"text")
    return fd


victim.play(scenario)
