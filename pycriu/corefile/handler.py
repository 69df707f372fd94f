# SPDX-License-Identifier: GPL-2.0-only
"""The kernel hands us a core: /proc/sys/kernel/core_pattern begins with `|`, or with `@`. core(5)

`|`: the kernel starts us for each core, as root, with the core on standard input, and waits until we end
(core_pipe_limit). `@` (Linux 6.16): a server of ours listens on a socket. Either way, /proc shows the process until
we are done. Into the folder go core.PID, core.PID.side and, for who wants to edit it, core.PID.fds. How the pattern
comes to be there: `installing`.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import struct
import tempfile
from contextlib import suppress
from typing import TYPE_CHECKING

from pycriu.corefile import descriptors, sidecar
from pycriu.corefile.seen import Seen
from pycriu.crit.output import replaced
from pycriu.errors import PycriuError, UserError
from pycriu.fds.openfile import look
from pycriu.kernel import procfs, waking

if TYPE_CHECKING:
    from pycriu.log import Log

SOCKET = "pycriu.socket"
AT_ONCE = 16  # cores for which the kernel waits at the same time
_LIST, _WORK = ".fds", ".pycriu-core-"
_BEGUN = re.compile(rf"{re.escape(_WORK)}(\d+)-.*|core\.\d+(?:\.side)?\.crit-(\d+)(?:-\w+)?")  # by whom
_PAGE, _PIECE = 4096, 1 << 20
_SPARE = 64 << 20  # bytes of the disk that cores leave free
SO_PEERPIDFD = 77


def take(folder: str, pid: int, stream: int, log: Log) -> str:
    """The core of `pid`, which comes from the descriptor `stream`, and what lies beside it; the path of the core.

    A side-car that cannot be made is told to the log: the core alone is worth having.
    """
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such directory")
    path = os.path.join(folder, f"core.{pid}")
    remove(*files(folder, pid))  # of another process of that PID
    _sweep(folder)
    try:
        _write_list(pid, path + _LIST)
        with tempfile.TemporaryDirectory(prefix=f"{_WORK}{os.getpid()}-", dir=folder) as images:
            seen = Seen(pid, images, log)
            seen.write()
            with replaced(path + sidecar.SUFFIX) as beside:
                sidecar.pack(images, beside, sidecar.HANDLER, pid, seen.lacks)
    except (PycriuError, OSError) as error:
        log.error("%s: no side-car: %s", path, error)
    finally:  # whatever it is, there is no second chance to have the core
        _store(stream, path)
    return path


def files(folder: str, pid: int) -> list[str]:
    """Where the core of a process goes, and what is beside it."""
    return [os.path.join(folder, f"core.{pid}{suffix}") for suffix in ("", sidecar.SUFFIX, _LIST)]


def _sweep(folder: str) -> None:
    """Remove what was begun by handlers that were killed."""
    for name in os.listdir(folder):
        begun, path = _BEGUN.fullmatch(name), os.path.join(folder, name)
        if begun is not None and not procfs.exists(int(begun[1] or begun[2])):
            if begun[1]:
                shutil.rmtree(path, ignore_errors=True)  # another handler may have been first
            else:
                remove(path)


def remove(*paths: str) -> None:
    """Those that are there."""
    for path in paths:
        with suppress(FileNotFoundError):
            os.unlink(path)


def _write_list(pid: int, path: str) -> None:
    lines = [
        descriptors.Line(file.fd, file.link, file.position, file.flags)
        for file in look(pid)
        if file.link.startswith("/")
    ]
    with open(path, "w", opener=private, encoding="utf-8", errors="surrogateescape") as out:
        out.write(descriptors.text(lines))


def private(path: str, flags: int) -> int:
    """An opener of files for their owner, who is not sent elsewhere by a link."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _store(stream: int, path: str) -> None:
    """The core; without it, nothing of what lies beside it."""
    try:
        with replaced(path) as out:
            _copy(stream, out.fileno(), path)
    except BaseException:
        remove(path + sidecar.SUFFIX, path + _LIST)
        raise


def _copy(stream: int, out: int, path: str) -> None:
    """All that comes; pages of zeros are holes."""
    zeros, zero, size = bytes(_PIECE), bytes(_PAGE), 0
    while data := _piece(stream):
        disk = os.fstatvfs(out)
        if disk.f_bavail * disk.f_frsize < _SPARE:
            raise UserError(f"{path}: the disk is full", "the core was not written")
        for at in range(0, len(data), _PAGE) if data != zeros else ():  # a large hole is over soon
            page = data[at : at + _PAGE]
            if page != zero:
                os.pwrite(out, page, size + at)
        size += len(data)
    os.ftruncate(out, size)


def _piece(stream: int) -> bytes:
    """As much as fits, so that pages do not fall apart; less at the end."""
    parts, size = [], 0
    while size < _PIECE and (data := os.read(stream, _PIECE - size)):
        parts.append(data)
        size += len(data)
    return b"".join(parts)


def serve(folder: str, log: Log, *, once: bool = False) -> None:
    """Listen for the kernel on the socket in the folder, a core after the other (Linux 6.16)."""
    path = os.path.join(folder, SOCKET)
    remove(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as listener:
        listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen(AT_ONCE)
        log.flush()
        while True:
            connection, _ = waking.accept(listener)
            with connection:
                try:
                    log.info("%s", take(folder, _peer(connection), connection.fileno(), log))
                except (PycriuError, OSError) as error:  # the next core may be a better one
                    log.error("%s", error)
                log.flush()
            if once:
                return


def _peer(connection: socket.socket) -> int:
    """The process whose core it is, as the kernel says by a pidfd; UserError where it was killed before we came."""
    pidfd = struct.unpack("i", connection.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD, 4))[0]
    try:
        pid = int(procfs.parse_fdinfo(procfs.text("self", f"fdinfo/{pidfd}"))["Pid"])
    finally:
        os.close(pidfd)
    if pid <= 0:
        raise UserError("a process is gone whose core was announced: somebody has killed it")
    return pid
