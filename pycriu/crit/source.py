# SPDX-License-Identifier: GPL-2.0-only
"""Where the images are that a command works on: a directory, a tar archive, a container's checkpoint archive.

An archive is read in place, nothing is unpacked under a name. Plain ones are used as they are; compressed ones (gzip,
bzip2, xz, zstd, as far as this Python reads them) are expanded into a file without a name while the command runs.

An archive is hostile input. Names lead nowhere outside of it, links are followed within it only, whatever is no
regular file is no image, and what it expands to may not fill the disk.
"""

from __future__ import annotations

import builtins
import importlib
import os
import posixpath
import sys
import tarfile
import tempfile
from contextlib import AbstractContextManager
from io import BufferedReader
from typing import IO, Any, Self

from pycriu.errors import ImageError, PycriuError, UserError
from pycriu.images import catalogue, commit, store

_MAX_MEMBERS = 1 << 20
_MAX_PARENTS = 1 << 10
_PIECE = 1 << 20
# How a compressed file begins → what reads it, the first of these modules that this Python has. It has zstd since 3.14.
_COMPRESSED = {
    b"\x1f\x8b": ("gzip", ("gzip.open",)),
    b"BZh": ("bzip2", ("bz2.open",)),
    b"\xfd7zXZ\0": ("xz", ("lzma.open",)),
    b"\x28\xb5\x2f\xfd": ("zstd", ("compression.zstd.open", "backports.zstd.open", "pyzstd.open")),
}
_SPARE = 256 << 20  # bytes that expanding leaves free on the disk


class Source(store.Images, AbstractContextManager["Source"]):
    """Images for reading, with the ones that they build upon. A context manager."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back what is open."""

    def other_names(self) -> list[str]:
        """Names of the files beside the images."""
        raise NotImplementedError

    def bytes(self, name: str) -> builtins.bytes:
        """All of an image that may be read into memory."""
        size = self.size(name)
        if size > store.MAX_IMAGE:
            raise ImageError(f"{self.path}/{name}: {size} bytes; an image of messages has {store.MAX_IMAGE} at most")
        with self.raw(name) as file:
            return file.read(size)

    def size(self, name: str) -> int:
        """The length of an image in bytes."""
        with self.raw(name) as file:
            return file.seek(0, os.SEEK_END)

    def parent(self) -> Source | None:
        """What `parent` leads to, on which the pages build; None: there is no such link. The caller closes it."""
        raise NotImplementedError


class Directory(Source):
    """The images of a directory."""

    def __init__(self, path: str) -> None:
        self._images = store.ImagesDir(path)
        self.path = path

    def close(self) -> None:
        """Give back the descriptors, and the lock with them."""
        self._images.close()

    def names(self) -> list[str]:
        """The names of all images here."""
        return self._images.names()

    def other_names(self) -> list[str]:
        """Names of the files beside the images."""
        return sorted(set(os.listdir(self.path)) - set(self.names()))

    def exists(self, name: str) -> bool:
        """Whether there is an image of this name."""
        return self._images.exists(name)

    def raw(self, name: str) -> Any:
        """The file of an image."""
        return self._images.raw(name)

    def parent(self) -> Source | None:
        """The directory that `parent` leads to."""
        where = os.path.join(self.path, commit.PARENT)
        if not os.path.lexists(where):
            return None
        if not os.path.isdir(where):
            raise ImageError(f"{where} leads to no directory", "the checkpoint builds upon another one, which is gone")
        return Directory(os.path.realpath(where))


class Archive(Source):
    """The images in one folder of a tar archive."""

    def __init__(self, path: str, tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo], folder: str) -> None:
        self.path = f"{path}:{folder}" if folder else path
        self._archive, self._tar, self._members, self._folder = path, tar, members, folder

    def names(self) -> list[str]:
        """The names of all images here."""
        return [name for name in self._all() if catalogue.lookup(name)]

    def other_names(self) -> list[str]:
        """Names of what lies beside the images."""
        return [name for name in self._all() if not catalogue.lookup(name)]

    def _all(self) -> list[str]:
        folder = self._folder
        return sorted(posixpath.basename(name) for name in self._members if posixpath.dirname(name) == folder)

    def exists(self, name: str) -> bool:
        """Whether there is an image of this name."""
        store.kind_of(name)
        return posixpath.join(self._folder, name) in self._members

    def raw(self, name: str) -> BufferedReader:
        """The file of an image."""
        store.kind_of(name)
        member = self._members.get(posixpath.join(self._folder, name))
        if member is None:
            raise ImageError(f"{self.path}/{name}: not in the archive", "the checkpoint is not complete")
        file = _regular(self._tar, self._members, member)
        if file is None:
            raise ImageError(f"{self.path}/{name}: not a regular file")
        return file  # type: ignore[return-value]

    def parent(self) -> Source | None:
        """The folder of the archive that `parent` leads to."""
        member = self._members.get(posixpath.join(self._folder, commit.PARENT))
        if member is None:
            return None
        where = posixpath.normpath(posixpath.join(self._folder, member.linkname)) if member.issym() else ""
        if not any(posixpath.dirname(name) == where for name in self._members) or where == self._folder:
            raise ImageError(f"{self.path}/{commit.PARENT} leads to no other folder of the archive")
        return Archive(self._archive, self._tar, self._members, where)


class _WholeArchive(Archive):
    """The archive as it was opened; its parents borrow from it."""

    def close(self) -> None:
        """Close the archive, for the parents, too."""
        self._tar.close()


def open_source(path: str) -> Source:
    """The images at `path`: a directory or an archive. UserError for anything else; the caller closes it."""
    if os.path.isdir(path):
        return Directory(path)
    try:
        file: IO[bytes] = open(path, "rb")  # noqa: SIM115 - the archive keeps it
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    try:
        file = _expanded(path, file)
        tar, members = _open_tar(path, file)
    except BaseException:
        file.close()
        raise
    return _WholeArchive(path, tar, members, _folder_of(path, members))


def is_checkpoint(path: str) -> bool:
    """Whether a path leads to a directory or an archive, not to an image."""
    if os.path.isdir(path):
        return True
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError:
        return False
    return head.startswith(tuple(_COMPRESSED)) or head[257:262] == b"ustar"


def read_file(path: str) -> tuple[builtins.bytes, str]:
    """The content of an image and its name for errors: a file, or ARCHIVE/IMAGE."""
    folder, name = os.path.split(path)
    if os.path.isfile(folder):
        with open_source(folder) as images:
            return images.bytes(name), path
    try:
        with open(path, "rb") as file:
            return bounded(file, path), path
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def bounded(file: IO[builtins.bytes], label: str) -> builtins.bytes:
    """All that can be read, as far as it may be an image of messages: a device or a pipe need not have an end."""
    data = file.read(store.MAX_IMAGE + 1)
    if len(data) > store.MAX_IMAGE:
        raise ImageError(f"{label}: more than {store.MAX_IMAGE} bytes, which is the most for an image of messages")
    return data


def chain(source: Source) -> list[Source]:
    """The source and what it builds upon, nearest first; ImageError where that has no end. Closing is the caller's."""
    found, seen = [source], {os.path.realpath(source.path)}
    while (parent := found[-1].parent()) is not None:
        found.append(parent)
        if parent.path in seen:
            raise ImageError(f"{source.path}: the parents lead in a circle, back to {parent.path}")
        seen.add(parent.path)
        if len(found) > _MAX_PARENTS:
            raise ImageError(f"{source.path}: a chain of more than {_MAX_PARENTS} parents")
    return found


def _expanded(path: str, file: IO[bytes]) -> IO[bytes]:
    """A file that can be read at any place: the archive itself, or a copy that is not compressed."""
    head = file.read(6)
    file.seek(0)
    found = next((how for magic, how in _COMPRESSED.items() if head.startswith(magic)), None)
    if found is None:
        return file
    reader = _reader(path, file, *found)
    copy = tempfile.TemporaryFile()  # noqa: SIM115 - the archive keeps it
    try:
        with file, reader:
            _copy(path, reader, copy)
    except PycriuError:
        copy.close()
        raise
    except _errors() as error:
        copy.close()
        raise UserError(f"{path}: cannot be expanded: {error}") from None
    return copy


def _reader(path: str, file: IO[bytes], name: str, readers: tuple[str, ...]) -> IO[bytes]:
    """What reads a compressed file; UserError where this Python cannot."""
    for dotted in readers:
        module, _, function = dotted.rpartition(".")
        try:
            reader: IO[bytes] = getattr(importlib.import_module(module), function)(file, mode="rb")
        except ImportError:
            continue
        return reader
    raise UserError(f"{path}: compressed with {name}, which this Python cannot read", "expand it beforehand")


def _errors() -> tuple[type[Exception], ...]:
    """What readers raise on damaged files."""
    known = {"lzma": "LZMAError", "zlib": "error", "compression.zstd": "ZstdError", "backports.zstd": "ZstdError"}
    own = (getattr(sys.modules[module], name) for module, name in known.items() if sys.modules.get(module))
    return (OSError, EOFError, ValueError, *own)


def _copy(path: str, reader: IO[bytes], copy: IO[bytes]) -> None:
    while piece := reader.read(_PIECE):
        disk = os.fstatvfs(copy.fileno())
        if disk.f_bavail * disk.f_frsize < _SPARE:
            raise UserError(
                f"{path}: expands to more than the disk of {tempfile.gettempdir()} has room for",
                "let TMPDIR name a directory on another disk",
            )
        copy.write(piece)
    copy.seek(0)


def _open_tar(path: str, file: IO[bytes]) -> tuple[tarfile.TarFile, dict[str, tarfile.TarInfo]]:
    """The archive and its members by their clean names; of several of one name the last counts, as for tar(1)."""
    members: dict[str, tarfile.TarInfo] = {}
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if not size:
        raise UserError(f"{path}: neither a directory nor an archive, but an empty file")
    try:
        tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 - the source keeps it
        at = -1
        for number, member in enumerate(tar):
            if member.offset <= at or member.size < 0 or number > _MAX_MEMBERS:
                raise UserError(f"{path}: the archive is damaged")
            at = member.offset
            there = sum(length for _, length in getattr(member, "sparse", None) or [(0, member.size)])
            if member.isreg() and member.offset_data + there > size:
                raise UserError(f"{path}: the archive is cut short")
            name = posixpath.normpath(member.name.lstrip("/"))
            if name != "." and not name.startswith("../"):
                members[name] = member
    except (tarfile.TarError, ValueError, EOFError, OverflowError) as error:
        raise UserError(f"{path}: neither a directory nor a tar archive: {error}") from None
    return tar, members


def _folder_of(path: str, members: dict[str, tarfile.TarInfo]) -> str:
    """The folder with the checkpoint. Of several it is the one that the others are parents of."""
    folders = {posixpath.dirname(name) for name in members if posixpath.basename(name) == commit.INVENTORY}
    links = [member for name, member in members.items() if posixpath.basename(name) == commit.PARENT and member.issym()]
    below = {posixpath.normpath(posixpath.join(posixpath.dirname(link.name), link.linkname)) for link in links}
    chosen = folders - below if len(folders) > 1 else folders
    if len(chosen) == 1:
        return chosen.pop()
    if not folders:
        raise UserError(f"{path}: no checkpoint in this archive, it has no inventory.img")
    raise UserError(f"{path}: several checkpoints in one archive: {', '.join(sorted(folders))}", "unpack one of them")


def _regular(tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo], member: tarfile.TarInfo) -> IO[bytes] | None:
    """The content of a regular file; a hard link leads to one, nothing else does."""
    if member.islnk():
        target = members.get(posixpath.normpath(member.linkname.lstrip("/")))
        if target is None or not target.isreg():
            return None
        member = target
    return tar.extractfile(member) if member.isreg() else None
