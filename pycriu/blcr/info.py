# SPDX-License-Identifier: GPL-2.0-only
"""The story of cr_info: what a context holds: processes, files, memory, signals, timers, sockets, registers."""

from __future__ import annotations

import io
import json
import tarfile

from pycriu.blcr import archive
from pycriu.crit.explore import memory, sockets, tasks, timers
from pycriu.crit.explore.view import View
from pycriu.crit.source import Directory, Source, open_source
from pycriu.errors import ImageError
from pycriu.images import values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

_SECTIONS: tuple[tuple[str, Callable[[View], Iterator[str]]], ...] = (
    ("Processes", tasks.tree),
    ("Files", tasks.fds),
    ("Mappings", memory.mems),
    ("Pages", memory.rss),
    ("Signals", timers.signals),
    ("Timers", timers.timers),
    ("Sockets", sockets.sockets),
)


def report(path: str, *, as_json: bool) -> Iterator[str]:
    """Lines for people, or one JSON value."""
    with open_source(path) as images:
        view = View(images)
        made = _made(images, path)
        if as_json:
            told = {"context": made, "processes": [_told(view, one) for one in view.processes]}
            yield from json.dumps(told, indent=1).split("\n")
            return
        yield from _head(view, made)
        for title, lines in _SECTIONS:
            yield from ("", f"{title}:")
            yield from (f"  {line}" for line in lines(view))
        yield from ("", "Registers:")
        for one in view.living():
            for tid in one.threads:
                yield f"  {tid} {view.comm(tid)}"
                yield from (f"    {line}" for line in _registers(view.core(tid)))


def _made(images: Source, path: str) -> dict[str, Any]:
    """What cr_checkpoint has written beside the images."""
    if isinstance(images, Directory):
        return archive.meta(path)
    try:
        with tarfile.open(path) as tar:
            if archive.META not in tar.getnames():
                return {}
            file = tar.extractfile(archive.META)
            found = json.loads(file.read(1 << 16)) if file is not None else {}
    except (tarfile.TarError, OSError, ValueError, RecursionError) as error:
        raise ImageError(f"{path}: {archive.META}: {error}") from None
    if not isinstance(found, dict):
        raise ImageError(f"{path}: {archive.META} is not what cr_checkpoint writes")
    return found


def _head(view: View, made: dict[str, Any]) -> Iterator[str]:
    inventory = view.one("inventory.img")
    yield f"Format: CRIU's images, version {inventory.img_version}; {len(view.processes)} processes"
    if made:
        system = made.get("system")
        yield f"Made by: {made.get('command')} {made.get('version')}"
        yield f"Scope: {made.get('scope')} {made.get('id')}; the eldest process is {made.get('eldest')}"
        if isinstance(system, list) and len(system) == 5:
            yield f"System: {system[0]} {system[2]} {system[4]} on {system[1]}"
        yield f"Mapped files saved with it: {', '.join(map(str, made.get('saved') or [])) or 'none'}"
    first = view.processes[0]
    yield f"Architecture: {values.to_dict(view.core(first.pid)).get('mtype')}"


def _registers(core: Any) -> Iterator[str]:
    """The general registers, and which others there are."""
    for field, message in core.ListFields():
        if field.message_type is None or not field.name.startswith(("thread_info", "ti_")):
            continue
        general = getattr(message, "gpregs", None)
        words = [f"{one.name} {_hexadecimal(value)}" for one, value in general.ListFields()] if general else []
        line = io.StringIO()
        for word in words:
            if line.tell() + len(word) > 96:
                yield line.getvalue().rstrip()
                line = io.StringIO()
            line.write(f"{word}  ")
        if line.tell():
            yield line.getvalue().rstrip()
        others = [one.name for one, _ in message.ListFields() if one.name != "gpregs" and one.message_type is not None]
        yield f"also: {', '.join(others) or 'nothing'}"


def _hexadecimal(value: Any) -> str:
    return f"{value:#x}" if isinstance(value, int) else " ".join(f"{word:#x}" for word in value)


def _told(view: View, process: Any) -> dict[str, Any]:
    """A process for programs."""
    core = view.core(process.pid)
    told: dict[str, Any] = {
        "pid": process.pid, "ppid": process.ppid, "pgid": process.pgid, "sid": process.sid, "comm": core.tc.comm,
        "threads": list(process.threads), "state": values.to_dict(core.tc).get("task_state"),
    }  # fmt: skip
    if process.pid in [one.pid for one in view.living()]:
        told["files"] = {one.fd: view.file_text(one.type, one.id) for one in view.descriptors(process.pid)}
        told["mappings"] = [
            {"start": vma.start, "end": vma.end, "prot": vma.prot} for vma in view.one(f"mm-{process.pid}.img").vmas
        ]
    return told
