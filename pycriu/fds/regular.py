# SPDX-License-Identifier: GPL-2.0-only
"""Files with a path: regular files, directories, the memory devices (null, zero, full, random, urandom, kmsg), files of
/proc and /sys, whatever is open with O_PATH; and deleted ones (`ghost`).

Kept: path, flags, position. The content is not copied, but for deleted files: at restore the file must be there as it
was (`validation`). Files of /proc/PID are opened when that task exists again.
"""

from __future__ import annotations

import errno
import os
import stat

from pycriu.errors import About, ImageError, KernelError, Unsupported, UserError
from pycriu.fds import ghost, validation
from pycriu.fds.kind import Kind
from pycriu.fds.openfile import OpenFile, Place, no_owner
from pycriu.images import messages as m
from pycriu.kernel import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pycriu.fds import kmsg
    from pycriu.fds.opening import Opening
    from pycriu.fds.saving import Saving
    from pycriu.images.store import ImagesDir, NewCheckpoint
    from pycriu.log import Log

_MEMORY_MAJOR = 1
_MEMORY_MINORS = (3, 5, 7, 8, 9)  # null zero full random urandom, Documentation/admin-guide/devices.txt
_KMSG = (1, 11)
_SYNC_MAX = 512  # descriptors that are kept for that
_MASK64 = (1 << 64) - 1
_NEVER = os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_ASYNC | (os.O_TMPFILE & ~os.O_DIRECTORY)
# What is below these in /proc/PID belongs to descriptors and mappings, which come back later than files are opened.
_INNER = ("fd", "fdinfo", "map_files")

_ACCESS = {os.O_RDONLY: (os.R_OK,), os.O_WRONLY: (os.W_OK,), os.O_RDWR: (os.R_OK, os.W_OK), os.O_ACCMODE: ()}


class Regular(Kind):
    """Everything that is opened again by its path."""

    TYPE = 1  # fd_types.REG

    def __init__(self, options: Any, log: Log) -> None:
        super().__init__(options, log)
        self._notes = validation.Notes()
        self._ghosts = ghost.Ghosts()
        self._remaps = ghost.Remaps()
        self._leads: dict[
            tuple[str, int, int], bool
        ] = {}  # path and inode → whether it leads there, when last inspected
        self._taken: dict[int, bool] = {}  # id → whether it is a ghost or linked
        self._sync: dict[str, int] = {}
        self._sync_all = False
        self._watched = False
        self._readers: kmsg.Readers | None = None
        self._attached: list[tuple[int, OpenFile]] = []

    # ------------------------------------------------------------------------------------------------------------ dump

    def matches(self, file: OpenFile) -> bool:
        """A regular file, a directory, a memory device, or the mere name of anything."""
        mode = file.status.st_mode
        if not file.link.startswith("/") or file.link.startswith("/memfd:"):
            return False
        if file.flags & os.O_PATH:
            return True
        if stat.S_ISCHR(mode):
            device = os.major(file.status.st_rdev), os.minor(file.status.st_rdev)
            ours = (device[0] == _MEMORY_MAJOR and device[1] in _MEMORY_MINORS) or device == _KMSG
            if ours and self.options.evasive_devices:
                from pycriu.fds import evasive

                evasive.redirect(file)
            return ours
        return stat.S_ISREG(mode) or stat.S_ISDIR(mode)

    def inspect(self, file: OpenFile) -> None:
        """Unsupported where the file cannot be opened again as it is."""
        status = file.status
        self._inspect(file.link, status, file.name)
        if _reads_log(file):
            self._log_readers().inspect()

    def _log_readers(self) -> kmsg.Readers:
        if self._readers is None:
            from pycriu.fds import kmsg

            self._readers = kmsg.Readers()
        return self._readers

    def inspect_place(self, place: Place) -> None:
        """The same for what is referred to otherwise than by a descriptor."""
        if process_of(place.path):
            raise Unsupported(f"{place.name} is part of a process, not of a file system", "let the task leave it first")
        self._inspect(place.path, place.status, place.name)

    def _inspect(self, path: str, status: os.stat_result, name: str) -> None:
        if process_of(path):
            _inspect_proc(path, name)
        else:
            self._leads[path, status.st_dev, status.st_ino] = ghost.inspect(path, status, name, self.options)

    def gather(self, files: list[OpenFile], saving: Saving) -> None:
        """The content of deleted files, and what must be on the disk when the checkpoint is."""
        for number, file in saving.unseen(files, self._taken):
            with About(file):
                _refuse_other_process(file, saving)
                if _reads_log(file):
                    self._log_readers().gather(number, file)
            self._take(number, file.link, file.status, file.flags, f"/proc/{file.pid}/fd/{file.fd}", saving)

    def settle(self, saving: Saving) -> None:
        """Whether the tree would see that files are opened."""
        self._watched = any(saving.kinds.find(kind) for kind in ("inotify", "fanotify"))

    def keep(self, number: int, file: OpenFile, fd: int) -> bool:
        """Whether `fd`, ours for an open file, is needed to sync that: opened anew, it would break leases."""
        writes = file.flags & os.O_ACCMODE and not file.flags & os.O_PATH
        if not writes or not self._must_be_synced(number, file.link, file.status):
            return False
        self._sync_all = self._sync_all or len(self._sync) >= _SYNC_MAX
        if not self._sync_all:
            self._sync[file.link] = fd
        return not self._sync_all

    def gather_places(self, places: list[tuple[int, Place, int]], saving: Saving) -> None:
        """The same for places, each with its id and the flags to open it."""
        for number, place, flags in places:
            self._take(number, place.path, place.status, flags, place.link, saving)
            if flags & os.O_ACCMODE and self._must_be_synced(number, place.path, place.status):
                self._sync[place.path] = os.open(place.link, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def _must_be_synced(self, number: int, path: str, status: os.stat_result) -> bool:
        there = stat.S_ISREG(status.st_mode) and not self._taken[number] and path not in self._sync
        return there and not path.startswith(validation.PSEUDO)

    def attach(self, file: OpenFile, saving: Saving) -> int:
        """The id of an entry for the path of a file of another kind (a FIFO), as which it must be opened first."""
        number = saving.fresh()
        self._take(number, file.link, file.status, file.flags, f"/proc/{file.pid}/fd/{file.fd}", saving)
        self._attached.append((number, file))
        return number

    def _take(self, number: int, path: str, status: os.stat_result, flags: int, link: str, saving: Saving) -> None:
        if number in self._taken:
            return
        key = path, status.st_dev, status.st_ino
        gone = not process_of(path) and not (self._leads[key] if key in self._leads else ghost.leads_to(path, status))
        self._taken[number] = gone
        if gone:
            self._ghosts.take(number, path, status, link, saving)
        else:
            self._notes.add(number, path, status, flags, self._digest(path, status))

    def _digest(self, path: str, status: os.stat_result) -> bytes | None:
        wanted = self.options.file_validation == validation.CHECKSUM and stat.S_ISREG(status.st_mode)
        return validation.digest(path) if wanted and not path.startswith(validation.PSEUDO) else None

    def dump(self, file: OpenFile, number: int, saving: Saving) -> Any:
        """The image of one open file."""
        return self._entry(number, file.link, file.flags, file.position & _MASK64, file.status)

    def place_entry(self, number: int, place: Place, flags: int) -> Any:
        """The image of a file that is referred to by path, to be opened with `flags`."""
        return self._entry(number, place.path, flags, 0, place.status)

    def _entry(self, number: int, path: str, flags: int, position: int, status: os.stat_result) -> Any:
        gone = self._taken.get(number, False)
        found = entry(number, ghost.original(path) if gone else path, flags, position, status)
        if self.options.file_validation == validation.BUILDID and stat.S_ISREG(status.st_mode) and not gone:
            words = validation.build_id(path)
            found.reg.build_id.extend(
                int.from_bytes(words[at : at + 4], "little") for at in range(0, len(words) - 3, 4)
            )
        return found

    def extra_entries(self, saving: Saving) -> list[Any]:
        """For what nobody has open as a file of this kind: see `attach`, and the hard links of deleted files."""
        attached = [self.dump(file, number, saving) for number, file in self._attached]
        for (_, file), found in zip(self._attached, attached, strict=True):
            owner = saving.owner_of(file)
            if owner is not None:
                found.reg.fown.CopyFrom(owner)
        return attached + [
            m.file_entry(
                type=self.TYPE, id=number, reg=m.reg_file_entry(id=number, flags=0, pos=0, fown=no_owner(), name=path)
            )
            for number, path in self._ghosts.link_paths()
        ]

    def write(self, new: NewCheckpoint) -> None:
        """Ghosts, and what restores compare."""
        self._notes.write(new, watched=self._watched)
        self._ghosts.write(new)
        if self._readers is not None:
            self._readers.write(new)

    def to_sync(self) -> dict[str, int]:
        """Path and a descriptor of ours for every file that the tree writes to; or everything is."""
        if self._sync_all:
            os.sync()
        return self._sync

    # --------------------------------------------------------------------------------------------------------- restore

    def read(self, images: ImagesDir, entries: list[Any]) -> None:
        """What is not opened by its path, and what must match."""
        self._remaps.read(images, {entry.reg.id: entry.reg for entry in entries})
        self._notes.read(images)
        if images.exists("pycriu-kmsg.img"):
            self._log_readers().read(images)

    def late(self, entry: Any) -> bool:
        """Files of /proc/PID exist when their tasks do."""
        return bool(process_of(entry.reg.name))

    def signals(self, entry: Any, opening: Opening) -> Any:
        """A FIFO's are for its own entry."""
        return None if stat.S_ISFIFO(entry.reg.mode) else entry.reg

    def rehearse(self, entry: Any) -> None:
        """Whether its path leads to what it led to; for a deleted one, to a folder in which it can be made."""
        reg = entry.reg
        _check_path(reg)
        if self._remaps.has(reg.id):
            self._remaps.rehearse(reg)
        elif not self.late(entry):
            status = self._status(reg)
            for mode in _ACCESS[reg.flags & os.O_ACCMODE] if not reg.flags & os.O_PATH else ():
                if not os.access(reg.name, mode):
                    how = "written to" if mode == os.W_OK else "read"
                    raise UserError(f"{reg.name} may not be {how} any more", "put it back as it was")
            validation.check_content(status, reg, self._notes.of(reg.id), self.options.file_validation)

    def open(self, entry: Any, opening: Opening) -> int:
        """Open it again."""
        reg = entry.reg
        _check_path(reg)
        if self._remaps.has(reg.id):
            return _positioned(self._remaps.open(reg.id), reg)
        if self._remaps.is_link(reg.id):
            return _open(reg.name, os.O_PATH | os.O_NOFOLLOW)
        fd = self._open_checked(reg)
        if self._readers is not None:
            self._readers.position(reg.id, fd, reg.flags)
        return fd if self.late(entry) else _positioned(fd, reg)

    def _status(self, reg: Any) -> os.stat_result:
        """Looked at before it is opened: opening a FIFO or a device has effects."""
        try:
            status = os.stat(reg.name, follow_symlinks=not reg.flags & os.O_NOFOLLOW)
        except OSError as error:
            raise _refusal(reg.name, error) from None
        validation.check_kind(reg.name, status, reg, skip_rwx=self.options.skip_file_rwx_check)
        return status

    def _open_checked(self, reg: Any) -> int:
        flags = reg.flags & ~_NEVER
        status = self._status(reg)
        # A FIFO is opened for good by those who have both its ends in view.
        fd = _open(reg.name, flags | os.O_PATH if stat.S_ISFIFO(status.st_mode) else flags)
        try:
            known = self._notes.of(reg.id)
            validation.check_content(os.fstat(fd), reg, known, self.options.file_validation)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def finish(self, opening: Opening) -> None:
        """Files of /proc/PID say what they will say: a position is reached by reading, and what is read is kept."""
        for number, entry in opening.entries.items():
            if entry.type == self.TYPE and entry.reg.pos and self.late(entry):
                _seek(opening.fd(number), entry.reg)

    def is_delicate(self) -> bool:
        """The hard links of a dump go away when nobody needs the checkpoint any more."""
        return self._remaps.has_links()

    def released(self) -> None:
        """They have done their duty."""
        self._remaps.remove_links()

    def close(self) -> None:
        """Give back what is left."""
        self._remaps.close()
        self._ghosts.close()
        if self._readers is not None:
            self._readers.close()
        for fd in self._sync.values():
            os.close(fd)
        self._sync = {}


def _reads_log(file: OpenFile) -> bool:
    """Whether a descriptor reads the kernel's log, whose readers have a position that is seen nowhere."""
    status = file.status
    if not stat.S_ISCHR(status.st_mode) or (os.major(status.st_rdev), os.minor(status.st_rdev)) != _KMSG:
        return False
    return not file.flags & os.O_PATH and file.flags & os.O_ACCMODE != os.O_WRONLY


def process_of(path: str) -> int:
    """The process that a path of /proc belongs to; 0 for all other paths."""
    if not path.startswith("/proc/"):
        return 0
    parts = path.split("/", 3)
    return int(parts[2]) if parts[2].isdecimal() else 0


def _inspect_proc(path: str, name: str) -> None:
    if path.endswith(ghost.SUFFIX):
        raise Unsupported(f"{name} belongs to a task that has ended", "let the task close it first")
    parts = path.split("/")[3:]
    if any(part in _INNER and parts[at + 1 :] for at, part in enumerate(parts)):
        raise Unsupported(f"{name} stands for a descriptor or a mapping of a task", "let the task close it first")
    if parts[:1] == ["task"] and len(parts) > 1 and parts[1] != str(process_of(path)):
        raise Unsupported(
            f"{name} is part of a thread, which comes back later than files", "let the task close it first"
        )


def _refuse_other_process(file: OpenFile, saving: Saving) -> None:
    """Unsupported for a file of /proc/PID of somebody who is not in the tree."""
    pid = process_of(file.link)
    if pid and pid not in [process.pid for process in saving.root.walk()]:
        raise Unsupported(
            f"{file.name} is part of process {pid}, which has ended or is outside the tree",
            "let the task close it first",
        )


def entry(file_id: int, path: str, flags: int, position: int, status: os.stat_result) -> Any:
    """file_entry for any file with a path."""
    reg = m.reg_file_entry(id=file_id, flags=flags, pos=position, fown=no_owner(), name=path, mode=status.st_mode)
    if stat.S_ISREG(status.st_mode):
        reg.size = status.st_size
    return m.file_entry(type=Regular.TYPE, id=file_id, reg=reg)


# ---------------------------------------------------------------------------------------------------------- restore


def _check_path(reg: Any) -> None:
    if reg.ext:
        name = reg.name.removeprefix("/")
        raise UserError(f"{name} is external to the tree", f"give it as a descriptor: --inherit-fd fd[N]:{name}")
    if not reg.name.startswith("/") or "\0" in reg.name:
        raise ImageError(f"the path {reg.name!r} of file {reg.id} is not absolute")


def _open(path: str, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise _refusal(path, error) from None


def _refusal(path: str, error: OSError) -> UserError:
    return UserError(f"{path} cannot be opened as it was: {error.strerror}", "put it back as it was")


def _positioned(fd: int, reg: Any) -> int:
    """The same descriptor, with the file's position; closed on an error."""
    try:
        _seek(fd, reg)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _seek(fd: int, reg: Any) -> None:
    if not reg.pos or reg.flags & os.O_PATH:
        return
    try:
        libc.call("lseek", fd, reg.pos - (reg.pos >> 63 << 64), os.SEEK_SET, what=reg.name)
    except KernelError as error:  # CRIU saves what /proc says of /dev/kmsg; it cannot be set, not by CRIU either
        if error.errno != errno.ESPIPE or not stat.S_ISCHR(os.fstat(fd).st_mode):
            raise
