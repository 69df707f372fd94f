# SPDX-License-Identifier: GPL-2.0-only
"""What holds the packets of the connections of a checkpoint until its restore, by the words of its inventory.

pycriu's rules are a table of nf_tables whose name CRIU would give it, so each tool removes what the other has made.
CRIU's may be rules of iptables, too: two for each end of a connection.
"""

from __future__ import annotations

import os

from pycriu.errors import ImageError
from pycriu.kernel import nftables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pycriu.images.store import Images
    from pycriu.kernel.nftables import Connection
    from pycriu.log import Log

IPTABLES, NFTABLES, SKIP = 0, 1, 2  # inventory_entry.network_lock_method; in rpc.proto each is one more
_PREFIX = "CRIU-"
_RANDOM = 6  # bytes in a run id of ours
_LONGEST = 36  # characters of one of CRIU's, a UUID
_CUT = 21  # of which CRIU before 4.2 took so many for the name


def fresh_id(pid: int) -> str:
    """What tells this dump of the tree with the root `pid` from all others: a run id, short enough for any CRIU."""
    return f"{pid}-{os.urandom(_RANDOM).hex()}"


def table(run_id: str, number: int) -> str:
    """The name of the first, second … table of a dump; CRIU knows of the first alone."""
    return f"{_PREFIX}{run_id}" if not number else f"{_PREFIX}{run_id}-{number}"


def table_of(line: bytes) -> str:
    """The name of a table of ours; ImageError for any other, which is not ours to remove."""
    name = line[:64].decode("ascii", "replace")
    pid, _, rest = name.removeprefix(_PREFIX).partition("-")
    random, _, number = rest.partition("-")
    known = name.startswith(_PREFIX) and pid.isdecimal() and len(random) == 2 * _RANDOM and random.isalnum()
    if not known or not (number or "0").isdecimal() or len(line) > 64:
        raise ImageError(f"{line[:64]!r} is no table of rules that pycriu makes")
    return name


class Foreign:
    """CRIU's locks of one checkpoint."""

    def __init__(self, images: Images, log: Log) -> None:
        inventory = images.inventory()
        self._log = log
        self.method = inventory.network_lock_method  # of old images, which say nothing, IPTABLES
        self.tables = _tables(images, inventory.dump_criu_run_id) if self.method == NFTABLES else []
        self.connections: list[Connection] = []

    def let_go(self) -> None:
        """Remove them. More than once; what is not there, or was made on another machine, is passed over."""
        for name in self.tables:
            nftables.let_go(name)
        if self.method == IPTABLES and self.connections:
            self._remove_rules()
        self.connections = []

    def _remove_rules(self) -> None:
        import shutil
        import subprocess

        for binary in ("iptables", "ip6tables"):
            length = 4 if binary == "iptables" else 16
            mine = [rule for one in self.connections if len(one.source) == length for rule in rules(one)]
            tools = [path for name in (binary, f"{binary}-legacy") if (path := shutil.which(name))]
            if mine and not tools:
                self._log.warn("%s is not here, so rules by which CRIU may have locked connections stay", binary)
            for tool in tools:
                for rule in mine:
                    subprocess.run([tool, "-w", "-t", "filter", "-D", *rule], capture_output=True, check=False)


def _tables(images: Images, run_id: str) -> list[str]:
    if not run_id:
        entries: list[Any] = images.read("pstree.img")
        return [f"{_PREFIX}{entry.pid}" for entry in entries[:1]]
    if len(run_id) > _LONGEST or not run_id.replace("-", "").isalnum() or not run_id.isascii():
        raise ImageError(f"the inventory has the run id {run_id[:64]!r}, which is none")
    return [f"{_PREFIX}{run_id}", f"{_PREFIX}{run_id[:_CUT]}"]


def rules(one: Connection) -> list[list[str]]:
    """The rules by which CRIU drops what comes in and goes out on one side of a connection."""
    from pycriu.fds.inet import endpoints

    here, there = endpoints.unpacked(one.source), endpoints.unpacked(one.destination)
    ends = (("INPUT", there, one.destination_port, here, one.source_port),
            ("OUTPUT", here, one.source_port, there, one.destination_port))  # fmt: skip
    return [
        [
            chain, "--protocol", "tcp", "-m", "mark", "!", "--mark", hex(nftables.MARK), "--source", source,
            "--sport", str(sport), "--destination", destination, "--dport", str(dport), "-j", "DROP",
        ]
        for chain, source, sport, destination, dport in ends
    ]  # fmt: skip
