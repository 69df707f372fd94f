# SPDX-License-Identifier: GPL-2.0-only
"""The kernel hands us a core: /proc/sys/kernel/core_pattern begins with `|`, or with `@`. core(5)

`|`: the kernel starts us for each core, as root, with the core on standard input, and waits until we end
(core_pipe_limit). `@` (Linux 6.16): a server of ours listens on a socket. Either way, /proc shows the process until
we are done. Into the folder go core.PID, core.PID.side and, for who wants to edit it, core.PID.fds.

The folder has what `uninstall` needs: what was in the two files before. Whoever may write into it commands root, so it
must be root's.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import stat
import struct
import sys
import tempfile
from contextlib import suppress
from typing import TYPE_CHECKING

from pycriu.corefile import descriptors, sidecar
from pycriu.corefile.seen import Seen
from pycriu.crit.output import replaced
from pycriu.errors import PycriuError, UserError
from pycriu.fds.openfile import look
from pycriu.kernel import procfs

if TYPE_CHECKING:
    from pycriu.log import Log

PATTERN, LIMIT = "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/core_pipe_limit"
LAUNCHER, BEFORE, LOG, SOCKET = "pycriu-handler", "pycriu-before.json", "handler.log", "pycriu.socket"
_LIST, _WORK = ".fds", ".pycriu-core-"
_BEGUN = re.compile(rf"{re.escape(_WORK)}(\d+)-.*|core\.\d+(?:\.side)?\.crit-(\d+)")  # by whom
_MAX_PATTERN = 127
_AT_ONCE = 16  # cores for which the kernel waits at the same time
_PAGE, _PIECE = 4096, 1 << 20
_SPARE = 64 << 20  # bytes of the disk that cores leave free
SO_PEERPIDFD = 77
_SCRIPT = """\
#!{python} -I
# SPDX-License-Identifier: GPL-2.0-only
# The kernel starts this for a core, with nothing open but standard input.
import os
import sys
while os.open(os.devnull, os.O_RDWR) < 2:
    continue
os.dup2(os.open({log!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
sys.stderr = open(2, "w", closefd=False)
sys.stdout = open(os.devnull, "w")
sys.path.insert(0, {package!r})
from pycriu.cli import main
sys.exit(main(["core", "handler", {folder!r}, *sys.argv[1:]]))
"""


def take(folder: str, pid: int, stream: int, log: Log) -> str:
    """The core of `pid`, which comes from the descriptor `stream`, and what lies beside it; the path of the core.

    A side-car that cannot be made is told to the log: the core alone is worth having.
    """
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such directory")
    path = os.path.join(folder, f"core.{pid}")
    _sweep(folder, f"core.{pid}")
    try:
        _write_list(pid, path + _LIST)
        with tempfile.TemporaryDirectory(prefix=f"{_WORK}{os.getpid()}-", dir=folder) as images:
            seen = Seen(pid, images, log)
            seen.write()
            sidecar.pack(images, path + sidecar.SUFFIX, sidecar.HANDLER, pid, seen.lacks)
    except (PycriuError, OSError) as error:
        log.error("%s: no side-car: %s", path, error)
    finally:  # whatever it is, there is no second chance to have the core
        _store(stream, path)
    return path


def _sweep(folder: str, core: str) -> None:
    """Remove what another process of that PID has left, and what was begun by handlers that were killed."""
    _remove(*(os.path.join(folder, core + suffix) for suffix in ("", sidecar.SUFFIX, _LIST)))
    for name in os.listdir(folder):
        begun, path = _BEGUN.fullmatch(name), os.path.join(folder, name)
        if begun is not None and not procfs.exists(int(begun[1] or begun[2])):
            if begun[1]:
                shutil.rmtree(path, ignore_errors=True)  # another handler may have been first
            else:
                _remove(path)


def _remove(*paths: str) -> None:
    for path in paths:
        with suppress(FileNotFoundError):
            os.unlink(path)


def _write_list(pid: int, path: str) -> None:
    lines = [
        descriptors.Line(file.fd, file.link, file.position, file.flags)
        for file in look(pid)
        if file.link.startswith("/")
    ]
    with open(path, "w", opener=_private, encoding="utf-8", errors="surrogateescape") as out:
        out.write(descriptors.text(lines))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _store(stream: int, path: str) -> None:
    """The core; without it, nothing of what lies beside it."""
    try:
        with replaced(path) as out:
            _copy(stream, out.fileno(), path)
    except BaseException:
        _remove(path + sidecar.SUFFIX, path + _LIST)
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
    _remove(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as listener:
        listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen(_AT_ONCE)
        log.flush()
        while True:
            connection, _ = listener.accept()
            with connection:
                try:
                    log.info("%s", take(folder, _peer(connection), connection.fileno(), log))
                except PycriuError as error:
                    log.error("%s", error)
                log.flush()
            if once:
                return


def _peer(connection: socket.socket) -> int:
    """The process whose core it is, as the kernel says by a pidfd."""
    pidfd = struct.unpack("i", connection.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD, 4))[0]
    try:
        return int(procfs.parse_fdinfo(procfs.text("self", f"fdinfo/{pidfd}"))["Pid"])
    finally:
        os.close(pidfd)


def install(folder: str, *, by_socket: bool = False) -> str:
    """Let the kernel hand us every core of the machine; the pattern. UserError where the folder is not safe."""
    folder = os.path.realpath(folder)
    _refuse_unsafe(folder)
    launcher = os.path.join(folder, LAUNCHER)
    pattern = f"@{os.path.join(folder, SOCKET)}" if by_socket else f"|{launcher} %P"
    if len(pattern) > _MAX_PATTERN or " " in launcher or "%" in folder:
        raise UserError(f"{folder}: its path is too long for core_pattern, or has a blank or % in it", "choose another")
    before = {"pattern": _read(PATTERN), "limit": _read(LIMIT)}
    if before["pattern"].startswith((f"|{launcher}", f"@{folder}/")):
        raise UserError(f"it is installed already, for {folder}")
    if by_socket:
        _refuse_old_kernel(before["pattern"])
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    script = _SCRIPT.format(python=sys.executable, package=package, folder=folder, log=os.path.join(folder, LOG))
    with open(launcher, "w", opener=lambda p, flags: os.open(p, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o700)) as out:
        out.write(script)
    with open(os.path.join(folder, BEFORE), "w", opener=_private) as out:
        json.dump(before, out)
    if before["limit"] == "0" and not by_socket:
        _write(LIMIT, str(_AT_ONCE))
    _write(PATTERN, pattern)
    return pattern


def _refuse_old_kernel(before: str) -> None:
    """A kernel that knows sockets refuses a relative path for one; to an older one it is the name of a file."""
    try:
        with open(PATTERN, "w") as file:
            file.write("@relative")
    except OSError:
        return
    _write(PATTERN, before)
    raise UserError("this kernel hands no cores to sockets", "it takes Linux 6.16; without --socket it is a pipe")


def uninstall() -> str:
    """As it was before; the pattern of now. UserError where it is not installed."""
    now = _read(PATTERN)
    folder = os.path.dirname(now[1:].split(" ")[0])
    if not now.startswith(("|", "@")) or not os.path.isfile(os.path.join(folder, BEFORE)):
        hint = (
            "write there what it shall be, such as core: its folder is gone, or somebody else has changed it meanwhile"
        )
        raise UserError(f"core_pattern is {now!r}: not ours", hint)
    _refuse_unsafe(folder)
    with open(os.path.join(folder, BEFORE)) as file:
        before = json.load(file)
    _write(PATTERN, str(before["pattern"]))
    _write(LIMIT, str(before["limit"]))
    _remove(*(os.path.join(folder, name) for name in (BEFORE, LAUNCHER, SOCKET)))
    return str(before["pattern"])


def _refuse_unsafe(folder: str) -> None:
    """Every directory on the way must be root's, and nobody else's to write."""
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such directory")
    at = folder
    while True:
        status = os.stat(at)
        sticky = status.st_mode & stat.S_ISVTX and at != folder
        if status.st_uid or (status.st_mode & 0o022 and not sticky):
            raise UserError(f"{at} can be written by others than root", "the kernel runs what lies there as root")
        if at == "/":
            return
        at = os.path.dirname(at)


def _read(path: str) -> str:
    with open(path) as file:
        return file.read().rstrip("\n")


def _write(path: str, value: str) -> None:
    try:
        with open(path, "w") as file:
            file.write(f"{value}\n")  # nothing at all would leave what is there
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", "it takes root, and a kernel that knows this pattern") from None
