# SPDX-License-Identifier: GPL-2.0-only
"""What a plugin may have to say, in the order in which it is asked.

One object serves one dump or one restore. Whatever it raises ends the work, which is undone as after any other error.
Nothing need be defined that is not used.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from pycriu.fds.openfile import OpenFile
    from pycriu.kernel.procfs import Mapping as Line
    from pycriu.log import Log
    from pycriu.tracing.pstree import Freeze
    from pycriu.tracing.tracee import Tracee


class Plugin:
    """A plugin that does nothing."""

    NAME = ""  # in the inventory: a restore without the plugin is refused

    def __init__(self, log: Log) -> None:
        self.log = log

    # ------------------------------------------------------------------------------------------------------------ dump

    def handle_fd(self, file: OpenFile) -> bool:
        """Whether this open file, which pycriu would refuse, is the plugin's. Asked of the running tree, and again."""
        return False

    def handle_vma(self, pid: int, mapping: Line) -> bool:
        """Whether this mapping is the plugin's: it goes into no image."""
        return False

    def pause(self, pids: list[int], seconds: int) -> None:
        """The tree is about to be stopped, and runs. A pre-dump does not ask."""

    def after_freeze(self, tree: Freeze) -> None:
        """It stands still; nothing has been looked at."""

    def save_fd(self, file: OpenFile) -> bytes:
        """What `restore_fd` needs; all stand still."""
        return b""

    def before_write(self) -> bytes | None:
        """What `check` needs; None: the plugin has had no part in it."""
        return None

    def thawed(self) -> None:
        """The tree goes on from here, with or without an error: do not wait for anything."""

    def resume(self, tasks: Mapping[int, Tracee], tree: Freeze | None = None) -> None:
        """The tree stands still, complete. At a dump that leaves it stopped `tree` has it, else it is a new one."""

    def after_resume(self) -> None:
        """It runs, and all went well."""

    def on_failure(self) -> None:
        """Something went wrong. The tree of a dump runs on; that of a restore is no more."""

    def ended(self) -> None:
        """The tree of a dump has been killed, as was asked for."""

    # --------------------------------------------------------------------------------------------------------- restore

    def check(self, note: bytes | None) -> None:
        """What `before_write` has said; None: nothing. UserError where it cannot be restored here."""

    def restore_fd(self, data: bytes) -> int:
        """A new descriptor of ours, close-on-exec, for what `save_fd` has saved."""
        raise NotImplementedError
