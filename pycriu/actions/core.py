# SPDX-License-Identifier: GPL-2.0-only
"""`pycriu core`: import, restore, save, handler."""

from __future__ import annotations

import os

from pycriu.actions import Request, hold, light_protobuf, say, settle, stay
from pycriu.errors import UserError
from pycriu.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pycriu.actions import Outcome
    from pycriu.corefile.asked import Imported


def run(request: Request) -> Outcome:
    """What the first word says."""
    verb, *words = request.words or [""]
    work = {"import": _import, "restore": _restore, "save": _save, "handler": _handler}.get(verb)
    if work is None:
        raise UserError(f"core {verb}: no such thing to do", "pycriu core import, restore, save, or handler")
    light_protobuf()
    return work(request, words)


def _import(request: Request, words: list[str]) -> int:
    """A checkpoint in the images directory."""
    from pycriu.corefile import importing
    from pycriu.corefile.asked import Options

    made = importing.run(Options(images_dir=request.images, strict=request.flag("strict"), **_of(request, words)))
    say([f"process {made.pid}: {made.threads} threads, {made.pages} pages", *lacking(made)])
    return 0


def _restore(request: Request, words: list[str]) -> Outcome:
    """A running process; attached, stay until it ends."""
    from pycriu.corefile import restarting

    detached = request.flag("restore-detached")
    asked = restarting.Restart(
        stopped=request.flag("leave-stopped"), strict=request.flag("strict"), detached=detached,
        settled=settle if detached else hold, files=request.file_options(),
        told=lambda made: say([f"process {made.pid}: {made.threads} threads, {made.pages} pages", *lacking(made)]),
        **_of(request, words),
    )  # fmt: skip
    result = restarting.run(asked, request.log)
    return 0 if detached else lambda: stay(result, request.log, keys=True)


def _of(request: Request, words: list[str]) -> dict[str, Any]:
    """What an import and a restore have in common."""
    if len(words) != 1:
        raise UserError("which core file?", "pycriu core import CORE -D DIR")
    lines = None
    if name := request.text("fds"):
        from pycriu.corefile import descriptors

        lines = tuple(descriptors.read(name))
    return {
        "core": words[0], "executable": request.text("executable"), "lines": lines, "side": request.text("side"),
    }  # fmt: skip


def lacking(made: Imported) -> list[str]:
    """What the core lacks, a line each."""
    return [f"  not in the core: {one}" for one in made.lacks]


def _save(request: Request, words: list[str]) -> int:
    """A core and its side-car of a process, which goes on, unless --kill."""
    from pycriu.corefile import saving, sidecar

    if not words or not words[0].isdigit():
        raise UserError("which process?", "pycriu core save PID [CORE]")
    try:
        path = os.path.abspath(words[1] if len(words) > 1 else f"core.{words[0]}")
    except FileNotFoundError:
        raise UserError("the working directory has been removed", "pycriu core save PID /WHERE/CORE") from None
    request.values = request.values | {"tree": words[0], "leave-running": not request.flag("kill"), "shell-job": True}
    size, stored = saving.run(replace(request.dump_options(), progress=None), path, request.log)
    say([f"{path}: {stored} of {size} bytes stored; {path}{sidecar.SUFFIX} has the rest"])
    return 0


def _handler(request: Request, words: list[str]) -> int:
    """A core from the kernel; or to begin and to end with that."""
    from pycriu.corefile import handler, installing

    if request.flag("uninstall"):
        say([f"core_pattern: {installing.uninstall()}"])
        return 0
    if folder := request.text("install"):
        say([f"core_pattern: {installing.install(folder, by_socket=request.flag('socket'))}"])
        return 0
    if not words:
        raise UserError("into which directory?", "pycriu core handler --install DIR")
    if request.flag("socket"):
        handler.serve(words[0], request.log)
    elif len(words) == 2 and words[1].isdigit():
        handler.take(words[0], int(words[1]), 0, request.log)
    else:
        raise UserError("the core of which process?", "the kernel calls it so: see pycriu core handler --install")
    return 0
