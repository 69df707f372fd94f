# SPDX-License-Identifier: GPL-2.0-only
"""What a kind of open file has to say for itself, at a dump and at a restore.

One class per kind, with both halves; one object serves one dump or one restore and may keep what it finds. `table` has
the list of kinds, `saving` and `opening` tell when each method is called.
"""

from __future__ import annotations

from pycriu.fds.openfile import contents

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pycriu.fds.openfile import OpenFile
    from pycriu.fds.opening import Opening
    from pycriu.fds.saving import Saving
    from pycriu.images.store import ImagesDir, NewCheckpoint
    from pycriu.log import Log
    from pycriu.options import DumpOptions, RestoreOptions
    from pycriu.pages.imagefiles import Numbers
    from pycriu.tracing.tracee import Remote, Row


class Kind:
    """One kind of open file."""

    TYPE = 0  # fd_types of the image format
    LATE = False  # can be opened only when all tasks exist
    plugins: Any = None  # plugins.Plugins, where some are in play

    def __init__(self, options: DumpOptions | RestoreOptions, log: Log) -> None:
        self.options: Any = options
        self.log = log  # for what the user should know though it is no error
        self.lent: set[int] = set()  # restore: entries of the files image that only lend this kind their path

    # ------------------------------------------------------------------------------------------------------------ dump

    def matches(self, file: OpenFile) -> bool:
        """Whether `file` is of this kind."""
        raise NotImplementedError

    def inspect(self, file: OpenFile) -> None:
        """Unsupported where it cannot be kept. Asked of the running tree, and again of the stopped one."""

    def gather(self, files: list[OpenFile], saving: Saving) -> None:
        """Read what must be read while everything stands still.

        `files` are descriptors, not yet seen, of the tree and of what `saving.adopt` has been given; called again when
        that adds some.
        """

    def settle(self, saving: Saving) -> None:
        """All files have been gathered, and all stand still: Unsupported where only all of them together can tell."""

    def copy(self, new: NewCheckpoint, numbers: Numbers) -> None:
        """Contents that go straight into pages images while everything stands still, because they may be large."""

    def dump(self, file: OpenFile, number: int, saving: Saving) -> Any:
        """The file_entry of an open file that gets the id `number`. The tasks may run on by now."""
        raise NotImplementedError

    def type_of(self, file: OpenFile) -> int:
        """The type of that entry."""
        return self.TYPE

    def write(self, new: NewCheckpoint) -> None:
        """Images of this kind beside the files image."""

    def before_kill(self, pids: list[int]) -> None:
        """The checkpoint is whole; the processes `pids` are about to be killed, and it is too late to go back."""

    def thaw(self) -> None:
        """Undo what holds the tree back; also after an error, and more than once. After `before_kill`: let go of it."""

    # --------------------------------------------------------------------------------------------------------- restore

    def read(self, images: ImagesDir, entries: list[Any]) -> None:
        """Images beside the files image, and everything that can be refused before a task exists.

        `entries` are the file_entry of this kind.
        """

    def rehearse(self, entry: Any) -> None:
        """Dry run: UserError for what `open` would say, as far as it can be told without opening or making anything."""

    def late(self, entry: Any) -> bool:
        """Whether this file can be opened only when all tasks exist."""
        return self.LATE

    def open(self, entry: Any, opening: Opening) -> int:
        """Our descriptor for the file, close-on-exec. Those of other files that it needs: `opening.fd`."""
        raise NotImplementedError

    def signals(self, entry: Any, opening: Opening) -> Any:
        """The message that has the file's `flags` and its owner, `fown`: see `owner`."""
        return contents(entry)

    def task_rows(self, entry: Any, descriptor: Any, pid: int, remote: Remote, opening: Opening) -> list[Row]:
        """What the task does itself for one of its descriptors (fdinfo_entry), once all have their numbers."""
        return []

    def finish(self, opening: Opening) -> None:
        """All tasks are complete and none runs yet."""

    def is_delicate(self) -> bool:
        """Whether the end of the restore matters to somebody outside: the next three are called only then."""
        return False

    def let_go(self) -> None:
        """The last thing before the tasks run."""

    def hold(self) -> None:
        """They will not run after all, but end. May be called in a process of its own, because we have ended."""

    def released(self) -> None:
        """They run. May be called in a process of its own, and more than once."""

    def close(self) -> None:
        """Give back what `read` and `open` have kept; after an error, too."""
