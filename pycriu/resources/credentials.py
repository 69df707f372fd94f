# SPDX-License-Identifier: GPL-2.0-only
"""Credentials of a thread: user and group ids, groups, capability sets, securebits, no_new_privs. credentials(7)."""

from __future__ import annotations

import struct

from pycriu.errors import ImageError
from pycriu.images import messages as m
from pycriu.kernel import libc, procfs
from pycriu.tracing.tracee import Remote, Row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

PR_GET_SECUREBITS, PR_SET_SECUREBITS, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 27, 28, 24, 38
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 47, 2
SECBIT_NO_SETUID_FIXUP, SECBIT_KEEP_CAPS = 1 << 2, 1 << 4
_CAP_VERSION_3 = 0x20080522
_FIELDS = (
    ("cap_inh", "CapInh"),
    ("cap_prm", "CapPrm"),
    ("cap_eff", "CapEff"),
    ("cap_bnd", "CapBnd"),
    ("cap_amb", "CapAmb"),
)
_NGROUPS_MAX = 65536


def ask_thread(_remote: Remote) -> tuple[list[Row], Callable[[list[int]], int]]:
    """prctl(PR_GET_SECUREBITS)."""
    return [Row("prctl", PR_GET_SECUREBITS)], lambda results: results[0]


def entry(status: dict[str, str], securebits: int) -> Any:
    """creds_entry out of /proc/TID/status."""
    uid, euid, suid, fsuid = (int(x) for x in status["Uid"].split())
    gid, egid, sgid, fsgid = (int(x) for x in status["Gid"].split())
    creds = m.creds_entry(
        uid=uid, gid=gid, euid=euid, egid=egid, suid=suid, sgid=sgid, fsuid=fsuid, fsgid=fsgid, secbits=securebits,
        groups=[int(x) for x in status["Groups"].split()], no_new_privs=int(status.get("NoNewPrivs", "0")),
    )  # fmt: skip
    for field, name in _FIELDS:
        getattr(creds, field).extend(_words(int(status[name], 16)))
    return creds


def _words(capabilities: int) -> tuple[int, int]:
    return capabilities & 0xFFFFFFFF, capabilities >> 32


def _set(words: Any) -> int:
    if len(words) > 2:
        raise ImageError(f"a capability set of {len(words)} words is too long")
    return sum(word << 32 * i for i, word in enumerate(words))


def own() -> Any:
    """Our own credentials, which is what a new task is born with."""
    return entry(procfs.parse_status(procfs.text("self", "status")), libc.call("prctl", PR_GET_SECUREBITS))


def rows(creds: Any, mine: Any, remote: Remote) -> list[Row]:
    """From the credentials `mine` to `creds`. Nothing where they are the same, and of each part what differs.

    Ids first, with the fix-up of capabilities switched off; then the bounding set, while CAP_SETPCAP is there; then
    securebits; then the sets themselves, after which nothing else may be possible. Who has no more than
    CAP_CHECKPOINT_RESTORE can give that away, and nothing else of this.
    """
    if creds.SerializeToString(deterministic=True) == mine.SerializeToString(deterministic=True):
        return []
    ids = _id_rows(creds, remote) if _ids(creds) != _ids(mine) else []
    dropped = _set(mine.cap_bnd) & ~_set(creds.cap_bnd)
    out = ids + [Row("prctl", PR_CAPBSET_DROP, n, what=f"capability {n}") for n in range(64) if dropped >> n & 1]
    if ids or creds.secbits != mine.secbits:
        out.append(Row("prctl", PR_SET_SECUREBITS, creds.secbits, what="securebits"))
    out.append(Row("capset", remote.data(struct.pack("<Ii", _CAP_VERSION_3, 0)), remote.data(_capability_data(creds))))
    ambient = _set(creds.cap_amb)
    out += [Row("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, n) for n in range(64) if ambient >> n & 1]
    if creds.no_new_privs:
        out.append(Row("prctl", PR_SET_NO_NEW_PRIVS, 1))
    return out


def _ids(creds: Any) -> tuple[Any, ...]:
    users, groups = (creds.uid, creds.euid, creds.suid, creds.fsuid), (creds.gid, creds.egid, creds.sgid, creds.fsgid)
    return users, groups, sorted(creds.groups)


def _id_rows(creds: Any, remote: Remote) -> list[Row]:
    if len(creds.groups) > _NGROUPS_MAX:
        raise ImageError(f"{len(creds.groups)} groups are more than a task can have")
    groups = remote.data(struct.pack(f"<{len(creds.groups)}I", *creds.groups)) if creds.groups else 0
    out = [
        Row("prctl", PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP | SECBIT_KEEP_CAPS, what="securebits"),
        Row("setgroups", len(creds.groups), groups),
        Row("setresgid", creds.gid, creds.egid, creds.sgid),
        Row("setresuid", creds.uid, creds.euid, creds.suid),
    ]
    # These two never fail; they return the previous id.
    return [*out, Row("setfsgid", creds.fsgid), Row("setfsuid", creds.fsuid)]


def _capability_data(creds: Any) -> bytes:
    sets = [_words(_set(words)) for words in (creds.cap_eff, creds.cap_prm, creds.cap_inh)]
    return struct.pack("<6I", *(one[half] for half in (0, 1) for one in sets))
