# SPDX-License-Identifier: GPL-2.0-only
"""The kernel is told to hand us every core of the machine, and that it is over. core(5)

The folder has what `uninstall` needs: what was in the two files before. Whoever may write into it commands root, so it
must be root's. The kernel follows the path from the root of the first process of the machine; in a chroot, and in most
containers, that is another one: so it is tried.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import sys

from pycriu.corefile import handler
from pycriu.errors import UserError

PATTERN, LIMIT = "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/core_pipe_limit"
LAUNCHER, BEFORE, LOG = "pycriu-handler", "pycriu-before.json", "handler.log"
_LONGEST = 127  # bytes of a pattern
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
    """Let the kernel hand us every core of the machine; the pattern. UserError where the folder is not safe."""
    folder = os.path.realpath(folder)
    _refuse_unsafe(folder)
    launcher = os.path.join(folder, LAUNCHER)
    pattern = f"@{os.path.join(folder, handler.SOCKET)}" if by_socket else f"|{launcher} %P"
    if len(pattern) > _LONGEST or " " in launcher or "%" in folder:
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
    with open(os.path.join(folder, BEFORE), "w", opener=handler.private) as out:
        json.dump(before, out)
    if before["limit"] == "0" and not by_socket:
        _write(LIMIT, str(handler.AT_ONCE))
    _write(PATTERN, pattern)
    try:
        if not by_socket:
            _demand_start(folder)
    except BaseException:
        uninstall()
        raise
    return pattern


def _demand_start(folder: str) -> None:
    """UserError where the kernel does not find the handler: it is to be told of a process of ours."""
    code = f"import os; os.kill(os.getpid(), {signal.SIGQUIT:d})"
    words = [sys.executable, "-I", "-S", "-c", code]
    pid = os.posix_spawn(sys.executable, words, os.environ, setsigmask=[], setsigdef=[signal.SIGQUIT])
    status = os.waitpid(pid, 0)[1]
    handler.remove(*handler.files(folder, pid))
    if not os.WCOREDUMP(status):
        raise UserError(
            f"the kernel has not started {folder}/{LAUNCHER} for the core of process {pid}",
            "it looks where the first process of the machine has its root, not in a chroot: install it from outside",
        )


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


def _read(path: str) -> str:
    with open(path) as file:
        return file.read().rstrip("\n")


def _write(path: str, value: str) -> None:
    try:
        with open(path, "w") as file:
            file.write(f"{value}\n")  # nothing at all would leave what is there
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", "it takes root, and a kernel that knows this pattern") from None
