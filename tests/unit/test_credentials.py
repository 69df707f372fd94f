# SPDX-License-Identifier: GPL-2.0-only
"""Credentials: from /proc/PID/status to an image, and from there to calls in an order that is possible."""

from __future__ import annotations

from typing import Any

import pytest

from pycriu.arch.x86_64 import X86_64
from pycriu.errors import ImageError
from pycriu.resources import credentials
from pycriu.tracing.tracee import Remote, Tracee

ALL = (1 << 41) - 1


def status(uid: str = "0 0 0 0", gid: str = "0 0 0 0", bounding: int = ALL, effective: int = ALL, ambient: int = 0,
           groups: str = "", no_new_privs: str = "0") -> dict[str, str]:  # fmt: skip
    sets = {"CapInh": ambient, "CapPrm": effective, "CapEff": effective, "CapBnd": bounding, "CapAmb": ambient}
    words = {name: f"{value:016x}" for name, value in sets.items()}
    return {"Uid": uid, "Gid": gid, "Groups": groups, "NoNewPrivs": no_new_privs, **words}


def rows(creds: Any, mine: Any) -> list[tuple[Any, ...]]:
    return [(row.name, *row.args) for row in credentials.rows(creds, mine, Remote(Tracee(0, X86_64)))]


def test_the_same_credentials_need_no_call() -> None:
    assert rows(credentials.entry(status(), 0), credentials.entry(status(), 0)) == []


def test_entry() -> None:
    creds = credentials.entry(status("1 2 3 4", "5 6 7 8", groups="9 10", no_new_privs="1"), 3)
    assert (creds.uid, creds.euid, creds.suid, creds.fsuid) == (1, 2, 3, 4)
    assert (creds.gid, creds.egid, creds.sgid, creds.fsgid) == (5, 6, 7, 8)
    assert list(creds.groups) == [9, 10]
    assert list(creds.cap_eff) == [0xFFFFFFFF, 0x1FF]
    assert (creds.secbits, creds.no_new_privs) == (3, 1)


def test_order() -> None:
    creds = credentials.entry(status("7 8 9 8", effective=0x80, bounding=0xFF, ambient=0x80, no_new_privs="1"), 4)
    names = [(name, *args[:1]) for name, *args in rows(creds, credentials.entry(status(), 0))]
    at = {what: names.index(what) for what in (("setgroups", 0), ("setresuid", 7), ("prctl", 38), ("prctl", 47))}
    capset = next(index for index, row in enumerate(names) if row[0] == "capset")
    drops = [index for index, row in enumerate(names) if row == ("prctl", credentials.PR_CAPBSET_DROP)]
    assert names[0] == ("prctl", credentials.PR_SET_SECUREBITS)
    assert at["setgroups", 0] < at["setresuid", 7] < drops[0] <= drops[-1] < capset < at["prctl", 47] < at["prctl", 38]
    assert len(drops) == 41 - 8


def test_too_many_groups_and_too_long_sets() -> None:
    mine = credentials.entry(status(), 0)
    creds = credentials.entry(status("1 1 1 1"), 0)
    creds.groups.extend(range(65537))
    with pytest.raises(ImageError, match="groups"):
        rows(creds, mine)
    creds = credentials.entry(status("1 1 1 1"), 0)
    creds.cap_bnd.append(1)
    with pytest.raises(ImageError, match="too long"):
        rows(creds, mine)
