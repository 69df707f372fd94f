# SPDX-License-Identifier: GPL-2.0-only
"""What scripts written for CRIU's Python bindings use: `pycriu.criu()`, which asks by RPC, and its exceptions.

    ask = pycriu.criu()
    ask.opts.pid = 4711
    ask.opts.images_dir_fd = os.open("checkpoint", os.O_DIRECTORY)
    ask.dump()

Without a word it starts a worker of this pycriu; `use_binary` names another program, CRIU's own included, `use_sk` the
socket of a service, `use_fd` a connection that is there already.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys

from pycriu import rpc
from pycriu.images import messages as m
from pycriu.images import schema

CR_DEFAULT_SERVICE_ADDRESS = "./criu_service.socket"
_FAILURES: tuple[type[Exception], ...] = (OSError, ValueError, *schema.parse_errors(), *schema.encode_errors())
# As `-m pycriu`, wherever this script has found it.
_OURSELVES = (
    sys.executable,
    "-c",
    f"import sys; sys.path.insert(0, {os.path.dirname(os.path.dirname(os.path.abspath(__file__)))!r}); "
    "from pycriu.cli import command; command()",
)


class CRIUException(Exception):
    """A request that has not been done; `typ` is its type."""

    typ = 0
    _str: str = ""

    def __str__(self) -> str:
        return self._str


class CRIUExceptionInternal(CRIUException):
    """The request could not be asked, or its answer not be read."""

    def __init__(self, typ: int, s: str) -> None:
        super().__init__(typ, s)
        self.typ = typ
        self._str = f"{_name(typ)} failed with internal error: {s}"


class CRIUExceptionExternal(CRIUException):
    """The answer is that it failed: `errno` says how (0: see the log), `errmsg` in words."""

    def __init__(self, req_typ: int, resp_typ: int, errno: int, errmsg: str = "") -> None:
        super().__init__(req_typ, resp_typ, errno, errmsg)
        self.typ, self.resp_typ, self.errno, self.errmsg = req_typ, resp_typ, errno, errmsg
        self._str = self._gen_error_str()

    def _gen_error_str(self) -> str:
        said = f"{_name(self.typ)} failed: "
        if self.typ != self.resp_typ:
            said += f"Unexpected response type {self.resp_typ}: "
        meaning = _MEANINGS.get((self.typ, self.errno)) or _MEANINGS.get((None, self.errno), "Unknown")
        said += f"Error({self.errno}): {meaning}"
        return f"{said}: {self.errmsg}" if self.errmsg else said


class _Way:
    """How to come by a connection."""

    def connect(self, daemon: bool) -> socket.socket:
        """A connection; `daemon`: what is started for it must not be below this process."""
        raise NotImplementedError

    def disconnect(self) -> None:
        """Give it back."""
        self.sk.close()

    sk: socket.socket


class _Socket(_Way):
    def __init__(self, path: str) -> None:
        self.comm = path

    def connect(self, daemon: bool) -> socket.socket:
        self.sk = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self.sk.connect(self.comm)
        except OSError:
            self.sk.close()
            raise
        return self.sk


class _Descriptor(_Way):
    def __init__(self, fd: int) -> None:
        self.comm = fd

    def connect(self, daemon: bool) -> socket.socket:
        self.sk = socket.fromfd(self.comm, socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return self.sk


class _Program(_Way):
    def __init__(self, *command: str) -> None:
        self.comm = command
        self.swrk = 0

    def connect(self, daemon: bool) -> socket.socket:
        its, self.sk = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.daemon = daemon
        with its:
            self.swrk = os.fork()
            if not self.swrk:
                self._become(its)
        if daemon:
            _wait(self.swrk)
        return self.sk

    def _become(self, its: socket.socket) -> None:
        """The child, or with `daemon` its child: never returns."""
        try:
            if self.daemon and os.fork():
                os._exit(0)
            if self.daemon:
                os.setsid()
            null = os.open(os.devnull, os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(null, number)
            its.set_inheritable(True)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.execvp(self.comm[0], [*self.comm, "swrk", str(its.fileno())])
        finally:
            os._exit(127)

    def disconnect(self) -> None:
        super().disconnect()
        if not self.daemon:
            _wait(self.swrk)


def _wait(child: int) -> None:
    try:
        os.waitpid(child, 0)
    except ChildProcessError:
        return  # this script has SIGCHLD ignored: it has ended, and nobody is told how


class criu:  # noqa: N801 - upstream's name
    """Asks for dumps and restores by RPC. `opts` are the options, as a message: see `pycriu.rpc.criu_opts`."""

    def __init__(self) -> None:
        self._comm: _Way = _Program(*_OURSELVES)
        self.opts = m.criu_opts()
        self.sk: socket.socket | None = None

    def use_sk(self, sk_name: str) -> None:
        """Ask the service that listens on the socket of this path."""
        self._comm = _Socket(sk_name)

    def use_fd(self, fd: int) -> None:
        """Ask by a connection that exists, and that stays open."""
        self._comm = _Descriptor(fd)

    def use_binary(self, bin_name: str) -> None:
        """Start this program as a worker for each request."""
        self._comm = _Program(bin_name)

    def check(self) -> None:
        """Whether this kernel has what every dump and restore needs; CRIUExceptionExternal says what it lacks."""
        self._ask(rpc.CHECK, options=False)

    def dump(self) -> m.criu_dump_resp:
        """Dump the tree of `opts.pid`, or this process itself if there is none.

        `restored` of the answer tells, after a dump of this process, whether this is the restored copy.
        """
        return self._ask(rpc.DUMP).dump

    def pre_dump(self) -> m.criu_dump_resp:
        """Save the memory of the tree of `opts.pid`, which runs on."""
        return self._ask(rpc.PRE_DUMP).dump

    def restore(self) -> m.criu_restore_resp:
        """Restore a tree; `pid` of the answer is its root's."""
        return self._ask(rpc.RESTORE).restore

    def page_server_chld(self) -> m.criu_page_server_info:
        """Start a page server that `wait_pid` can wait for; `pid` and `port` of the answer are its own."""
        return self._ask(rpc.PAGE_SERVER_CHLD, keep_open=True).ps

    def wait_pid(self, pid: int) -> int:
        """The wait status of a process that an earlier request on this connection has made."""
        return self._ask(rpc.WAIT_PID, options=False, pid=pid).status

    def version(self) -> m.criu_version:
        """Which CRIU's RPC this is, and who speaks it."""
        return self._ask(rpc.VERSION, options=False).version

    def feature_check(self, features: m.criu_features) -> m.criu_features:
        """Which of these features are to be had."""
        return self._ask(rpc.FEATURE_CHECK, options=False, features=features).features

    def _ask(self, kind: object, *, options: bool = True, **more: object) -> m.criu_resp:
        request = m.criu_req(type=kind, **more)  # type: ignore[arg-type]
        if options:
            request.opts.MergeFrom(self.opts)
        answer = self._send_req_and_recv_resp(request)
        if not answer.success:
            raise CRIUExceptionExternal(request.type, answer.type, answer.cr_errno, answer.cr_errmsg)
        return answer

    def _send_req_and_recv_resp(self, req: m.criu_req) -> m.criu_resp:
        """One question, one answer. Who wants itself dumped starts a worker that is not below it."""
        daemon = req.type == rpc.DUMP and not req.opts.HasField("pid")
        try:
            connection = self.sk or self._comm.connect(daemon)
            self.sk = None
            answered = False
            try:
                connection.send(req.SerializeToString())
                size = connection.recv_into(bytearray(1), 1, socket.MSG_TRUNC | socket.MSG_PEEK)
                answer = m.criu_resp.FromString(connection.recv(size))
                answered = True
            finally:
                if answered and req.keep_open:
                    self.sk = connection
                else:
                    self._comm.disconnect()
            return answer
        except _FAILURES as error:
            raise CRIUExceptionInternal(req.type, str(error)) from error


def _name(typ: int) -> str:
    return rpc.Enum("criu_req_type").Name(typ)


_MEANINGS = {
    (None, errno.EBADRQC): "Bad options",
    (1, errno.ESRCH): "No process with such pid",  # DUMP
    (2, errno.EEXIST): "Process with requested pid already exists",  # RESTORE
}
