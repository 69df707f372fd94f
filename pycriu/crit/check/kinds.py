# SPDX-License-Identifier: GPL-2.0-only
"""What single kinds of file say: sockets, pipes, terminals, watches, timers and the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pycriu.crit.check.model import REG, Model
from pycriu.crit.check.openfiles import inner

_SECOND = 10**9
_CLOCKS = (0, 1, 7, 8, 9)
_TCP, _STREAM = 6, 1
_ESTABLISHED, _LISTEN, _CLOSE = 1, 10, 7
_NOT_KEPT = (3, 6)  # SYN_RECV, TIME_WAIT
_SOCK_TYPES = (1, 2, 3, 4, 5)
_EXTERN = 1  # unix_sk_entry.uflags
_NO_TFD = (1 << 31) - 1  # what pycriu writes where CRIU's message has no number: see pycriu-epoll.img
_DESCRIPTOR_MAX = 1 << 30
_TYPES = {1, 2, 4, 6, 8, 10, 12}  # of a mode, S_IFMT >> 12


class _Say:
    """Finds something in one file, unless it is right."""

    def __init__(self, model: Model, file: Any) -> None:
        self._model, self._file = model, file

    def __call__(self, right: bool, field: str, text: str) -> None:
        if not right:
            self._model.found(self._file.image, text, self._file.entry, inner(self._file, field))

    def where(self, field: str) -> tuple[str, int | None, str]:
        """For Model.refer."""
        return self._file.image, self._file.entry, inner(self._file, field)


def check(model: Model) -> None:
    """All of it."""
    for kind, rule in _RULES.items():
        for _, file, what in model.files_of(kind):
            say = _Say(model, file)
            _check_owner(say, what)
            _check_options(say, what)
            rule(model, say, what)
    _check_inodes(model)
    _check_streams(model)
    _check_pipe_data(model, 2, "pipes-data.img")
    _check_pipe_data(model, 3, "fifo-data.img")
    _check_terminals(model)
    _check_memory_files(model)


def _check_owner(say: _Say, what: Any) -> None:
    if what.DESCRIPTOR.fields_by_name.get("fown") is not None:
        say(what.fown.signum <= 64, "fown.signum", f"there is no signal {what.fown.signum}")
        say(what.fown.pid_type <= 3, "fown.pid_type", f"{what.fown.pid_type} is no type of owner")


def _check_options(say: _Say, what: Any) -> None:
    if what.DESCRIPTOR.fields_by_name.get("opts") is None:
        return
    opts = what.opts
    for field in ("so_snd_tmo_usec", "so_rcv_tmo_usec"):
        say(getattr(opts, field) < 10**6, f"opts.{field}", "more than a second of microseconds")
    for field in ("so_sndbuf", "so_rcvbuf"):
        say(getattr(opts, field) < 1 << 31, f"opts.{field}", f"{getattr(opts, field)} bytes are no size of a buffer")
    say(len(opts.so_filter) <= 4096, "opts.so_filter", f"{len(opts.so_filter)} instructions; 4096 are the most")


def _reg(model: Model, say: _Say, what: Any) -> None:
    say(bool(what.name), "name", "is empty")
    say("\0" not in what.name, "name", "holds a zero byte")
    say(not what.HasField("mode") or what.mode >> 12 in _TYPES, "mode", f"{what.mode:o} is no type of file")
    mounts = [entry.mnt_id for name, _ in model.of_stem("mountpoints") for entry in model.entries(name)]
    if mounts and what.mnt_id > 0:
        say(what.mnt_id in mounts, "mnt_id", f"no mount has the id {what.mnt_id}")


def _pipe(_model: Model, say: _Say, what: Any) -> None:
    say(what.pipe_id != 0, "pipe_id", "is 0")


def _fifo(model: Model, say: _Say, what: Any) -> None:
    if what.HasField("regf_id"):
        model.refer(what.regf_id, (REG,), say.where("regf_id"))


def _inet(_model: Model, say: _Say, what: Any) -> None:
    words = {2: 1, 10: 4}.get(what.family)
    say(words is not None, "family", f"{what.family} is neither IPv4 nor IPv6")
    for field in ("src_addr", "dst_addr"):
        count = len(getattr(what, field))
        say(words is None or count == words, field, f"{count} words are no address of family {what.family}")
    for field in ("src_port", "dst_port"):
        say(getattr(what, field) < 1 << 16, field, f"{getattr(what, field)} is no port")
    say(what.type in _SOCK_TYPES, "type", f"{what.type} is no type of socket")
    say(1 <= what.state <= 12 and what.state not in _NOT_KEPT, "state", f"{what.state} is no state that is kept")


def _unix(_model: Model, say: _Say, what: Any) -> None:
    say(what.type in _SOCK_TYPES, "type", f"{what.type} is no type of socket")
    say(what.state in (_ESTABLISHED, _CLOSE, _LISTEN), "state", f"{what.state} is no state of a UNIX socket")
    say(len(what.name) <= 110, "name", f"{len(what.name)} bytes are no name of a socket")
    say(what.shutdown <= 3, "shutdown", f"{what.shutdown} is no way to shut down")


def _eventpoll(_model: Model, say: _Say, what: Any) -> None:
    for number, watch in enumerate(what.tfd):
        say(watch.id in (0, what.id), f"tfd[{number}].id", f"{watch.id}, but the file is {what.id}")
        good = watch.tfd < _DESCRIPTOR_MAX or watch.tfd == _NO_TFD
        say(good, f"tfd[{number}].tfd", f"{watch.tfd} is no descriptor")


def _eventfd(_model: Model, say: _Say, what: Any) -> None:
    say(what.counter < (1 << 64) - 1, "counter", f"{what.counter} is more than an eventfd can count")


def _inotify(_model: Model, say: _Say, what: Any) -> None:
    seen: set[int] = set()
    for number, watch in enumerate(what.wd):
        say(watch.id in (0, what.id), f"wd[{number}].id", f"{watch.id}, but the file is {what.id}")
        say(watch.wd not in seen, f"wd[{number}].wd", f"watch {watch.wd} is there twice")
        seen.add(watch.wd)
        _check_handle(say, f"wd[{number}].f_handle", watch.f_handle)


def _fanotify(_model: Model, say: _Say, what: Any) -> None:
    for number, mark in enumerate(what.mark):
        say(mark.id in (0, what.id), f"mark[{number}].id", f"{mark.id}, but the file is {what.id}")
        wanted = {1: "ie", 2: "me"}[mark.type]
        say(mark.HasField(wanted), f"mark[{number}].{wanted}", "is missing")
        if mark.type == 1:
            _check_handle(say, f"mark[{number}].ie.f_handle", mark.ie.f_handle)


def _check_handle(say: _Say, field: str, handle: Any) -> None:
    say(
        handle.bytes <= 8 * len(handle.handle), field, f"{handle.bytes} bytes, but {len(handle.handle)} words are there"
    )
    say(handle.bytes <= 128, field, f"{handle.bytes} bytes are no file handle")


def _timerfd(_model: Model, say: _Say, what: Any) -> None:
    say(what.clockid in _CLOCKS, "clockid", f"{what.clockid} is no clock of a timer")
    for field in ("vnsec", "insec"):
        say(getattr(what, field) < _SECOND, field, "more than a second of nanoseconds")


def _tty(model: Model, say: _Say, what: Any) -> None:
    known = {entry.id for entry in model.entries("tty-info.img")}
    if "tty-info.img" not in model.broken:
        say(what.tty_info_id in known, "tty_info_id", f"tty-info.img has no terminal {what.tty_info_id}")
    if what.HasField("regf_id"):
        model.refer(what.regf_id, (REG,), say.where("regf_id"))


def _memfd(model: Model, say: _Say, what: Any) -> None:
    known = {entry.inode_id for entry in model.entries("memfd.img")}
    if "memfd.img" not in model.broken:
        say(what.inode_id in known, "inode_id", f"memfd.img has no {what.inode_id}")


def _ns(_model: Model, say: _Say, what: Any) -> None:
    say(what.ns_cflag.bit_count() == 1, "ns_cflag", f"{what.ns_cflag:#x} is no type of namespace")


def _pidfd(model: Model, say: _Say, what: Any) -> None:
    known = {one.pid for one in model.processes} | set(model.threads)
    good = what.nspid == -1 or what.nspid in known or (what.nspid > 0 and _in_pid_namespace(model))
    say(good, "nspid", f"there is no process {what.nspid}")


def _in_pid_namespace(model: Model) -> bool:
    return any(True for _ in model.of_stem("pidns"))


def _packet(_model: Model, say: _Say, what: Any) -> None:
    say(what.type in (2, 3, 10), "type", f"{what.type} is no type of packet socket")
    say(what.version <= 2, "version", f"{what.version} is no version of a ring")
    for number, member in enumerate(what.mclist):
        say(len(member.addr) <= 32, f"mclist[{number}].addr", f"{len(member.addr)} bytes are no address")


def _netlink(_model: Model, say: _Say, what: Any) -> None:
    say(what.protocol < 32, "protocol", f"netlink has no protocol {what.protocol}")


def _bpf(_model: Model, say: _Say, what: Any) -> None:
    say(bool(what.key_size or what.map_type in (22, 23, 27)), "key_size", "is 0")


def _nothing(_model: Model, _say: _Say, _what: Any) -> None:
    return


_RULES: dict[int, Callable[[Model, _Say, Any], None]] = {
    1: _reg, 2: _pipe, 3: _fifo, 4: _inet, 5: _unix, 6: _eventfd, 7: _eventpoll, 8: _inotify, 9: _nothing,
    10: _packet, 11: _tty, 12: _fanotify, 13: _netlink, 14: _ns, 15: _nothing, 16: _nothing, 17: _timerfd,
    18: _memfd, 19: _bpf, 20: _pidfd,
}  # fmt: skip


# ------------------------------------------------------------------------------------- what several have to do with


def _check_inodes(model: Model) -> None:
    """Every UNIX socket has an inode of its own; peers exist, and are of the same type."""
    by_inode: dict[int, Any] = {}
    for _, file, what in model.files_of(5):
        if by_inode.setdefault(what.ino, what) is not what:
            _Say(model, file)(False, "ino", f"two sockets have the inode {what.ino}")
    for _, file, what in model.files_of(5):
        if not what.peer:
            continue
        say, peer = _Say(model, file), by_inode.get(what.peer)
        say(peer is not None, "peer", f"no socket has the inode {what.peer}")
        if peer is not None and not peer.uflags & _EXTERN:
            say(peer.type == what.type, "peer", f"the socket {what.peer} is of another type")


def _check_streams(model: Model) -> None:
    """Connections have their queues, and queues a connection."""
    inventory = model.entries("inventory.img")
    closed = bool(inventory and inventory[0].tcp_close)
    inodes = {what.ino for _, _, what in model.files_of(4)}
    for _, file, what in model.files_of(4):
        connected = what.proto == _TCP and what.type == _STREAM and what.state not in (_CLOSE, _LISTEN)
        name = f"tcp-stream-{what.ino:x}.img"
        if connected and not closed and not model.has(name):
            _Say(model, file)(False, "ino", f"is a connection, but {name} is missing")
    for name, inode in model.numbered("tcp-stream", 16):
        if inode not in inodes and model.knows_files:
            model.found(name, f"no socket has the inode {inode:x}")
        for entry in model.entries(name):
            if entry.unsq_len > entry.outq_len:
                model.found(name, f"{entry.unsq_len} of {entry.outq_len} bytes are not sent", 0, "unsq_len")
            if max(entry.snd_wscale, entry.rcv_wscale) > 14:
                model.found(name, "a window is scaled by 14 bits at most", 0, "snd_wscale")


def _check_pipe_data(model: Model, kind: int, name: str) -> None:
    """Data belongs to a pipe, once."""
    pipes = {what.pipe_id for _, _, what in model.files_of(kind)}
    model.once(name, "pipe_id", "pipe")
    for number, entry in enumerate(model.entries(name)):
        if entry.pipe_id not in pipes and model.knows_files:
            model.found(name, f"there is no pipe {entry.pipe_id}", number, "pipe_id")
        if entry.HasField("size") and entry.bytes > entry.size:
            model.found(name, f"{entry.bytes} bytes in a pipe of {entry.size}", number, "bytes")


def _check_terminals(model: Model) -> None:
    model.once("tty-info.img", "id", "terminal")
    for number, entry in enumerate(model.entries("tty-info.img")):
        for field in ("termios", "termios_locked"):
            count = len(getattr(entry, field).c_cc)
            if entry.HasField(field) and count != 19:
                model.found("tty-info.img", f"{count} control characters, there are 19", number, f"{field}.c_cc")
    known = {entry.id for entry in model.entries("tty-info.img")}
    for number, entry in enumerate(model.entries("tty-data.img")):
        if entry.tty_id not in known and "tty-info.img" not in model.broken:
            model.found("tty-data.img", f"tty-info.img has no terminal {entry.tty_id}", number, "tty_id")


def _check_memory_files(model: Model) -> None:
    model.once("memfd.img", "inode_id")
    for number, entry in enumerate(model.entries("memfd.img")):
        if entry.seals & ~0x3F:
            model.found("memfd.img", f"{entry.seals:#x} has seals that there are not", number, "seals")
