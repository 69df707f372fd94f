# SPDX-License-Identifier: GPL-2.0-only
"""What pycriu can be asked to do, one module for each row of `arguments.ACTIONS`, imported when it is asked for.

Each has `run(request)`: what was asked for -> one call -> words for the user, and the exit status; or a function that
comes by the exit status, once the log says that the work is done.
"""

from __future__ import annotations

from pycriu import arguments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pycriu.arguments import Values
    from pycriu.log import Log

    Outcome = int | Callable[[], int]


# What must be said at the dump and at the restore.
_OF_FILES = ("file-locks", "link-remap", "tcp-established", "tcp-close", "skip-in-flight")


class Request:
    """What the command line asks of an action. Paths are absolute, and of directories that exist."""

    __slots__ = ("images", "log", "values", "words", "work")

    def __init__(self, values: Values, words: list[str], images: str, work: str, log: Log) -> None:
        self.values = values  # of the options
        self.words = words  # behind the name of the action
        self.images, self.work, self.log = images, work, log

    def flag(self, name: str) -> bool:
        """Whether an option is on."""
        return bool(self.values.get(name))

    def text(self, name: str) -> str | None:
        """The value of an option; None where it was not given."""
        value = self.values.get(name)
        return None if value is None else str(value)

    def file_options(self) -> dict[str, Any]:
        """Those fields that `DumpOptions` and `RestoreOptions` share, by name."""
        flags = {name.replace("-", "_"): self.flag(name) for name in _OF_FILES}
        how = arguments.choice(self.values, "file-validation", "mtime", "filesize", "buildid", "checksum")
        return {**flags, "file_validation": how, "ext_unix_sk": self.text("ext-unix-sk")}


def light_protobuf() -> None:
    """Before anything imports the messages of the images, in a process that lives for one dump or restore."""
    from pycriu.images import schema

    schema.expect_no_well_known_types()
