# SPDX-License-Identifier: GPL-2.0-only
"""Mapped files whose pages are saved, too (`embed` of the options): a restore does without these files.

    exe      the program's own file
    private  every file that is mapped private
    shared   every file that is mapped shared and may not be written to through that mapping

In the images they are anonymous memory. The program's file must be there at a restore even so, since /proc/PID/exe
leads to it. Imported only where this is asked for.
"""

from __future__ import annotations

import copy
import stat

from pycriu.errors import About, Unsupported
from pycriu.images.catalogue import ANON_PRIVATE, MEMFD, REGULAR, SYSVIPC
from pycriu.kernel.pagemap import PAGE_SIZE, Run
from pycriu.resources.memory.mappings import Mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pycriu.fds.openfile import Place

EXE, PRIVATE, SHARED = "exe", "private", "shared"


def embed(pid: int, mappings: list[Mapping], wanted: frozenset[str], exe: Place) -> tuple[list[Mapping], list[Run]]:
    """The mappings, of which those that are wanted are anonymous now, and the runs of all pages of their files."""
    found: list[Mapping] = []
    runs: list[Run] = []
    for mapping in mappings:
        if not _is_wanted(mapping, wanted, exe):
            found.append(mapping)
            continue
        with About(pid):
            _refuse_writers(pid, mapping)
        assert mapping.file is not None
        inside = mapping.file.status.st_size - mapping.line.offset  # what lies behind the end cannot be read
        pages = min(mapping.line.end - mapping.line.start, max(0, inside) + PAGE_SIZE - 1) // PAGE_SIZE
        if pages:
            runs.append((mapping.line.start, pages))
        found.append(_anonymous(mapping))
    return found, runs


def _is_wanted(mapping: Mapping, wanted: frozenset[str], exe: Place) -> bool:
    file = mapping.file
    if file is None or mapping.status & (MEMFD | SYSVIPC) or not stat.S_ISREG(file.status.st_mode):
        return False
    if mapping.line.shared:
        return SHARED in wanted
    of_program = (file.status.st_dev, file.status.st_ino) == (exe.status.st_dev, exe.status.st_ino)
    return PRIVATE in wanted or (EXE in wanted and of_program)


def _refuse_writers(pid: int, mapping: Mapping) -> None:
    if mapping.line.shared and "mw" in mapping.line.flags:
        raise Unsupported(
            f"process {pid}: the file {mapping.line.name} is mapped shared, and may be written to; with a copy in its "
            "place, what the process writes would not reach the file",
            "do not save shared mappings, too",
        )


def _anonymous(mapping: Mapping) -> Mapping:
    line = copy.copy(mapping.line)
    line.offset, line.inode, line.dev, line.name = 0, 0, (0, 0), ""
    line.perms = line.perms[:3] + "p"
    return Mapping(line, REGULAR | ANON_PRIVATE, None)
