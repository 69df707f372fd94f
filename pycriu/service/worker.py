# SPDX-License-Identifier: GPL-2.0-only
"""One connection: requests are read, done and answered until one of them says that it is the last.

A request that fails is answered with what is wrong: cr_errmsg says it in words, cr_errno is EBADRQC for bad options,
ESRCH for a process that does not exist, EEXIST for a PID that is taken, EPERM for what the peer may not ask for.
"""

from __future__ import annotations

import errno
import os

from pycriu import log
from pycriu.actions import ALARM, Client, Request, Signals, tell_late
from pycriu.command import arguments
from pycriu.errors import KernelError, NoProcess, PidTaken, PycriuError
from pycriu.images import messages as m
from pycriu.images import schema
from pycriu.options import no_hook
from pycriu.service import requests, wire
from pycriu.service.notify import Notifier
from pycriu.service.peer import Forbidden, Peer
from pycriu.service.session import BadOptions, Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Any, TypeVar

    from pycriu.command.arguments import Values
    from pycriu.log import Log

    Result = TypeVar("Result")

SILENT = 255  # exit status of a worker that was asked for nothing, or not in the right words

_HANDLERS: dict[str, Callable[[Worker, m.criu_req], m.criu_resp | None]] = {
    "DUMP": requests.dump,
    "RESTORE": requests.restore,
    "CHECK": requests.check,
    "PRE_DUMP": requests.pre_dump,
    "SINGLE_PRE_DUMP": requests.pre_dump,
    "PAGE_SERVER": requests.page_server,
    "PAGE_SERVER_CHLD": requests.page_server,
    "CPUINFO_DUMP": requests.cpuinfo,
    "CPUINFO_CHECK": requests.cpuinfo,
    "FEATURE_CHECK": requests.feature_check,
    "VERSION": requests.version,
    "WAIT_PID": requests.wait_pid,
}

# After these the connection may stay open, if the request asks for it.
_KEEP_OPEN = (
    "PAGE_SERVER", "PAGE_SERVER_CHLD", "CPUINFO_DUMP", "CPUINFO_CHECK", "FEATURE_CHECK", "VERSION",
)  # fmt: skip

_FAILED = {
    "DUMP": 1,
    "RESTORE": 1,
    "PRE_DUMP": SILENT,
    "SINGLE_PRE_DUMP": SILENT,
}  # exit status; of others 0, as CRIU's

_NUMBERS = (
    (NoProcess, errno.ESRCH), (PidTaken, errno.EEXIST), (Forbidden, errno.EPERM), (BadOptions, errno.EBADRQC),
    (wire.BadRequest, errno.EBADRQC), (requests.NoChild, errno.ECHILD), (requests.OtherCpu, errno.ENOTSUP),
)  # fmt: skip


class Worker:
    """The server's end of one connection."""

    def __init__(self, connection: socket.socket, configured: Values, *, swrk: bool) -> None:
        self.connection = connection
        self.types = schema.enum("criu_req_type")
        self.becomes: Callable[[], int] | None = None  # turns this process into another program, when it has answered
        self._configured, self._swrk = configured, swrk
        self._names = {number: name for name, number in self.types.items()}

    def serve(self) -> int:
        """Until the connection ends; the exit status, as CRIU's worker has it."""
        wire.prepare(self.connection)
        with Peer(self.connection) as self.peer:
            try:
                return self._serve()
            except wire.PeerGone:
                return SILENT
            except wire.BadRequest as error:
                self._refuse("EMPTY", error)
                return SILENT

    def _serve(self) -> int:
        before = ""
        while True:
            request = wire.receive(self.connection)
            name = self._names[request.type]
            if before == "PRE_DUMP" and name not in ("PRE_DUMP", "DUMP"):
                raise wire.BadRequest(f"{name} cannot follow PRE_DUMP", "after a pre-dump comes another, or the dump")
            if name not in _HANDLERS:
                raise wire.BadRequest(f"{name} is nothing that can be asked for here")
            if request.keep_open and name not in _KEEP_OPEN:
                self._refuse(name, BadOptions(f"keep_open cannot be had with {name}", "make another connection"))
                return SILENT
            done = self._answer(name, request)
            if done and self.becomes:
                self.connection.close()
                return self.becomes()
            if not done and name in _FAILED:
                return _FAILED[name]
            if name != "PRE_DUMP" and not request.keep_open:
                return 0
            before = name

    def _answer(self, name: str, request: m.criu_req) -> bool:
        try:
            response = _HANDLERS[name](self, request)
        except wire.PeerGone:
            raise
        except PycriuError as error:
            self._refuse(name, error)
            return False
        if response is None:
            return True
        response.type, response.success = self.types[name], True
        wire.send(self.connection, response)
        return True

    def _refuse(self, name: str, error: PycriuError) -> None:
        response = m.criu_resp(type=self.types[name], success=False, cr_errmsg=wire.words(error))
        number = number_of(error)
        if number:
            response.cr_errno = number
        if name == "DUMP":
            response.dump.restored = False
        if name == "RESTORE":
            response.restore.pid = -1
        wire.send(self.connection, response)

    def perform(self, opts: m.criu_opts, action: str, work: Callable[[Request], Result]) -> Result:
        """Do an action's work in the surroundings that the message asks for; what goes wrong is in the log, too."""
        if action not in arguments.ACTIONS:
            reason = arguments.OTHER_ACTIONS[action]
            raise BadOptions(f"the action {action} is not supported by pycriu{': ' if reason else ''}{reason}")
        with Session(self.peer, opts, action, self._configured, swrk=self._swrk) as session:
            lines = session.request.log
            try:
                with Signals():
                    result = work(session.request)
                tell_late(lines)
                lines.info("%s", session.action.finished)
                return result
            except PycriuError as error:
                lines.error("%s", error, where=log.place_of(error))
                lines.error("%s", session.action.failed)
                raise
            except KeyboardInterrupt as signal:
                late = signal.args == (ALARM,)
                what = "the time of --timeout is over" if late else f"interrupted by signal {signal.args[0]}"
                said = f"{what}; what was begun has been undone"
                lines.error("%s", said)
                raise PycriuError(said) from None
            except Exception as bug:
                lines.bug(bug)
                raise PycriuError(f"this is a bug of pycriu: {type(bug).__name__}: {bug}") from bug

    def run(self, action: str, request: Request) -> None:
        """What the command line does for an action; PycriuError if that says it was not done."""
        module: Any = __import__(f"pycriu.actions.{action.replace('-', '_')}", fromlist=["run"])
        outcome = module.run(request)
        status = outcome if isinstance(outcome, int) else outcome()
        if status:
            raise PycriuError(f"{action} ended with exit status {status}")

    def client(self, opts: m.criu_opts, lines: Log) -> Client:
        """The peer, as the actions know it."""
        hook = Notifier(self.connection, self.peer, lines) if opts.notify_scripts else no_hook
        return Client(os.fstat(self.connection.fileno()).st_ino, self.peer.may_dump, hook)


def number_of(error: PycriuError) -> int:
    """The errno that a client sees, 0 for none."""
    if isinstance(error, KernelError):
        return error.errno
    return next((number for kind, number in _NUMBERS if isinstance(error, kind)), 0)
