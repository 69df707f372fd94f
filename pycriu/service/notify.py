# SPDX-License-Identifier: GPL-2.0-only
"""notify_scripts: the client is told of the stages that action scripts are told of, and answers each."""

from __future__ import annotations

from pycriu.command.scripts import TOO_LATE
from pycriu.errors import HookFailed
from pycriu.images import messages as m
from pycriu.images import schema
from pycriu.kernel import procfs
from pycriu.service import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

    from pycriu.log import Log
    from pycriu.service.peer import Peer

_TELL_PID = ("setup-namespaces", "post-restore")  # where CRIU's notification has the PID of the root


class Notifier:
    """The client, as a hook of `DumpOptions` or `RestoreOptions`."""

    def __init__(self, connection: socket.socket, peer: Peer, log: Log) -> None:
        self._connection, self._peer, self._log = connection, peer, log
        self._type = schema.enum("criu_req_type")["NOTIFY"]

    def __call__(self, stage: str, pid: int) -> None:
        """Tell it, and wait for its answer; HookFailed or PeerGone where the work must not go on."""
        self._log.debug("Telling the client of %s", stage)
        try:
            self._tell(stage, pid)
        except (HookFailed, wire.PeerGone) as error:
            if stage not in TOO_LATE:
                raise
            self._log.error("%s", error)

    def _tell(self, stage: str, pid: int) -> None:
        if self._is_stopped():
            raise HookFailed(
                f"the client is in the tree that it has dumped, and cannot answer at {stage}: it must leave "
                "notify_scripts out, or have leave_running",
                status=1,
            )
        note = m.criu_notify(script=stage)
        if stage in _TELL_PID:
            note.pid = pid
        wire.send(self._connection, m.criu_resp(type=self._type, success=True, notify=note))
        try:
            answer = wire.receive(self._connection)
        except wire.BadRequest as error:
            raise HookFailed(f"the client's answer at {stage}: {error.message}", status=1) from None
        if answer.type != self._type:
            raise HookFailed(f"the client has asked for something at {stage}, instead of an answer", status=1)
        if not answer.notify_success:
            raise HookFailed(f"the client has reported an error at {stage}", status=1)

    def _is_stopped(self) -> bool:
        """Whether the client itself is held by this dump."""
        if not self._peer.pid or not procfs.exists(self._peer.pid):
            return False
        status = procfs.parse_status(procfs.text(self._peer.pid, "status"))
        return status["TracerPid"] == procfs.parse_status(procfs.text("self", "status"))["Pid"]
