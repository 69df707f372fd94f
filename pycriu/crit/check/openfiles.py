# SPDX-License-Identifier: GPL-2.0-only
"""Descriptors, files, and what refers to files: places, remaps, ghosts, locks, messages in flight."""

from __future__ import annotations

from typing import Any

from pycriu.crit.check.model import FILE_FIELDS, REG, Model

_DESCRIPTOR_MAX = 1 << 30
_CLOEXEC = 1
LINKED, GHOST, PROCFS = 0, 1, 2  # remap_type
UNIX = 5
_SCM_RIGHTS = 1
_LOCK_KINDS, _LOCK_TYPES = (1, 2, 4, 8), (0, 1, 2, 32, 64, 128, 192)  # POSIX, flock, OFD, lease; of fcntl, LOCK_MAND
_AUTOFS_PIPE, _CTL_TTY = 65535, 65534


def check(model: Model) -> None:
    """All of it."""
    if model.ids:
        _need_files(model)
    _check_tables(model)
    _check_files(model)
    for process in model.living:
        for fs in model.entries(f"fs-{process.pid}.img"):
            for field in ("cwd_id", "root_id"):
                model.refer(getattr(fs, field), (REG,), (f"fs-{process.pid}.img", 0, field))
    _check_remaps(model)
    _check_locks(model)
    _check_messages(model)


def _need_files(model: Model) -> None:
    old = any(name in model.names for name in ("reg-files.img", "pipes.img", "inetsk.img", "unixsk.img"))
    if not old:
        model.need("files.img", "descriptors refer to it")


def _check_tables(model: Model) -> None:
    for name, _ in model.numbered("fdinfo"):
        model.once(name, "fd", "descriptor")
        for number, one in enumerate(model.entries(name)):
            if one.fd >= _DESCRIPTOR_MAX:
                model.found(name, f"{one.fd} is no descriptor", number, "fd")
            if one.flags & ~_CLOEXEC:
                model.found(name, f"{one.flags:#x} has flags that descriptors have not", number, "flags")
            if one.type not in (_AUTOFS_PIPE, _CTL_TTY):
                model.refer(one.id, (one.type,), (name, number, "id"))


def _check_files(model: Model) -> None:
    model.once("files.img", "id", "file")
    for number, entry in enumerate(model.entries("files.img")):
        field = FILE_FIELDS.get(entry.type, "")
        there = [name for name in FILE_FIELDS.values() if entry.HasField(name)]
        if not field:
            model.found("files.img", f"{entry.type} is no type of file", number, "type")
        elif there != [field]:
            said = " and ".join(there) or "nothing"
            model.found("files.img", f"type {entry.type} wants {field}, there is {said}", number, "type")
        elif getattr(entry, field).id != entry.id:
            other = getattr(entry, field).id
            model.found("files.img", f"{other}, but the entry is of file {entry.id}", number, f"{field}.id")


def _check_remaps(model: Model) -> None:
    """Files that are opened otherwise than by their path."""
    model.once("remap-fpath.img", "orig_id", "file")
    ghosts: set[int] = set()
    for number, one in enumerate(model.entries("remap-fpath.img")):
        model.refer(one.orig_id, (REG,), ("remap-fpath.img", number, "orig_id"))
        # before types, the highest bit said that it is a ghost
        if one.remap_type == GHOST or (not one.HasField("remap_type") and one.remap_id >> 31):
            ghosts.add(one.remap_id & 0x7FFFFFFF)
            model.need(f"ghost-file-{one.remap_id & 0x7FFFFFFF:x}.img", f"file {one.orig_id} leads there")
        elif one.remap_type == LINKED:
            model.refer(one.remap_id, (REG,), ("remap-fpath.img", number, "remap_id"))
    for name, number in model.numbered("ghost-file", 16):
        if number not in ghosts and "remap-fpath.img" not in model.broken:
            model.found(name, "no file leads to it")
        for entry in model.entries(name):
            if entry.mode >> 12 not in (1, 2, 4, 6, 8, 10, 12):
                model.found(name, f"{entry.mode:o} is no type of file", 0, "mode")
            if entry.HasField("rdev") and entry.mode >> 12 in (2, 6) and entry.rdev >= 1 << 32:
                model.found(name, f"{entry.rdev} is no device", 0, "rdev")


def _check_locks(model: Model) -> None:
    pids = {one.pid for one in model.living}
    for number, one in enumerate(model.entries("filelocks.img")):
        name = "filelocks.img"
        if one.flag not in _LOCK_KINDS:
            model.found(name, f"{one.flag} is no kind of lock", number, "flag")
        if one.type not in _LOCK_TYPES:
            model.found(name, f"{one.type} is no type of lock", number, "type")
        if one.pid not in pids:
            model.found(name, f"there is no process {one.pid}", number, "pid")
            continue
        if one.pid in model.ids:
            table = f"fdinfo-{model.ids[one.pid].files_id}.img"
            if model.has(table) and table not in model.broken and one.fd not in _descriptors(model, table):
                model.found(name, f"process {one.pid} has no descriptor {one.fd}", number, "fd")
        if one.start < 0 or one.len < 0:
            model.found(name, f"{one.start} and {one.len} bytes are no range", number, "start")


def _descriptors(model: Model, table: str) -> set[int]:
    return {entry.fd for entry in model.entries(table)}


def _check_messages(model: Model) -> None:
    """What waits in sockets."""
    for number, one in enumerate(model.entries("sk-queues.img")):
        model.refer(one.id_for, (UNIX,), ("sk-queues.img", number, "id_for"))
        for scm in one.scm:
            if scm.type != _SCM_RIGHTS:
                model.found("sk-queues.img", f"{scm.type} is no type of control message", number, "scm.type")
            for right in scm.rights:
                model.refer(right, (), ("sk-queues.img", number, "scm.rights"))


def numbers_of(model: Model, kind: int) -> set[int]:
    """The ids of all files of one type."""
    return {number for number, _, _ in model.files_of(kind)}


def inner(file: Any, what: str) -> str:
    """The path of a field of what a file is."""
    return f"{file.field}.{what}" if file.image == "files.img" else what
