# SPDX-License-Identifier: GPL-2.0-only
"""Tables of nf_tables that hold connections of checkpoints: which there are, and how what was left behind goes."""

from __future__ import annotations

import struct

from pycriu.kernel import netlink, nftables

_NETFILTER, _GETTABLES = 12, 10 << 8 | 1


def tables(*beginnings: str) -> set[str]:
    """The tables whose names begin with one of these."""
    if nftables.available() is not None:
        return set()
    with netlink.Netlink(_NETFILTER, "nf_tables") as link:
        bodies = link.dump(_GETTABLES, struct.pack("=BBH", 1, 0, 0))
    names = [netlink.attributes(body[4:])[1].rstrip(b"\0").decode() for body in bodies]
    return {name for name in names if name.startswith(beginnings)}


def of_trees(pids: set[int]) -> set[str]:
    """Those that pycriu has made for trees with these roots."""
    return tables(*(f"CRIU-{pid}-" for pid in pids))


def let_go(names: set[str]) -> None:
    """Remove them."""
    for name in names:
        nftables.let_go(name)
