# SPDX-License-Identifier: GPL-2.0-only
"""What is done for each type of request: a message in, a response out; PycriuError for what could not be done."""

from __future__ import annotations

import os
import select

from pycriu import __version__, log
from pycriu.actions import Request
from pycriu.command import arguments
from pycriu.errors import ImageError, PycriuError, UserError
from pycriu.images import messages as m
from pycriu.service import pageserving
from pycriu.service.session import BadOptions
from pycriu.service.wire import PeerGone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pycriu.service.worker import Worker

PROTOCOL = (4, 2)  # the release of CRIU whose RPC this is; what clients compare with the release that they need


class NoChild(UserError):
    """A process is waited for that is not ours."""


class OtherCpu(UserError):
    """This CPU lacks what that of an image had."""


def dump(worker: Worker, request: m.criu_req) -> m.criu_resp | None:
    """DUMP. Without a PID the peer itself is dumped; if it does not live on, its restored copy is answered, not it."""
    from pycriu.actions import dump as action

    opts = request.opts

    def work(asked: Request) -> bool:
        action.perform(_of_tree(worker, opts, asked))
        return opts.HasField("pid") or asked.flag("leave-running") or asked.flag("leave-stopped")

    lives = worker.perform(opts, arguments.DUMP, work)
    return m.criu_resp(dump=m.criu_dump_resp(restored=False)) if lives else None


def restore(worker: Worker, request: m.criu_req) -> m.criu_resp:
    """RESTORE: always detached. With exec_cmd, the worker becomes that command once it has answered."""
    from pycriu.actions import restore as action

    worker.peer.demand_trust("a restore")
    opts = request.opts

    def work(asked: Request) -> int:
        asked.values["restore-detached"] = True
        asked.client = worker.client(opts, asked.log)
        _check(lambda: action.options(asked))
        pid = action.perform(asked).root_pid
        if opts.exec_cmd:
            output = os.dup(asked.log.fd)
            worker.becomes = lambda: _become(list(opts.exec_cmd), output)
        return pid

    pid = worker.perform(opts, arguments.RESTORE, work)
    return m.criu_resp(restore=m.criu_restore_resp(pid=pid))


def check(worker: Worker, request: m.criu_req) -> m.criu_resp:
    """CHECK: that of `pycriu check`."""
    from pycriu.check import check as probe
    from pycriu.options import CheckOptions

    def work(asked: Request) -> None:
        report = probe(CheckOptions())
        for line in report.lines:
            asked.log.info("%s", line)
        if report.status:
            first, *rest = filter(None, report.lines)
            raise PycriuError(first, "\n".join(rest))

    worker.perform(request.opts, arguments.CHECK, work)
    return m.criu_resp()


def pre_dump(worker: Worker, request: m.criu_req) -> m.criu_resp:
    """PRE_DUMP and SINGLE_PRE_DUMP."""
    opts = request.opts
    worker.perform(opts, "pre-dump", lambda asked: worker.run("pre-dump", _of_tree(worker, opts, asked)))
    return m.criu_resp()


def cpuinfo(worker: Worker, request: m.criu_req) -> m.criu_resp:
    """CPUINFO_DUMP and CPUINFO_CHECK; OtherCpu if this is not one for the image."""
    checks = request.type == worker.types["CPUINFO_CHECK"]

    def work(asked: Request) -> None:
        asked.words = ["check" if checks else "dump"]
        worker.run("cpuinfo", asked)

    worker.peer.demand_trust("facts of the CPU in images")
    try:
        worker.perform(request.opts, "cpuinfo", work)
    except (BadOptions, ImageError):
        raise
    except UserError as error:
        raise OtherCpu(error.message, error.hint) from None
    return m.criu_resp()


def page_server(worker: Worker, request: m.criu_req) -> m.criu_resp:
    """PAGE_SERVER, and PAGE_SERVER_CHLD, whose end can be waited for."""
    worker.peer.demand_trust("a page server")
    child = request.type == worker.types["PAGE_SERVER_CHLD"]
    pid, port = pageserving.start(
        worker, lambda work: worker.perform(request.opts, arguments.PAGE_SERVER, work), child=child
    )
    return m.criu_resp(ps=m.criu_page_server_info(pid=pid, port=port))


def feature_check(worker: Worker, request: m.criu_req) -> m.criu_resp:
    """FEATURE_CHECK: for each feature that is asked for, whether it is to be had here."""
    wanted = request.features
    tracks = bool(arguments.LONG["track-mem"].actions)
    return m.criu_resp(
        features=m.criu_features(
            mem_track=wanted.mem_track and tracks, lazy_pages=False, pidfd_store=wanted.pidfd_store
        )
    )


def version(worker: Worker, request: m.criu_req) -> m.criu_resp:
    """VERSION: CRIU's whose protocol this is, and our name."""
    major, minor = PROTOCOL
    return m.criu_resp(version=m.criu_version(major_number=major, minor_number=minor, name=f"pycriu {__version__}"))


def wait_pid(worker: Worker, request: m.criu_req) -> m.criu_resp:
    """WAIT_PID: how a child of the worker, made by an earlier request, has ended."""
    try:
        pidfd = os.pidfd_open(request.pid)
    except (OSError, OverflowError) as error:
        raise UserError(f"process {request.pid} cannot be waited for: {error}") from None
    try:
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # is it a child of ours?
        waiting = select.poll()
        waiting.register(pidfd, select.POLLIN)
        waiting.register(worker.connection.fileno(), select.POLLRDHUP | select.POLLHUP)
        if pidfd not in dict(waiting.poll()):
            raise PeerGone(f"the client went away while it waited for process {request.pid}")
        return m.criu_resp(status=os.waitpid(request.pid, 0)[1])
    except ChildProcessError:
        raise NoChild(f"process {request.pid} is not a child of this worker") from None
    finally:
        os.close(pidfd)


def _of_tree(worker: Worker, opts: Any, asked: Request) -> Request:
    """The request, with the root of the tree and with who asks."""
    if not opts.HasField("pid") and not worker.peer.pid:
        raise UserError("the process that asks is in a PID namespace that the service does not see", "give its pid")
    asked.values["tree"] = str(opts.pid if opts.HasField("pid") else worker.peer.pid)
    asked.client = worker.client(opts, asked.log)
    _check(asked.dump_options)
    return asked


def _check(options: Callable[[], object]) -> None:
    """BadOptions for a value that makes no sense, before anything is begun."""
    try:
        options()
    except UserError as error:
        raise BadOptions(error.message, error.hint) from None


def _become(command: list[str], output: int) -> int:
    """The command in our place, as the parent of the restored tree, with the log as its output."""
    from pycriu.actions.restore import become

    for number in (log.STDOUT, log.STDERR):
        os.dup2(output, number)
    return become(command, log.Log())
