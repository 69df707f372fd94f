# SPDX-License-Identifier: GPL-2.0-only
"""Whether a file that is opened again is the one that was open at the dump (--file-validation).

    filesize   as many bytes as then
    mtime      and not written to since; the default. A file that the tree only reads may be a copy: where it is newer,
               a sample of its content decides (its beginning and end, as a file that a boot has unpacked has them)
    buildid    size, and for programs and libraries the GNU build-id, as CRIU does
    checksum   size, and the content: a dump with the same option reads every file to its end

Type and mode are compared always (--skip-file-rwx-check: only the type), a build-id wherever the image has one. Sizes
and build-ids are in CRIU's reg_file_entry, which has no field for the others: they are in pycriu-files.img.
"""

from __future__ import annotations

import binascii
import os
import stat
import struct
import time

from pycriu.errors import OtherFile
from pycriu.images import messages as m

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pycriu.images.store import ImagesDir, NewCheckpoint

FILESIZE, MTIME, BUILDID, CHECKSUM = "filesize", "mtime", "buildid", "checksum"
IMAGE = "pycriu-files.img"
_SAMPLE = 1 << 16  # bytes from either end
PSEUDO = ("/proc/", "/sys/")  # their times are those of our looking
_PIECE = 1 << 20
_ELF_HEAD, _NOTES_ROOM = 64, 1 << 16
_PT_NOTE, _NT_GNU_BUILD_ID = 4, 3


Known = tuple[int | None, int | None, bytes | None]
"""What is known of one file beyond CRIU's fields: its mtime in ns, a sample, a digest. A tuple: there are thousands."""


class Notes:
    """pycriu-files.img in the making, and read."""

    def __init__(self) -> None:
        self._known: dict[int, Known] = {}
        self._added: list[tuple[int, str, os.stat_result, bytes | None]] = []
        self._written: set[tuple[int, int]] = set()

    def add(self, number: int, path: str, status: os.stat_result, flags: int, digest_: bytes | None) -> None:
        """Note a regular file with a path, open with `flags`."""
        if stat.S_ISREG(status.st_mode) and not path.startswith(PSEUDO):
            self._added.append((number, path, status, digest_))
            if flags & os.O_ACCMODE and not flags & os.O_PATH:
                self._written.add((status.st_dev, status.st_ino))

    def write(self, new: NewCheckpoint, *, watched: bool) -> None:
        """The image. Where the tree has watches, no sample is taken: to open a file would be seen.

        None is taken either of what the tree writes to: it may have done so again since it was stopped.
        """
        samples: dict[str, int | None] = {}
        rows = []
        for number, path, status, digest_ in self._added:
            found = None
            if not watched and (status.st_dev, status.st_ino) not in self._written:
                if path not in samples:
                    samples[path] = sample(path)
                found = samples[path]
            rows.append(m.pycriu_file_entry(id=number, mtime=status.st_mtime_ns, sample=found, digest=digest_))
        new.write_any(IMAGE, rows)

    def read(self, images: ImagesDir) -> None:
        """The image; there is none in a checkpoint of CRIU's."""
        own: list[Any] = images.read_if_there(IMAGE)
        for one in own:
            self._known[one.id] = (
                one.mtime,
                one.sample if one.HasField("sample") else None,
                one.digest if one.HasField("digest") else None,
            )

    def of(self, number: int) -> Known:
        """What is known of a file."""
        return self._known.get(number, (None, None, None))


def check_kind(path: str, status: os.stat_result, reg: Any, *, skip_rwx: bool) -> None:
    """UserError unless type and mode of a file are those of its reg_file_entry."""
    if not reg.HasField("mode"):
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode) and not stat.S_ISCHR(status.st_mode):
            raise OtherFile(f"{path} is neither a regular file nor a directory", "put it back as it was")
        return
    if stat.S_IFMT(reg.mode) != stat.S_IFMT(status.st_mode):
        raise OtherFile(f"{path} is no longer a file of the same type", "put it back as it was")
    now, then = stat.S_IMODE(status.st_mode), stat.S_IMODE(reg.mode)
    if now != then and not skip_rwx:
        raise OtherFile(
            f"{path} has the mode {now:04o}, at the dump it had {then:04o}",
            "chmod it, or let --skip-file-rwx-check accept the difference",
        )


def check_content(status: os.stat_result, reg: Any, known: Known, how: str) -> None:
    """UserError, with the difference, unless a regular file is the one of the image."""
    if not stat.S_ISREG(status.st_mode) or reg.name.startswith(PSEUDO):
        return
    mtime, sampled, then = known
    hint = "the task would continue with another file than it had; put back the file of the dump"
    if reg.HasField("size") and reg.size != status.st_size:
        raise OtherFile(f"{reg.name} is {status.st_size} bytes, at the dump it was {reg.size}", hint)
    if reg.build_id and how in (MTIME, BUILDID):
        words = b"".join(word.to_bytes(4, "little") for word in reg.build_id)
        if (found := build_id(reg.name)) != words:
            said = found.hex() if found else "none"
            raise OtherFile(
                f"{reg.name} is another build: its build-id is {said}, at the dump it was {words.hex()}", hint
            )
    newer = how == MTIME and mtime is not None and status.st_mtime_ns > mtime
    if mtime is not None and newer and (sampled is None or sample(reg.name) != sampled):
        raise OtherFile(
            f"{reg.name} has been written to since the dump: it was changed at {_when(status.st_mtime_ns)}, "
            f"at the dump that was {_when(mtime)}",
            f"{hint}; if its content is the same, --file-validation filesize accepts it",
        )
    if how == CHECKSUM:
        if then is None:
            raise OtherFile(
                f"the checkpoint has no checksum of {reg.name}", "dump with --file-validation checksum, too"
            )
        if digest(reg.name) != then:
            raise OtherFile(f"{reg.name} has another content than at the dump", hint)


def _when(ns: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ns // 10**9)) + f".{ns % 10**9:09d}"


def sample(path: str) -> int | None:
    """A checksum of the beginning and the end of a file; None where it cannot be read at once."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOATIME | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        end = max(os.fstat(fd).st_size - _SAMPLE, 0)
        return binascii.crc32(os.pread(fd, _SAMPLE, end), binascii.crc32(os.pread(fd, _SAMPLE, 0)))
    except OSError:
        return None
    finally:
        os.close(fd)


def digest(path: str) -> bytes:
    """A checksum of all that a file holds, 16 bytes."""
    import hashlib  # a millisecond, for who asked for it

    total = hashlib.blake2b(digest_size=16)
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            total.update(piece)
    return total.digest()


def build_id(path: str) -> bytes:
    """The GNU build-id of an ELF file; empty for what is none, or has none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        head = os.pread(fd, _ELF_HEAD, 0)
        if len(head) < _ELF_HEAD or head[:4] != b"\x7fELF":
            return b""
        wide = head[4] == 2
        start, size, count = (
            struct.unpack_from("<Q14xHH", head, 32) if wide else struct.unpack_from("<I10xHH", head, 28)
        )
        table = os.pread(fd, size * count, start)
        for at in range(0, len(table) - size + 1, size or 1):
            kind = int.from_bytes(table[at : at + 4], "little")
            where = struct.unpack_from("<8xQ16xQ", table, at) if wide else struct.unpack_from("<4xI8xI", table, at)
            if kind == _PT_NOTE and (found := parse_notes(os.pread(fd, min(where[1], _NOTES_ROOM), where[0]))):
                return found
    except (struct.error, OverflowError, OSError):  # whatever it is, it is no ELF file that a task could have mapped
        return b""
    finally:
        os.close(fd)
    return b""


def parse_notes(data: bytes) -> bytes:
    """The build-id among the notes of an ELF file; empty where there is none. See elf(5)."""
    at = 0
    while at + 12 <= len(data):
        name_size, size, kind = struct.unpack_from("<III", data, at)
        name = at + 12
        content = name + (name_size + 3) // 4 * 4
        if kind == _NT_GNU_BUILD_ID and data[name : name + name_size] == b"GNU\0":
            return data[content : content + size]
        at = content + (size + 3) // 4 * 4
    return b""
