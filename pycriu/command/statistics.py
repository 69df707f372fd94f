# SPDX-License-Identifier: GPL-2.0-only
"""The figures of stats-dump and stats-restore in words, line by line as CRIU prints them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_OF_A_DUMP = (
    ("Freezing time", "freezing_time"), ("Frozen time", "frozen_time"), ("Memory dump time", "memdump_time"),
    ("Memory write time", "memwrite_time"), ("IRMAP resolve time", "irmap_resolve"),
    ("Memory pages scanned", "pages_scanned"), ("Memory pages skipped from parent", "pages_skipped_parent"),
    ("Memory pages written", "pages_written"), ("Lazy memory pages", "pages_lazy"),
)  # fmt: skip
_OF_A_RESTORE = (
    ("Pages compared", "pages_compared"), ("Pages skipped COW", "pages_skipped_cow"),
    ("Pages restored", "pages_restored"), ("Restore time", "restore_time"), ("Forking time", "forking_time"),
)  # fmt: skip


def lines(entry: Any) -> list[str]:
    """What a stats_entry says: times in microseconds, numbers of pages also in hexadecimal."""
    dumped = entry.HasField("dump")
    figures, names = (entry.dump, _OF_A_DUMP) if dumped else (entry.restore, _OF_A_RESTORE)
    told = [f"Displaying {'dump' if dumped else 'restore'} stats:"]
    for words, name in names:
        value = getattr(figures, name)
        told.append(f"{words}: {value} us" if " time" in words else f"{words}: {value} (0x{value:x})")
    return told
