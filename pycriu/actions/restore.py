# SPDX-License-Identifier: GPL-2.0-only
"""`pycriu restore`."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os

from pycriu.actions import (
    Request,
    free_images,
    hold,
    let_come,
    light_protobuf,
    say,
    say_stats,
    settle,
    stay,
    tell_dry_run,
)
from pycriu.command import arguments
from pycriu.errors import Several, Unsupported, UserError
from pycriu.options import RestoreOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pycriu.actions import Outcome
    from pycriu.errors import PycriuError
    from pycriu.log import Log
    from pycriu.restore import RestoreResult

_SIGPIPE, _SIGXFSZ = 13, 25


def run(request: Request) -> Outcome:
    """Bring the tree back; attached, stay until its root ends."""
    if request.flag("new-pid"):
        return _apart(request)
    if request.flag("dry-run"):
        return _dry_run(request)
    command = _command(request)
    result = perform(request)
    if request.flag("display-stats"):
        from pycriu.restore import stats_entry

        say_stats(request, stats_entry(result.took, result.pages))
    if command:
        return lambda: become(command, request.log)
    if request.flag("restore-detached"):
        return 0
    return lambda: stay(result, request.log, keys=request.flag("shell-job"))


def perform(request: Request) -> RestoreResult:
    """The restore that is asked for."""
    asked = options(request)
    light_protobuf()
    from pycriu.restore import restore

    try:
        result = restore(asked, request.log)
    except (UserError, Unsupported) as error:
        if more := others(request, asked, error):
            raise Several([error, *more]) from error
        raise
    finally:
        if asked.progress:
            asked.progress.end()
    if asked.progress:
        asked.progress.summary(summary(result))
    free_images(request, restored=True)
    return result


def others(request: Request, asked: RestoreOptions, error: PycriuError) -> list[PycriuError]:
    """What else stands in the way of a restore that was refused, found as a dry run finds it; for who reads the log."""
    if request.client is not None:
        return []
    from pycriu.dryrun.restore import Round

    try:
        found = Round(asked, request.log).found
    except OSError:  # what was refused may be in the way of looking, too
        return []
    if error.message not in found:  # it came up in the middle of the work
        return []
    return [one for message, (one, _) in found.items() if message != error.message]


def summary(result: RestoreResult) -> str:
    """In a line, for somebody who has watched."""
    from pycriu.command.progress import PAGE, size

    return f"restored {size(result.pages * PAGE)} in {result.pages} pages; it took {result.took / 1e6:.1f} s"


def options(request: Request) -> RestoreOptions:
    """What the restore is asked to do; UserError for a value that makes no sense."""
    if resources := arguments.texts(request.values, "external"):
        from pycriu.fds import external

        external.check(resources, dumping=False)
    pidfile = request.text("pidfile")
    stays = not request.flag("restore-detached") and request.client is None  # and ends as the tree or a signal says
    return RestoreOptions(
        images_dir=request.images,
        work_dir=request.work,
        detached=request.flag("restore-detached"),
        shell_job=request.flag("shell-job"),
        pidfile=os.path.join(request.work, pidfile) if pidfile else None,
        leave_stopped=request.flag("leave-stopped"),
        skip_file_rwx_check=request.flag("skip-file-rwx-check"),
        allow_uprobes=request.flag("allow-uprobes"),
        cpu_cap=request.text("cpu-cap"),
        inherit_fd=arguments.texts(request.values, "inherit-fd"),
        progress=request.progress(),
        sibling=request.flag("restore-sibling"),
        wait_pid=arguments.number(request.values, "wait-pid") if "wait-pid" in request.values else 0,
        hook=request.hook(),
        settled=hold if stays else settle,
        edit=request.texts("edit"),
        edit_script=request.text("edit-script"),
        **request.hook_options(),
        **request.file_options(),
    )


def _apart(request: Request) -> Outcome:
    """--new-pid."""
    from pycriu.ownpids import NOT_TOGETHER

    for other, reason in NOT_TOGETHER.items():
        if request.values.get(other):
            raise UserError(f"--new-pid and --{other}", f"{reason}: leave one of them out")
    asked = options(request)
    light_protobuf()
    from pycriu.ownpids import outside

    result = outside.restore(asked, request.log)
    said = f"restored with PID {result.root_pid}"
    try:
        say([said])
    except UserError as error:  # the tree lives, whoever hears of it
        request.log.warn("%s; %s", said, error)
    free_images(request, restored=True)
    return 0 if request.flag("restore-detached") else lambda: stay(result, request.log, keys=request.flag("shell-job"))


def _dry_run(request: Request) -> int:
    light_protobuf()
    from pycriu.dryrun import restore

    return tell_dry_run(request, restore.restore, options)


def _command(request: Request) -> list[str]:
    """The program of --exec-cmd with its arguments, if there is one; UserError where options contradict each other."""
    detached = request.flag("restore-detached")
    if request.flag("restore-sibling") and not detached:
        raise UserError("--restore-sibling needs --restore-detached", "only a parent can wait for the root")
    if not request.flag("exec-cmd"):
        return []
    if detached:
        raise UserError("--exec-cmd and --restore-detached", "the command is to be the parent of the root")
    if not request.words:
        raise UserError("--exec-cmd needs a command", "behind --: pycriu restore --exec-cmd -- CMD ARGUMENT…")
    return request.words


def become(command: list[str], log: Log) -> int:
    """Another program in our place, which has the root for a child; the exit status, 1, if there is none such."""
    log.flush()
    for number in (_SIGPIPE, _SIGXFSZ):  # which Python ignores
        _signal.signal(number, _signal.SIG_DFL)
    let_come()
    try:
        os.execvp(command[0], command)
    except OSError as error:
        log.error("--exec-cmd %s: %s; the tasks run", command[0], error.strerror)
    return 1
