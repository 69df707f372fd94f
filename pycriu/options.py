# SPDX-License-Identifier: GPL-2.0-only
"""What each action is asked to do: the values that `cli` hands to `dump`, `restore` and `check`. Paths are absolute."""

from __future__ import annotations

from pycriu.record import record


@record
class DumpOptions:
    """`pycriu dump`."""

    pid: int  # root of the tree
    images_dir: str  # exists
    work_dir: str  # log, pidfile and statistics lie here
    shell_job: bool = False  # session leader or terminal may lie outside the tree
    leave_running: bool = False  # end state of the tree: running, stopped, or killed
    leave_stopped: bool = False
    timeout: int = 10  # seconds for finding and freezing all tasks


@record
class RestoreOptions:
    """`pycriu restore`."""

    images_dir: str
    work_dir: str
    detached: bool = False  # return once the tasks run, instead of waiting for the root
    shell_job: bool = False
    pidfile: str | None = None  # gets the PID of the root; must not exist
    leave_stopped: bool = False


@record
class CheckOptions:
    """`pycriu check`."""

    extra: bool = False  # the features that only some tasks need, too
    feature: str | None = None  # only this one
    list_features: bool = False  # name them all, probe none
