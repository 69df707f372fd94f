# SPDX-License-Identifier: GPL-2.0-only
"""What a mapping has beyond its file and its rights: advice, locks, guards, names, protection keys, seals.

Advice goes into CRIU's vma_entry; guard pages (MADV_GUARD_INSTALL, Linux 6.13; visible from 6.15) into entries of their
own with the status GUARD, as CRIU 4.2 has them. For the rest there is `pycriu-memory-PID.img`, which CRIU ignores:
an entry for each mapping that has any of it.

Not kept: protection keys of a process none of whose mappings has one, and none of whose threads has set its rights.
"""

from __future__ import annotations

from pycriu.errors import ImageError, KernelError
from pycriu.images import messages as m
from pycriu.images import own
from pycriu.images.catalogue import KERNEL_MADE, SYSVIPC
from pycriu.kernel.pagemap import PAGE_SIZE, Run
from pycriu.resources.memory.mappings import MAP_LOCKED, PROT_EXEC, PROT_WRITE, Mapping
from pycriu.tracing.tracee import Remote, Row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pycriu.resources.memory.plan import Plan

GUARD = 1 << 16  # vma_entry.status
# VmFlags of smaps (Documentation/filesystems/proc.rst) → the madvise(2) advice that sets them.
ADVICE = {"rr": 1, "sr": 2, "dc": 10, "mg": 12, "hg": 14, "nh": 15, "dd": 16, "wf": 18}
MADV_GUARD_INSTALL = 102
MLOCK_ONFAULT = 1
PROT_BTI = 0x10  # arch/arm64/include/uapi/asm/mman.h: the only architecture with the flag "bt"
PR_SET_VMA, PR_SET_VMA_ANON_NAME = 0x53564D41, 0
ANON_NAME, _ANON_NAME_MAX = "[anon:", 80  # include/linux/mm.h
ANON_SHMEM_NAME = "[anon_shmem:"
PKEYS = 16
EINVAL = 22

# VmFlags → the name of the fact.
FLAGS = {"lf": "locked_on_fault", "bt": "branch_targets", "sl": "sealed"}


def vma_advice(mapping: Mapping) -> int:
    """vma_entry.madv: a bit for each advice that was given."""
    return sum(1 << advice for flag, advice in ADVICE.items() if flag in mapping.line.flags)


def extra_entries(mappings: list[Mapping], keys: tuple[int, ...]) -> list[Any]:
    """The image of what CRIU's messages have no fields for; empty where there is nothing of that."""
    found: own.Facts = {0: {"keys": keys}} if keys else {}
    for mapping in mappings:
        if mapping.status & KERNEL_MADE:
            continue
        line = mapping.line
        of_mapping: dict[str, own.Numbers] = {name: () for flag, name in FLAGS.items() if flag in line.flags}
        for prefix in (ANON_NAME, ANON_SHMEM_NAME):
            if line.name.startswith(prefix):
                of_mapping["name"] = tuple(line.name.removeprefix(prefix)[:-1].encode("utf-8", "surrogateescape"))
        if line.key:
            of_mapping["key"] = (line.key,)
        if of_mapping:
            found[line.start] = of_mapping
    return own.mapping_entries(found)


def allocated_keys(remote: Remote, mappings: list[Mapping], sets: list[dict[int, bytes]]) -> tuple[int, ...]:
    """The protection keys that a process has allocated, where it shows that it uses them.

    `sets` are the register sets of its threads. pkey_mprotect(2) of an address where nothing is fails in one way for an
    allocated key, in another for others.
    """
    if not any(mapping.line.key for mapping in mappings) and not any(map(remote.task.arch.has_key_rights, sets)):
        return ()
    found = []
    for key in range(1, PKEYS):
        try:
            remote.call("pkey_mprotect", 0, PAGE_SIZE, 0, key)
        except KernelError as error:
            if error.errno == EINVAL:
                continue
        found.append(key)
    return tuple(found)


def guard_entries(guards: list[Run]) -> list[Any]:
    """The guard pages of a task, after its mappings in the mm image."""
    return [
        m.vma_entry(start=at, end=at + pages * PAGE_SIZE, pgoff=0, shmid=0, prot=0, flags=0, status=GUARD, fd=-1)
        for at, pages in guards
    ]


# ---------------------------------------------------------------------------------------------------------- restore


def read_facts(entries: list[Any], label: str, starts: set[int]) -> own.Facts:
    """What `extra_entries` has made; `starts` are the addresses of the mappings."""
    found = own.facts(entries, "start", label)
    for start, names in found.items():
        if start not in starts and (start or set(names) != {"keys"}):
            raise ImageError(f"{label}: no mapping starts at {start:#x}")
        keys = names.get("keys", ()) + names.get("key", ())
        if len(keys) > PKEYS or len(names.get("name", ())) > _ANON_NAME_MAX:
            raise ImageError(f"{label}: what it says of {start:#x} is too long")
        if not all(0 < key < PKEYS for key in keys) or not all(0 < byte < 256 for byte in names.get("name", ())):
            raise ImageError(f"{label}: what it says of {start:#x} is out of bounds")
    return found


def _keys(plan: Plan) -> tuple[set[int], set[int], set[int]]:
    """Protection keys: allocated by the task, of its mappings that can only be executed, and all up to the highest."""
    allocated = set(plan.facts.get(0, {}).get("keys", ()))
    used = {vma.start: plan.facts.get(vma.start, {}).get("key", (0,))[0] for vma in plan.vmas}
    kernels = {used[vma.start] for vma in plan.vmas if vma.prot == PROT_EXEC} - allocated - {0}
    return allocated, kernels, set(range(1, max({0} | allocated | set(used.values())) + 1))


def key_rows(plan: Plan) -> list[Row]:
    """Before anything is mapped: allocate all keys but the one that the kernel takes for mappings to be executed only.

    The kernel gives out the lowest free one, so those between are allocated, and given back later.
    """
    _, kernels, everything = _keys(plan)
    rows = [Row("pkey_alloc", 0, 0, what="protection keys; needs a CPU that has them") for _ in everything]
    return rows + [Row("pkey_free", key) for key in sorted(kernels)]


def rows(plan: Plan, remote: Remote) -> list[Row]:
    """Protection, locks, advice, names and seals, once the pages are in."""
    allocated, kernels, everything = _keys(plan)
    found = [Row("pkey_free", key) for key in sorted(everything - allocated - kernels)]
    for vma in plan.vmas:
        if vma.status & KERNEL_MADE:
            continue
        extra = plan.facts.get(vma.start, {})
        span = (vma.start, vma.end - vma.start)
        what = f"the mapping {vma.start:x}-{vma.end:x}"
        found += _protection(plan, vma, extra, kernels, what)
        if vma.flags & MAP_LOCKED:
            found.append(Row("mlock2", *span, MLOCK_ONFAULT if "locked_on_fault" in extra else 0, what=what))
        found += [Row("madvise", *span, n, what=what) for n in ADVICE.values() if vma.madv >> n & 1]
        if "name" in extra:
            name = remote.data(bytes(extra["name"]) + b"\0")
            what += ": its name; needs CONFIG_ANON_VMA_NAME"
            found.append(Row("prctl", PR_SET_VMA, PR_SET_VMA_ANON_NAME, *span, name, what=what))
    what = "guard pages; needs Linux 6.13"
    found += [Row("madvise", vma.start, vma.end - vma.start, MADV_GUARD_INSTALL, what=what) for vma in plan.guards]
    sealed = [vma for vma in plan.vmas if "sealed" in plan.facts.get(vma.start, {})]
    what = "sealing memory; needs Linux 6.10"
    return found + [Row("mseal", vma.start, vma.end - vma.start, 0, what=what) for vma in sealed]


def _protection(plan: Plan, vma: Any, extra: dict[str, own.Numbers], kernels: set[int], what: str) -> list[Row]:
    prot = vma.prot | (PROT_BTI if "branch_targets" in extra else 0)
    key = extra.get("key", (0,))[0]
    if key and key not in kernels:
        return [Row("pkey_mprotect", vma.start, vma.end - vma.start, prot, key, what=what)]
    if vma.status & SYSVIPC or prot != vma.prot or (plan.is_filled(vma) and not vma.prot & PROT_WRITE):
        return [Row("mprotect", vma.start, vma.end - vma.start, prot, what=what)]
    return []
