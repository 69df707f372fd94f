# SPDX-License-Identifier: GPL-2.0-only
"""Credentials: ids, supplementary groups, capabilities, of one who gave up root. To be run as root.

Kept: user and group ids, groups, capabilities, securebits, no_new_privs
"""

import os
from collections.abc import Iterator

import victim

NOBODY = 65534
LINES = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs")


def scenario() -> Iterator[victim.Damage]:
    victim.equal(os.geteuid(), 0, "the user id at the start")
    hold, release = os.pipe()
    humble = victim.child(lambda: judge(hold, release))
    partly = victim.child(lambda: judge_saved(hold, release))
    os.close(hold)
    victim.wait_until(lambda: settled("humble") and settled("partly"), "the children's new ids")
    before = [victim.status_lines(*LINES, pid=pid) for pid in ("self", str(humble), str(partly))]
    yield lambda: os.setgroups([7])
    victim.equal(
        [victim.status_lines(*LINES, pid=pid) for pid in ("self", str(humble), str(partly))], before, "credentials"
    )
    os.close(release)
    victim.join(humble, "the one who is nobody")
    victim.join(partly, "the one who may become root again")


def settled(name: str) -> bool:
    return os.path.exists(name) and os.path.getsize(name) > 0


def judge(hold: int, release: int) -> None:
    os.close(release)
    with open("humble", "wb") as settled:
        os.setgroups([10, 20, NOBODY])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        settled.write(b"x")
    os.read(hold, 1)
    victim.equal(os.getresuid(), (NOBODY,) * 3, "real, effective and saved user")
    victim.equal(sorted(os.getgroups()), [10, 20, NOBODY], "supplementary groups")
    try:
        os.setuid(0)
    except PermissionError:
        return
    raise victim.Failed("nobody could become root")


def judge_saved(hold: int, release: int) -> None:
    os.close(release)
    with open("partly", "wb") as settled:
        os.setresuid(1000, 1000, 0)
        settled.write(b"x")
    os.read(hold, 1)
    victim.equal(os.getresuid(), (1000, 1000, 0), "real, effective and saved user")
    os.setresuid(0, 0, 0)


victim.play(scenario)
