# SPDX-License-Identifier: GPL-2.0-only
"""A directory of images: `ImagesDir` reads one, `NewCheckpoint` writes one. Names are file names (`core-12.img`).

What is read is hostile until checked: only regular files of this directory are opened, and sizes, offsets and counts
are held against the file before use; whatever is wrong is an ImageError with file and offset. What the fields mean
together is not checked here.

What is written is invisible until `commit()`, which leaves the directory with the new checkpoint or, whatever happens,
with the one that it held before (`commit` has the table of states). Files get mode 0600: they hold the memory of
processes, keys and all.
"""

from __future__ import annotations

import errno
import os
import stat

from pycriu.errors import ImageError, OtherVersion, PycriuError, UserError
from pycriu.images import catalogue, commit, framing, payloads
from pycriu.images.durable import sync_together

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from io import BufferedReader, FileIO
    from types import TracebackType
    from typing import Any, Protocol, Self

    from google.protobuf.message import Message

    from pycriu.images.catalogue import Kind
    from pycriu.images.messages import inventory_entry
    from pycriu.kernel.pagemap import Run

    class Remote(Protocol):
        """What is needed of `pageserver.client.Remote`."""

        def take(self, snapshot: Any, sharers: list[int]) -> None:
            """See there."""

        def take_running(self, pid: int, runs: list[Run]) -> int:
            """See there."""

        def take_file(self, fd: int, shmid: int, runs: list[Run]) -> None:
            """See there."""

        def finish(self) -> None:
            """See there."""

        def close(self) -> None:
            """See there."""

    class Parent(Protocol):
        """What `pages.imagefiles` needs of `incremental.Parent`."""

        def copy_file(self, fd: int, shmid: int, runs: list[Run], out: int) -> tuple[list[Run], list[Run]]:
            """See there."""


# Images of messages are read whole. The largest of them hold the queues of sockets and deleted files.
MAX_IMAGE = 1 << 30

IMG_VERSIONS = (1, 2)

# The disk's answers that mean "no room".
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

# What writing to a directory that may not be written says.
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)

# Room for names, directories and the metadata of files beyond the bytes that are asked for.
_SLACK = 1 << 20


def kind_of(name: str) -> Kind:
    """The kind of an image by its file name; ImageError if none has such a name."""
    kind = catalogue.lookup(name)
    if kind is None:
        raise ImageError(f"{name}: no image has this name")
    return kind


def refusal(error: OSError, path: str) -> PycriuError:
    """The error to raise for a write to an image that failed."""
    said = f"{path}: {os.strerror(error.errno or 0)}"
    if error.errno in _NO_ROOM:
        return UserError(said, hint="make room there, or let -D name a directory on another disk")
    if error.errno in _READ_ONLY:
        return UserError(said, hint="-D must name a directory that may be written")
    return UserError(said)


class Images:
    """The images of one checkpoint, for reading, wherever they lie: a subclass says which there are and opens them."""

    path: str  # names the place in messages
    # What becomes of the entries of an image that is read, by its name; None: nothing, as but for `restore --edit`.
    edited: Callable[[str, list[tuple[Message, bytes]]], list[tuple[Message, bytes]]] | None = None

    def names(self) -> list[str]:
        """The names of all images here."""
        raise NotImplementedError

    def exists(self, name: str) -> bool:
        """Whether there is an image of this name, whatever is in it."""
        raise NotImplementedError

    def raw(self, name: str) -> FileIO | BufferedReader:
        """The file of an image, open for reading at any place. The caller closes it."""
        raise NotImplementedError

    def inventory(self) -> inventory_entry:
        """The inventory; ImageError if it is missing (then no checkpoint is here) or of a version from the future."""
        if not self.exists(commit.INVENTORY):
            raise ImageError(
                f"{self.path}: no whole checkpoint here, inventory.img is missing",
                hint="-D names the directory of a dump that finished; the log of the dump says why one did not",
            )
        entry: inventory_entry = self.read_one(commit.INVENTORY)  # type: ignore[assignment]
        if entry.img_version not in IMG_VERSIONS and (entry.img_version or self.exists("pstree.img")):  # 0: a pre-dump
            raise OtherVersion(f"{self.path}/inventory.img: img_version {entry.img_version} is not known")
        return entry

    def read(self, name: str) -> list[Message]:
        """All entries of an image."""
        return [message for message, _ in self.read_with_payloads(name)]

    def read_if_there(self, name: str) -> list[Message]:
        """The same, none where there is no such image."""
        return self.read(name) if self.exists(name) else []

    def read_one(self, name: str) -> Message:
        """The entry of an image that has exactly one."""
        entries = self.read(name)
        if len(entries) != 1:
            raise ImageError(f"{self._label(name)}: {len(entries)} entries where one is expected")
        return entries[0]

    def read_with_payloads(self, name: str) -> list[tuple[Message, bytes]]:
        """All entries of an image, each with the bytes that follow it."""
        kind, label = kind_of(name), self._label(name)
        if kind.framing == catalogue.RAW:
            raise ImageError(f"{label}: holds bytes, not messages")
        with self.raw(name) as file:
            size = file.seek(0, os.SEEK_END)
            if size > MAX_IMAGE:
                raise ImageError(f"{label}: {size} bytes; an image of messages has {MAX_IMAGE} at most")
            file.seek(0)
            data = file.read(size)
        entries = framing.entries(kind, data, label)
        found = [(message, data[at : at + length]) for message, at, length in entries]
        return found if self.edited is None else self.edited(name, found)

    def _label(self, name: str) -> str:
        return f"{self.path}/{name}"


class ImagesDir(Images):
    """The images of a directory."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._directory = commit.open_directory(path)
        self._places: tuple[int, ...] = (self._directory,)
        try:
            self._settle()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back the descriptors, and the lock with them."""
        for place in {self._directory, *self._places}:
            os.close(place)
        self._places = ()

    def names(self) -> list[str]:
        """The names of all images here."""
        return sorted({name for place in self._places for name in os.listdir(place) if catalogue.lookup(name)})

    def exists(self, name: str) -> bool:
        """Whether there is an image of this name, whatever is in it."""
        kind_of(name)
        return any(_lies_in(place, name) for place in self._places)

    def parent(self) -> str | None:
        """Where its link to an earlier set of images leads, as a path; None where there is no link."""
        for place in self._places:
            try:
                return os.path.join(self.path, os.readlink(commit.PARENT, dir_fd=place))
            except FileNotFoundError:
                continue
            except OSError:
                raise ImageError(f"{self._label(commit.PARENT)}: not a symbolic link") from None
        return None

    def head(self, name: str) -> tuple[Message, FileIO, int]:
        """The first entry of an image, its file, and the offset behind the entry: for payloads too large to be read.

        The caller closes the file.
        """
        file = self.raw(name)
        try:
            message, at = framing.head(kind_of(name), file.read(framing.HEAD_ROOM), self._label(name))
            if self.edited is not None:
                ((message, _),) = self.edited(name, [(message, b"")])
        except BaseException:
            file.close()
            raise
        return message, file, at

    def raw(self, name: str) -> FileIO:
        """The file of an image, open for reading, without a buffer. The caller closes it."""
        kind_of(name)
        for place in self._places:
            try:
                # O_NONBLOCK: a FIFO put here by somebody must not make us wait
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise ImageError(f"{self._label(name)}: {os.strerror(error.errno or 0)}") from None
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                os.close(fd)
                raise ImageError(f"{self._label(name)}: not a regular file")
            return open(fd, "rb", buffering=0)
        raise ImageError(f"{self._label(name)}: {os.strerror(errno.ENOENT)}", hint="the checkpoint is not complete")

    def claim(self, name: str) -> int:
        """A descriptor of an image to be changed. From now on, nobody else can open this directory."""
        commit.lock(self._directory, self.path, exclusive=True)
        self.raw(name).close()  # says what is wrong
        try:
            return os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._directory)
        except OSError as error:
            raise refusal(error, self._label(name)) from None

    def add(self, name: str, messages: Iterable[Message]) -> None:
        """One more image for these, on disk when this returns."""
        commit.lock(self._directory, self.path, exclusive=True)
        data = b"".join(framing.build(kind_of(name), messages, name))
        temporary = f".{name}.tmp"
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(temporary, flags, 0o600, dir_fd=self._directory), "wb", buffering=0) as file:
                _write_all(file, data)
                os.fsync(file.fileno())
            os.rename(temporary, name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
            os.fsync(self._directory)
        except OSError as error:
            raise refusal(error, self._label(name)) from None

    def _settle(self) -> None:
        """Finish what a dump was killed in, or where that may not be written, read from where the images are."""
        if commit.unfinished(self._directory):
            commit.lock(self._directory, self.path, exclusive=True)
            try:
                commit.finish(self._directory)
            except OSError as error:
                if error.errno not in _READ_ONLY:
                    raise refusal(error, self.path) from None
        commit.lock(self._directory, self.path, exclusive=False)
        where = commit.unfinished(self._directory)
        place = commit.subdirectory(self._directory, where) if where else None
        if place is not None:  # in WHOLE the files beside it are the old checkpoint's
            self._places = (place,) if where == commit.WHOLE else (place, self._directory)


class NewCheckpoint:
    """The images of a dump in the making. A context manager: what was not committed by its end is removed.

    Entered before the freeze: an unwritable or busy directory is refused there.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._directory = commit.open_directory(path)
        self.version = 2  # of the framing, see `framing`
        self._place = -1
        self._raw: dict[str, FileIO] = {}
        self._written: set[str] = set()
        self.parent: Parent | None = None  # the images before these, where these hold only what has changed
        self.remote: Remote | None = None  # who keeps the pages, where that is not us
        self._promises: list[Callable[[], object]] = []
        self._regrets: list[tuple[Callable[[str], object], str]] = []

    def __enter__(self) -> Self:
        try:
            commit.lock(self._directory, self.path, exclusive=True)
            commit.finish(self._directory)
            self._place = commit.begin(self._directory)
        except OSError as error:
            os.close(self._directory)
            raise refusal(error, self.path) from None
        except PycriuError:
            os.close(self._directory)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for file in self._raw.values():
                file.close()
            if self.remote is not None:
                self.remote.close()
            for action, about in self._regrets:
                action(about)
            commit.remove(self._directory)
        except (OSError, PycriuError):
            if kind is None:
                raise  # else what went wrong before is what must be told; the next dump removes what is left
        finally:
            os.close(self._place)
            os.close(self._directory)

    def link_parent(self, target: str) -> None:
        """The symbolic link to the images before these; `target` is relative to the directory."""
        self._guard(lambda: os.symlink(target, commit.PARENT, dir_fd=self._place), commit.PARENT)

    def unless_committed(self, action: Callable[[str], object], path: str) -> None:
        """Call `action(path)` at the end if there is no commit: for what a dump leaves outside of its directory."""
        self._regrets.append((action, path))

    def before_commit(self, action: Callable[[], object]) -> None:
        """Do this when nothing but the commit itself can go wrong any more."""
        self._promises.append(action)

    def reserve(self, size: int) -> None:
        """Refuse a checkpoint of that many bytes for which there is no room; nothing is held back for it."""
        refuse_without_room(self.path, size)

    def write(self, name: str, messages: Iterable[Message | tuple[Message, bytes]]) -> None:
        """Write an image; an entry with a payload is a pair. Order and number are the caller's business."""
        kind = kind_of(name)
        data = b"".join(framing.build(kind, messages, name, self.version))
        with self._create(name) as file:
            self._guard(lambda: _write_all(file, data), name)

    def write_any(self, name: str, messages: Sequence[Message]) -> None:
        """Write an image; none at all where there are no entries."""
        if messages:
            self.write(name, messages)

    def create_raw(self, name: str) -> FileIO:
        """A file for bytes (`pages-1.img`), open for writing without a buffer; `commit` syncs and closes it.

        A write to it that fails raises OSError; `refusal` turns that into words.
        """
        if kind_of(name).framing != catalogue.RAW:
            raise ImageError(f"{name}: holds messages, not bytes")
        self._raw[name] = self._create(name)
        return self._raw[name]

    def stream(self, name: str, message: Message) -> FileIO:
        """An image with a payload that is too large to be handed over: its only entry, and the file to write on to."""
        self._raw[name] = file = self._create(name)
        data = b"".join(framing.build(kind_of(name), [message], name, self.version))
        self._guard(lambda: _write_all(file, data), name)
        return file

    def stream_on(self, file: FileIO, name: str, message: Message) -> None:
        """A message inside of such a payload, with its size before it."""
        self._guard(lambda: _write_all(file, framing.serialize(message, name)), name)

    def pages_size(self) -> int:
        """Bytes of all images of pages."""
        return sum(os.fstat(file.fileno()).st_size for name, file in self._raw.items() if name.startswith("pages-"))

    def copied(self) -> int:
        """Bytes of images without messages that have been written so far."""
        return sum(os.fstat(file.fileno()).st_blocks * 512 for file in list(self._raw.values()))

    def write_raw(self, name: str, data: bytes) -> None:
        """Write an image of bytes."""
        file = self.create_raw(name)
        self._guard(lambda: _write_all(file, data), name)

    def commit(self) -> None:
        """Sync everything and let it take the place of what the directory held. The inventory must be among it."""
        if commit.INVENTORY not in self._written:
            raise ImageError(f"{self.path}: a checkpoint without inventory.img is none")
        for name in self._written - self._raw.keys():
            fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._place)
            self._raw[name] = open(fd, "r+b", buffering=0)  # noqa: SIM115 - closed by __exit__
        files = {name: file.fileno() for name, file in self._raw.items()}
        self._guard(lambda: sync_together(files, self._place), "")
        for action in self._promises:
            action()
        self._guard(lambda: commit.publish(self._directory), "")
        self._regrets.clear()

    def _create(self, name: str) -> FileIO:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self._place)
        self._written.add(name)
        return open(fd, "wb", buffering=0)

    def _guard(self, action: Callable[[], object], name: str) -> None:
        try:
            action()
        except OSError as error:
            name = name or error.filename or ""
            raise refusal(error, f"{self.path}/{name}" if name else self.path) from None


def nested(name: str, data: bytes, file: str) -> tuple[Message, int]:
    """The message `name` at the beginning of a piece of a payload, and its length there; else ImageError."""
    message, length = payloads.nested(name, memoryview(data), 0)
    if message is None:
        raise ImageError(f"{file}: no {name} where one is due")
    return message, length


def _lies_in(place: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=place, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def write_alone(path: str, message: Message) -> None:
    """Write an image that belongs to no checkpoint, whole or not at all."""
    directory, name = os.path.split(path)
    write_service(directory, name, message)


def write_stats(directory: str, name: str, message: Message, warn: Callable[[str, object], None]) -> None:
    """Figures of work that is done: nothing fails because they cannot be written."""
    try:
        write_service(directory, name, message)
    except PycriuError as error:
        warn("no figures: %s", error.message)


def write_service(directory: str, name: str, message: Message) -> None:
    """Write a service image (`stats-dump`) into the work directory, whole or not at all."""
    path = f"{directory}/{name}"
    data = b"".join(framing.build(kind_of(name), [message], name))
    try:
        if os.path.lexists(f"{path}.tmp"):
            os.unlink(f"{path}.tmp")
        # a new file: whoever else may write here could have put a link to somewhere else in its place
        with open(f"{path}.tmp", "xb", buffering=0, opener=lambda p, flags: os.open(p, flags, 0o600)) as file:
            try:
                _write_all(file, data)
            except OSError:
                os.unlink(f"{path}.tmp")
                raise
        os.rename(f"{path}.tmp", path)
    except OSError as error:
        raise refusal(error, path) from None


def _write_all(file: FileIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def refuse_without_room(path: str, size: int) -> None:
    """UserError where the disk of the directory `path` has no room for a checkpoint of `size` bytes."""
    disk = os.statvfs(path)
    free = disk.f_bavail * disk.f_frsize
    if size + _SLACK > free:
        raise UserError(
            f"{path}: the checkpoint needs about {_mib(size + _SLACK)}, {_mib(free)} are free",
            hint="make room there, or let -D name a directory on another disk",
        ) from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _mib(size: int) -> str:
    return f"{(size + (1 << 20) - 1) >> 20} MiB"
