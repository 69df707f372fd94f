# SPDX-License-Identifier: GPL-2.0-only
"""A root directory of one's own (chroot(2)), with working directories inside and outside of it, and open files.

Missing: a root directory in another mount namespace (refused).
"""

import os
from collections.abc import Iterator

import victim


def scenario() -> Iterator[victim.Damage]:
    home = os.getcwd()
    os.makedirs("jail/deep/deeper")
    os.mkdir("jail/tmp")
    hold, release = os.pipe()
    ready, tell = os.pipe()

    def live(place: str, expected: str | None) -> None:
        """In the jail, with the working directory `place`; `expected` is its path from there, None if it is outside."""
        os.close(release)
        outside = os.open(".", os.O_RDONLY)
        os.chdir("jail")
        file = os.open(f"deep/{os.getpid()}", os.O_RDWR | os.O_CREAT)
        os.chroot(".")
        if expected is None:
            os.fchdir(outside)
        else:
            os.chdir(place)
        before = state(file)
        os.write(tell, b"x")
        if os.read(hold, 1):
            os.fchdir(outside)
            os.chroot(".")
        victim.equal(state(file), before, f"root and working directory of a process that stands in {place}")
        if expected is not None:
            victim.equal(os.getcwd(), expected, "the working directory")
        # From here on a path leads from the jail, whatever the file was opened as.
        victim.equal(sorted(os.listdir("/")), ["deep", "tmp"], "what is in the root directory")
        os.stat(f"/deep/{os.getpid()}")

    ways: tuple[tuple[str, str | None], ...] = (("deep/deeper", "/deep/deeper"), ("/", "/"), ("..", None))
    children = [victim.child(lambda way=way: live(*way)) for way in ways]  # type: ignore[misc]
    os.close(hold)
    for _ in children:
        os.read(ready, 1)
    yield lambda: os.write(release, b"x")
    victim.equal(os.getcwd(), home, "the victim's own working directory")
    os.close(release)
    for pid in children:
        victim.join(pid, "a child in the jail")


def state(file: int) -> list[tuple[int, int]]:
    """Root and working directory, the open file: by device and inode."""
    found = [os.stat("/"), os.stat("."), os.fstat(file)]
    return [(one.st_dev, one.st_ino) for one in found]


victim.play(scenario)
