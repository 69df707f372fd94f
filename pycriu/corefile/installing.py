# SPDX-License-Identifier: GPL-2.0-only
"""The kernel is told to hand us every core of the machine, and that it is over. core(5)

The folder has what `uninstall` needs: what was in the two files before. Whoever may write into it commands root, so it
must be root's. The kernel follows the path from the root of the first process of the machine; in a chroot, and in most
containers, that is another one; and what it starts has nothing of our environment: so it is tried.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
from contextlib import suppress

from pycriu.corefile import handler
from pycriu.errors import UserError

PATTERN, LIMIT = "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/core_pipe_limit"
LAUNCHER, BEFORE, LOG = "pycriu-handler", "pycriu-before.json", "handler.log"
_LONGEST = 127  # bytes of a pattern
_PLAIN = {chr(number) for number in range(ord("!"), 0x7F)} - {
    "%"
}  # 0xa0, a byte of some letters, is a blank to the kernel
_UNKNOWN = "write there what it shall be, such as core: its folder is gone, or somebody else has changed it meanwhile"
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


def install(folder: str, *, by_socket: bool = False) -> str:
    """Let the kernel hand us every core of the machine; the pattern. UserError, and nothing of it is left, where the
    folder is not safe, or no core comes.
    """
    folder = os.path.realpath(folder)
    _refuse_unsafe(folder)
    launcher = os.path.join(folder, LAUNCHER)
    pattern = f"@{os.path.join(folder, handler.SOCKET)}" if by_socket else f"|{launcher} %P"
    if len(pattern) > _LONGEST or not set(folder) <= _PLAIN:  # the kernel cuts it short, or where a blank may be
        raise UserError(
            f"{folder}: its path is too long for core_pattern, or has a blank, % or a letter that is not ASCII in it",
            "choose another",
        )
    before = {"pattern": _read(PATTERN), "limit": _read(LIMIT)}
    _refuse_installed(before["pattern"])
    if by_socket:
        _refuse_old_kernel(before["pattern"])
    log = _size(os.path.join(folder, LOG))
    try:
        _write_files(folder, launcher, before)
        if before["limit"] == "0" and not by_socket:
            _write(LIMIT, str(handler.AT_ONCE))
        _write(PATTERN, pattern)
        if not by_socket:
            _demand_core(folder, log)
    except BaseException:
        _undo(folder, pattern, before)
        if log is None:
            handler.remove(os.path.join(folder, LOG))
        raise
    return pattern


def _refuse_installed(now: str) -> None:
    """One after the other they would bring each other back."""
    folder, name = os.path.split(now[1:].split(" ")[0])
    if now.startswith(("|", "@")) and name in (LAUNCHER, handler.SOCKET):
        hint = "pycriu core handler --uninstall ends that"
        if not os.path.isfile(os.path.join(folder, BEFORE)):
            hint = _UNKNOWN
        raise UserError(f"it is installed already, for {folder}", hint)


def _write_files(folder: str, launcher: str, before: dict[str, str]) -> None:
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    script = _SCRIPT.format(python=sys.executable, package=package, folder=folder, log=os.path.join(folder, LOG))
    try:
        with open(
            launcher, "w", opener=lambda p, flags: os.open(p, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o700)
        ) as out:
            out.write(script)
        with open(os.path.join(folder, BEFORE), "w", opener=handler.private) as out:
            json.dump(before, out)
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}", "it is to have the handler, and cores") from None


def _undo(folder: str, pattern: str, before: dict[str, str]) -> None:
    """As if nothing had been; what has failed is told, and not what fails now for the same reason."""
    with suppress(UserError):
        if _read(PATTERN) == pattern:
            _write(PATTERN, before["pattern"])
    with suppress(UserError):
        if _read(LIMIT) != before["limit"]:
            _write(LIMIT, before["limit"])
    with suppress(OSError):
        handler.remove(*(os.path.join(folder, name) for name in (BEFORE, LAUNCHER)))


def _demand_core(folder: str, log: int | None) -> None:
    """UserError where the core of a process of ours does not come into the folder; its log had `log` bytes before."""
    pid, started = _ended()
    path = os.path.join(folder, f"core.{pid}")
    if not started:
        raise UserError(
            f"the kernel has not started {folder}/{LAUNCHER} for the core of process {pid}",
            "it looks where the first process of the machine has its root, not in a chroot: install it from outside",
        )
    stored = os.path.isfile(path)
    handler.remove(*handler.files(folder, pid))
    if not stored:
        raise UserError(f"the handler did not store the core of process {pid}", _last_error(folder, log or 0))


def _ended() -> tuple[int, bool]:
    """A process that has ended with a core: its PID, and whether somebody was there to take it.

    Of a process with the limit 1 the kernel takes none; with 0 it does, where the pattern is a pipe.
    """
    code = f"import os, resource as r; r.setrlimit(r.RLIMIT_CORE, (0, 0)); os.kill(os.getpid(), {signal.SIGQUIT:d})"
    words = [sys.executable, "-I", "-S", "-c", code]
    pid = os.posix_spawn(sys.executable, words, os.environ, setsigmask=[], setsigdef=[signal.SIGQUIT])
    return pid, os.WCOREDUMP(os.waitpid(pid, 0)[1])


def _last_error(folder: str, begin: int) -> str:
    """What the handler has written to its log from there on that is an error."""
    try:
        with open(os.path.join(folder, LOG), errors="replace") as file:
            file.seek(begin)
            lines = [line.strip() for line in file.read(1 << 16).splitlines() if "Error" in line]
    except OSError:
        lines = []
    return lines[0] if lines else "it has not said why"


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
        raise UserError(f"core_pattern is {now!r}: not ours", _UNKNOWN)
    _refuse_unsafe(folder)
    with open(os.path.join(folder, BEFORE)) as file:
        before = json.load(file)
    _write(PATTERN, str(before["pattern"]))
    _write(LIMIT, str(before["limit"]))
    handler.remove(*(os.path.join(folder, name) for name in (BEFORE, LAUNCHER, handler.SOCKET)))
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


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return None


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().rstrip("\n")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", "it takes a kernel that writes cores (CONFIG_COREDUMP)") from None


def _write(path: str, value: str) -> None:
    try:
        with open(path, "w") as file:
            file.write(f"{value}\n")  # nothing at all would leave what is there
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", "it takes root, and a kernel that knows this pattern") from None
