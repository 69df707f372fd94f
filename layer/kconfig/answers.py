# SPDX-License-Identifier: GPL-2.0-only
"""What the commands of a Kconfig tree answered, kept between audits: a hundred questions to the compiler, which take
longer than all the rest. An answer counts only for the same release of the kernel and the very same tools.

kconfiglib finds `functions` here through its environment variable KCONFIG_FUNCTIONS, its way of adding macros.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import kconfiglib  # type: ignore[import-untyped]


class Answers:
    """The answers for one kernel release and one set of tools; `file` None keeps them for this run only."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self.known: dict[str, str] = {}
        self.asked = 0  # commands that were really run
        if file is not None:
            # A damaged file is as good as none: everything is asked again, and the file replaced.
            with contextlib.suppress(OSError, ValueError, TypeError):
                self.known = {str(key): str(value) for key, value in dict(json.loads(file.read_text())).items()}

    def save(self) -> None:
        """Keep what was learnt; silently not where the cache cannot be written, which costs only time."""
        if self.file is None or not self.asked:
            return
        with contextlib.suppress(OSError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self.file.parent, delete=False) as made:
                json.dump(self.known, made, indent=0, sort_keys=True)
            os.replace(made.name, self.file)


class Asking(Protocol):
    """What `answer` needs of the tree that is being parsed."""

    answers: Answers
    srctree: str


def file_for(cache: Path, release: str, programs: Iterable[str]) -> Path:
    """Where the answers for that release and those programs are kept: a program is its file, its size and its time."""
    identity = [release]
    for program in sorted(programs):
        path = shutil.which(program)
        status = os.stat(path) if path else None
        identity.append(
            f"{program} {path and os.path.realpath(path)} {status and (status.st_size, status.st_mtime_ns)}"
        )
    digest = hashlib.sha256("\n".join(identity).encode()).hexdigest()
    return cache / "kconfig-answers" / f"{release}-{digest[:16]}.json"


def answer(tree: Asking, name: str, command: str) -> str:
    """`$(shell command)`."""
    question = command.replace(tree.srctree, "$(srctree)")
    if question not in tree.answers.known:
        tree.answers.known[question] = str(kconfiglib._shell_fn(tree, name, command))
        tree.answers.asked += 1
    return tree.answers.known[question]


functions = {"shell": (answer, 1, 1)}
