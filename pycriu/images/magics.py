# SPDX-License-Identifier: GPL-2.0-only
"""Magics by the names that `crit` prints, which are CRIU's; and what a file is, told by its first words."""

from __future__ import annotations

from pycriu.errors import ImageError
from pycriu.images import catalogue
from pycriu.images.catalogue import Kind

# The name of a magic is that of its file in capitals, but for these.
_NAMES = {
    "ids": "IDS", "mm": "MM", "pagemap-shmem": "PAGEMAP", "eventfd": "EVENTFD_FILE", "eventpoll": "EVENTPOLL_FILE",
    "eventpoll-tfd": "EVENTPOLL_TFD", "inotify": "INOTIFY_FILE", "fanotify": "FANOTIFY_FILE", "memfd": "MEMFD_INODE",
    "netlinksk": "NETLINK_SK", "tty": "TTY_FILES", "remap-fpath": "REMAP_FPATH", "filelocks": "FILE_LOCKS",
    "sigacts": "SIGACT", "signal-s": "SIGNAL", "signal-p": "PSIGNAL", "ipcns-var": "IPC_VAR", "mountpoints": "MNTS",
    "stats-dump": "STATS", "stats-restore": "STATS",
}  # fmt: skip


def name_of(kind: Kind) -> str:
    """How `crit` calls the magic of a kind."""
    return _NAMES.get(kind.stem) or kind.stem.upper().replace("-", "_")


# Of kinds with the same magic the first that is listed: they have the same messages.
BY_VALUE: dict[int, Kind] = {}
BY_NAME: dict[str, Kind] = {}
for _kind in catalogue.KINDS:
    if _kind.magic:
        BY_VALUE.setdefault(_kind.magic, _kind)
        BY_NAME.setdefault(name_of(_kind), _kind)


def kind_of(data: bytes | memoryview, label: str) -> Kind:
    """What an image is by its first words; ImageError for unknown ones. `label` names it in errors."""
    first, second = (int.from_bytes(data[at : at + 4], "little") for at in (0, 4))
    if len(data) < 4:
        raise ImageError(f"{label}: {len(data)} bytes are no image")
    framed = first in (catalogue.IMG_COMMON_MAGIC, catalogue.IMG_SERVICE_MAGIC)
    kind = BY_VALUE.get(second if framed else first)
    if kind is None:
        raise ImageError(
            f"{label}: unknown magic 0x{second if framed else first:08x}",
            "images of bytes (pages, tmpfs, iptables and the like) have no magic and no entries",
        )
    return kind
