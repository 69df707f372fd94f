# SPDX-License-Identifier: GPL-2.0-only
"""Working directory and umask.

Kept: working directory, umask
"""

import os
from collections.abc import Iterator

import victim


def scenario() -> Iterator[victim.Damage]:
    home = os.getcwd()
    os.mkdir("deep")
    # play() looks for its files where the victim was started, so a child changes place in its stead.
    hold, release = os.pipe()
    mover = victim.child(lambda: judge(hold, release, f"{home}/deep"))
    os.close(hold)
    os.umask(0o027)
    victim.wait_until(lambda: os.readlink(f"/proc/{mover}/cwd").endswith("/deep"), "the child's directory")
    yield lambda: os.umask(0o022)
    os.close(release)
    victim.join(mover, "the child in another directory")
    victim.equal(os.getcwd(), home, "the working directory")
    victim.equal(os.umask(0), 0o027, "the umask")


def judge(hold: int, release: int, place: str) -> None:
    os.close(release)
    os.umask(0o077)
    os.chdir(place)
    os.read(hold, 1)
    victim.equal(os.getcwd(), place, "the child's working directory")
    with open("made", "wb") as made:
        victim.equal(os.fstat(made.fileno()).st_mode & 0o777, 0o600, "the mode of a new file under umask 077")


victim.play(scenario)
