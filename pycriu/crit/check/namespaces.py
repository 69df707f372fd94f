# SPDX-License-Identifier: GPL-2.0-only
"""Namespaces and what is in them, control groups, filters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pycriu.crit.check.model import Model

# stem → the namespace that its number is of
_SPACE_OF = {
    "utsns": "uts", "ipcns-var": "ipc", "ipcns-shm": "ipc", "ipcns-sem": "ipc", "ipcns-msg": "ipc",
    "mountpoints": "mnt", "userns": "user", "timens": "time", "pidns": "pid", "netns": "net", "netdev": "net",
    "ifaddr": "net", "route": "net", "route6": "net", "rule": "net", "iptables": "net", "ip6tables": "net",
    "nftables": "net", "netns-ct": "net", "netns-exp": "net",
}  # fmt: skip
# Images that a dump of a namespace always writes together.
_TOGETHER = {"ipcns-var": ("ipcns-shm", "ipcns-sem", "ipcns-msg"), "netns": ("netdev",)}
_INSTRUCTION = 8
_SECOND = 10**9


def check(model: Model) -> None:
    """All of it."""
    _check_numbers(model)
    _check_mounts(model)
    _check_maps(model)
    _check_ipc(model)
    _check_devices(model)
    _check_groups(model)
    _check_filters(model)


def _check_numbers(model: Model) -> None:
    """Images of namespaces that somebody is in."""
    everybody = [entry.root_ids for entry in model.entries("inventory.img") if entry.HasField("root_ids")]
    everybody += model.ids.values()
    for stem, space in _SPACE_OF.items():
        known = {getattr(ids, f"{space}_ns_id") for ids in everybody}
        for name, number in model.numbered(stem):
            if number not in known and number and everybody:  # 0: the one that the dump was made in
                model.found(name, f"nobody is in the {space} namespace {number}")
            for other in _TOGETHER.get(stem, ()):
                model.need(f"{other}-{number}.img", f"{name} is there")
    for process in model.living:
        if process.pid in model.ids and everybody:
            _check_same(model, process.pid)


def _check_same(model: Model, pid: int) -> None:
    """A process has all its ids, if any."""
    ids = model.ids[pid]
    inventory = model.entries("inventory.img")
    if not inventory or not inventory[0].ns_per_id:
        return
    for space in ("pid", "net", "ipc", "uts", "mnt"):
        field = f"{space}_ns_id"
        if not getattr(ids, field):
            model.found(f"ids-{pid}.img", "is missing, although namespaces have ids", 0, field)


def _check_mounts(model: Model) -> None:
    for name, _ in model.of_stem("mountpoints"):
        known = [entry.mnt_id for entry in model.entries(name)]
        roots = 0
        for number, entry in enumerate(model.entries(name)):
            if known.count(entry.mnt_id) > 1:
                model.found(name, f"mount {entry.mnt_id} is there twice", number, "mnt_id")
            roots += entry.parent_mnt_id not in known or entry.parent_mnt_id == entry.mnt_id
            if not entry.mountpoint:
                model.found(name, "is empty", number, "mountpoint")
        if known and roots != 1:
            model.found(name, f"{roots} mounts have no parent, one has none in a tree", None, "parent_mnt_id")


def _check_maps(model: Model) -> None:
    for name, field, what in _fields(model, "userns", ("uid_map", "gid_map")):
        for number, one in enumerate(what):
            if not one.count or max(one.first, one.lower_first) + one.count > 1 << 32:
                model.found(name, "is no range of ids", 0, f"{field}[{number}]")
    for name, field, what in _fields(model, "timens", ("monotonic", "boottime")):
        if what.tv_nsec >= _SECOND:
            model.found(name, "more than a second of nanoseconds", 0, field)
    for name, field, what in _fields(model, "utsns", ("nodename", "domainname")):
        if len(what) > 64:
            model.found(name, "is longer than 64 characters", 0, field)


def _fields(model: Model, stem: str, fields: tuple[str, ...]) -> Iterator[tuple[str, str, Any]]:
    """Some fields of all images of a kind: image, field, value."""
    for name, _ in model.of_stem(stem):
        for entry in model.entries(name):
            for field in fields:
                yield name, field, getattr(entry, field)


def _check_ipc(model: Model) -> None:
    for stem in ("ipcns-shm", "ipcns-sem", "ipcns-msg"):
        for name, _ in model.of_stem(stem):
            model.once(name, "desc.id")
            for number, entry in enumerate(model.entries(name)):
                if entry.desc.id >= 1 << 31:
                    model.found(name, f"{entry.desc.id} is no id", number, "desc.id")
                if stem == "ipcns-shm" and entry.in_pagemaps and not model.has(f"pagemap-shmem-{entry.desc.id}.img"):
                    text = f"is missing: the pages of segment {entry.desc.id}"
                    model.found(f"pagemap-shmem-{entry.desc.id}.img", text)


def _check_devices(model: Model) -> None:
    for name, _ in model.of_stem("netdev"):
        for field in ("ifindex", "name"):
            model.once(name, field)
            for number, entry in enumerate(model.entries(name)):
                if not getattr(entry, field):
                    model.found(name, "is empty", number, field)


def _check_groups(model: Model) -> None:
    """Control groups that tasks are said to be in."""
    if not model.has("cgroup.img") or "cgroup.img" in model.broken:
        return
    known = [one.id for entry in model.entries("cgroup.img") for one in entry.sets]
    for number, one in enumerate(known):
        if known.count(one) > 1:
            model.found("cgroup.img", f"set {one} is there twice", 0, f"sets[{number}].id")
    for name, field, number in _sets(model):
        if number and number not in known:
            model.found(name, f"cgroup.img has no set {number}", 0, field)


def _sets(model: Model) -> Iterator[tuple[str, str, int]]:
    for entry in model.entries("inventory.img"):
        if entry.HasField("root_cg_set"):
            yield "inventory.img", "root_cg_set", entry.root_cg_set
    for name, _ in model.numbered("core"):
        for core in model.entries(name):
            if core.tc.HasField("cg_set"):
                yield name, "tc.cg_set", core.tc.cg_set
            if core.thread_core.HasField("cg_set"):
                yield name, "thread_core.cg_set", core.thread_core.cg_set


def _check_filters(model: Model) -> None:
    for entry in model.entries("seccomp.img"):
        for number, one in enumerate(entry.seccomp_filters):
            field = f"seccomp_filters[{number}]"
            if one.HasField("prev") and one.prev >= number:
                model.found("seccomp.img", f"{one.prev} does not come before it", 0, f"{field}.prev")
            if not one.filter or len(one.filter) % _INSTRUCTION or len(one.filter) > 4096 * _INSTRUCTION:
                text = f"{len(one.filter)} bytes are no program of {_INSTRUCTION} bytes for each instruction"
                model.found("seccomp.img", text, 0, f"{field}.filter")
