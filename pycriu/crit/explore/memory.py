# SPDX-License-Identifier: GPL-2.0-only
"""Mappings, and the pages of them that are in the images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pycriu.crit.explore.view import REG, View, pages_of

_PAGE_SHIFT = 12  # CRIU's images do not tell; crit has always taken it for this
_SYSVIPC, _SHARED, _SOCKET, _FILES, _FILE_SHARED = 1 << 10, 1 << 8, 1 << 11, 3 << 6, 1 << 7
_NAMED = {1 << 1: "[stack]", 1 << 2: "[vsyscall]", 1 << 3: "[vdso]"}
_GROWSDOWN = 0x100


def mems(view: View) -> Iterator[str]:
    """The mappings of each process; objects of shared memory are numbered as they come."""
    numbers: dict[int, int] = {}
    for one in view.living():
        mm = view.one(f"mm-{one.pid}.img")
        yield str(one.pid)
        yield f"\t{'exe':<36}    {view.file_text(REG, mm.exe_file_id)}"
        for vma in mm.vmas:
            rights = "".join(letter if vma.prot >> bit & 1 else "-" for bit, letter in enumerate("rwx"))
            what = _what(view, vma, numbers) + ("" if vma.status & 1 else " *")
            yield f"\t{f'{vma.start:08x}-{vma.end:08x}':<36}{rights}{what}"


def _what(view: View, vma: Any, numbers: dict[int, int]) -> str:
    for bit, name in ((_SYSVIPC, "ips"), (_SHARED, "shmem"), (_SOCKET, "packet")):
        if vma.status & bit:
            return f" {name}[{numbers.setdefault(vma.shmid, len(numbers) + 1):x}]"
    if vma.status & _FILES:
        offset = f" + {vma.pgoff:#x}" if vma.pgoff else ""
        return f" {view.file_text(REG, vma.shmid)}{offset}{' (s)' if vma.status & _FILE_SHARED else ''}"
    for bit, name in _NAMED.items():
        if vma.status & bit:
            return f" {name}"
    return " [stack?]" if vma.flags & _GROWSDOWN else ""


def rss(view: View) -> Iterator[str]:
    """Runs of pages, each beside the mappings that it lies in; `~` stands for the one of the line above."""
    for one in view.living():
        vmas = view.one(f"mm-{one.pid}.img").vmas
        yield str(one.pid)
        at, shown = 0, -1
        for run in view.images.read(f"pagemap-{one.pid}.img")[1:]:
            vaddr, pages = run.vaddr, pages_of(run)  # type: ignore[attr-defined]
            while at < len(vmas) and vmas[at].end <= vaddr:
                at += 1
            beside = [""]
            while at < len(vmas) and vmas[at].start < vaddr + (pages << _PAGE_SHIFT):
                beside[-1] += " ~" if at == shown else _beside(view, vmas[at])
                beside.append(f"\t{'':>23}")
                shown = at
                at += 1
            at -= 1
            yield f"{f'{chr(9)}{vaddr:x} / {pages:<8}':<24}{beside[0]}"
            yield from beside[1:]


def _beside(view: View, vma: Any) -> str:
    name = f" {view.file_text(REG, vma.shmid)}" if vma.status & _FILES else ""
    return f" {vma.start:08x} / {(vma.end - vma.start) >> _PAGE_SHIFT:<8}{name}"
