# SPDX-License-Identifier: GPL-2.0-only
"""What sockets of all families share: what they are, and the options of level SOL_SOCKET.

The functions work on a borrowed descriptor: reading an option of it is reading the task's. CRIU's message sk_opts_entry
has fields for some options (`entry`, `restore`), the rest goes into notes (`notes`, `restore_notes`). Not kept: what
the kernel does not tell (programs for SO_ATTACH_REUSEPORT_*BPF, SO_CNX_ADVICE). Sources: socket(7), net/core/sock.c.
"""

from __future__ import annotations

import _socket
import ctypes
import os
import struct

from pycriu.errors import ImageError, KernelError, Unsupported
from pycriu.images import messages as m
from pycriu.kernel import libc
from pycriu.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pycriu.fds.openfile import OpenFile

SOL_SOCKET = 1
SO_REUSEADDR, SO_TYPE, SO_ERROR, SO_DONTROUTE, SO_BROADCAST, SO_SNDBUF, SO_RCVBUF, SO_KEEPALIVE = 2, 3, 4, 5, 6, 7, 8, 9
SO_OOBINLINE, SO_NO_CHECK, SO_PRIORITY, SO_LINGER, SO_REUSEPORT, SO_PASSCRED, SO_PEERCRED = 10, 11, 12, 13, 15, 16, 17
SO_RCVLOWAT, SO_RCVTIMEO, SO_SNDTIMEO, SO_BINDTODEVICE, SO_ATTACH_FILTER, SO_ACCEPTCONN = 18, 20, 21, 25, 26, 30
SO_SNDBUFFORCE, SO_RCVBUFFORCE, SO_PASSSEC, SO_MARK, SO_PROTOCOL, SO_DOMAIN, SO_PEEK_OFF = 32, 33, 34, 36, 38, 39, 42
SO_LOCK_FILTER, SO_PEERGROUPS, SO_NETNS_COOKIE, SO_BUF_LOCK = 44, 59, 71, 72

# The fields of sk_opts_entry that are one number, in the order in which they are restored.
_FIELDS = (
    ("so_priority", SO_PRIORITY),
    ("so_rcvlowat", SO_RCVLOWAT),
    ("so_mark", SO_MARK),
    ("so_passcred", SO_PASSCRED),
    ("so_passsec", SO_PASSSEC),
    ("so_dontroute", SO_DONTROUTE),
    ("so_no_check", SO_NO_CHECK),
    ("so_broadcast", SO_BROADCAST),
    ("so_keepalive", SO_KEEPALIVE),
    ("so_oobinline", SO_OOBINLINE),
)
_REUSE = (("reuseaddr", SO_REUSEADDR), ("so_reuseport", SO_REUSEPORT))  # with these who binds must begin

# Options without a field: name, number, size of the value in bytes. Restored in this order; the lock comes last.
_OTHERS = (
    ("debug", 1, 4),
    ("timestamp", 29, 4),
    ("timestampns", 35, 4),
    ("timestamping", 37, 8),  # struct so_timestamping
    ("rxq_ovfl", 40, 4),
    ("wifi_status", 41, 4),
    ("peek_off", SO_PEEK_OFF, 4),
    ("nofcs", 43, 4),
    ("select_err_queue", 45, 4),
    ("busy_poll", 46, 4),
    ("max_pacing_rate", 47, 8),
    ("zerocopy", 60, 4),
    ("txtime", 61, 8),  # struct sock_txtime
    ("timestamp_new", 63, 4),
    ("timestampns_new", 64, 4),
    ("timestamping_new", 65, 8),
    ("prefer_busy_poll", 69, 4),
    ("busy_poll_budget", 70, 4),
    ("txrehash", 74, 4),
    ("rcvmark", 75, 4),
    ("passpidfd", 76, 4),
    ("rcvpriority", 82, 4),
    ("passrights", 83, 4),
    ("lock_filter", SO_LOCK_FILTER, 4),
)
NOTES = frozenset(name for name, _, _ in _OTHERS)

_TIMEVAL = struct.Struct("=qq")
_LINGER = struct.Struct("=ii")
_FILTER = struct.Struct("=HBBI")  # struct sock_filter: code, jump if true, jump if false, operand
MAX_FILTER = 4096  # BPF_MAXINSNS
EINVAL, ENOPROTOOPT, EOPNOTSUPP, EACCES = 22, 92, 95, 13
NO_SUCH_OPTION = (ENOPROTOOPT, EOPNOTSUPP, EINVAL)

FAMILIES = {
    1: "UNIX", 2: "IPv4", 3: "AX.25", 4: "IPX", 5: "AppleTalk", 6: "NET/ROM", 8: "ATM", 9: "X.25", 10: "IPv6",
    11: "ROSE", 15: "key management (PF_KEY)", 16: "netlink", 17: "packet", 21: "RDS", 24: "PPP", 26: "LLC",
    27: "InfiniBand", 28: "MPLS", 29: "CAN", 30: "TIPC", 31: "Bluetooth", 32: "IUCV", 33: "RxRPC", 35: "phonet",
    36: "IEEE 802.15.4", 37: "CAIF", 38: "kernel cryptography (AF_ALG)", 39: "NFC", 40: "vsock", 41: "KCM",
    42: "Qualcomm IPC router", 43: "SMC", 44: "XDP", 45: "MCTP",
}  # fmt: skip
PROTOCOLS = {33: "DCCP", 132: "SCTP", 143: "Ethernet within IPv4", 256: "SMC", 262: "MPTCP"}  # of IPv4 and IPv6


@record
class About:
    """What a socket is: numbers of socket(2)."""

    family: int
    type: int
    protocol: int

    @property
    def words(self) -> str:
        """For messages."""
        known = PROTOCOLS.get(self.protocol) if self.family in (2, 10) else None
        return f"{known or FAMILIES.get(self.family, f'family {self.family}')} socket"


def about(file: OpenFile) -> About | None:
    """What the socket behind a descriptor is; None for what is no socket. Asked once per descriptor."""
    if not file.is_socket():
        return None
    if file.socket is None:
        fd = file.borrow()
        try:
            file.socket = about_fd(fd)
            _refuse_other_network(fd, file)
        finally:
            os.close(fd)
    found: About = file.socket
    return found


def about_fd(fd: int) -> About:
    """What the socket behind a descriptor of our own is."""
    return About(*(get_int(fd, option) for option in (SO_DOMAIN, SO_TYPE, SO_PROTOCOL)))


def _refuse_other_network(fd: int, file: OpenFile) -> None:
    """Unsupported for a socket that was made in a network namespace which is not ours."""
    try:
        theirs = get(fd, SO_NETNS_COOKIE, 8)
    except KernelError:
        return  # before Linux 5.14 nobody tells
    if theirs != _own_cookie():
        raise Unsupported(f"{file.name} belongs to another network namespace, which cannot be saved")


_cookie = b""


def _own_cookie() -> bytes:
    """What SO_NETNS_COOKIE is of a socket of our own; that does not change."""
    global _cookie  # noqa: PLW0603 - a property of the process, asked for once per socket of the tree
    if not _cookie:
        mine = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
        try:
            _cookie = mine.getsockopt(SOL_SOCKET, SO_NETNS_COOKIE, 8)
        finally:
            mine.close()
    return _cookie


# --------------------------------------------------------------------------------------------------- single options


# Somebody waits while fifty options of every socket are read: where they are put is made once.
_ROOM = 256
_VALUE, _LENGTH = ctypes.create_string_buffer(_ROOM), ctypes.c_uint32(0)
_VALUE_AT, _LENGTH_AT = ctypes.addressof(_VALUE), ctypes.addressof(_LENGTH)


def get(fd: int, option: int, size: int, level: int = SOL_SOCKET) -> bytes:
    """getsockopt(2): the value, `size` bytes at most."""
    if size > _ROOM:
        value = ctypes.create_string_buffer(size)
        at = ctypes.addressof(value)
    else:
        at = _VALUE_AT
    _LENGTH.value = size
    libc.call("getsockopt", fd, level, option, at, _LENGTH_AT, what=str(option))
    return ctypes.string_at(at, _LENGTH.value)


def get_int(fd: int, option: int, level: int = SOL_SOCKET) -> int:
    """getsockopt(2) of a number."""
    return int.from_bytes(get(fd, option, 4, level), "little", signed=True)


def set_bytes(fd: int, option: int, value: bytes, level: int = SOL_SOCKET) -> None:
    """setsockopt(2)."""
    data = ctypes.create_string_buffer(value, len(value))
    libc.call("setsockopt", fd, level, option, ctypes.addressof(data), len(value), what=f"option {option}")


def set_int(fd: int, option: int, value: int, level: int = SOL_SOCKET) -> None:
    """setsockopt(2) of a number, of which the low 32 bits count."""
    set_bytes(fd, option, (value & 0xFFFFFFFF).to_bytes(4, "little"), level)


def try_get(fd: int, option: int, size: int, level: int = SOL_SOCKET) -> bytes | None:
    """The same, None where the socket or the kernel has no such option."""
    try:
        return get(fd, option, size, level)
    except KernelError as error:
        if error.errno in NO_SUCH_OPTION:
            return None
        raise


# ------------------------------------------------------------------------------------------------------------ dump


def entry(fd: int, name: str) -> Any:
    """sk_opts_entry of a borrowed descriptor; Unsupported, with the file's `name`, for an eBPF filter."""
    send, receive = (_TIMEVAL.unpack(get(fd, option, 16)) for option in (SO_SNDTIMEO, SO_RCVTIMEO))
    opts = m.sk_opts_entry(
        so_sndbuf=get_int(fd, SO_SNDBUF), so_rcvbuf=get_int(fd, SO_RCVBUF),
        so_snd_tmo_sec=send[0], so_snd_tmo_usec=send[1], so_rcv_tmo_sec=receive[0], so_rcv_tmo_usec=receive[1],
        so_filter=[_packed(*one) for one in _FILTER.iter_unpack(filter_of(fd, name))],
    )  # fmt: skip
    for field, option in (*_REUSE, *_FIELDS, ("so_buf_lock", SO_BUF_LOCK)):
        value = try_get(fd, option, 4)
        if value is not None and (option != SO_MARK or any(value)):
            setattr(opts, field, int.from_bytes(value, "little"))
    on, seconds = _LINGER.unpack(get(fd, SO_LINGER, 8))
    if on:
        opts.so_linger = seconds
    if device := (try_get(fd, SO_BINDTODEVICE, 16) or b"").rstrip(b"\0"):
        opts.so_bound_dev = device.decode()
    return opts


def notes(fd: int) -> dict[str, bytes]:
    """The options that sk_opts_entry has no fields for, of a borrowed descriptor."""
    found = {}
    for name, option, size in _OTHERS:
        value = try_get(fd, option, size)
        if value is not None:
            found[name] = value
    return found


def filter_of(fd: int, name: str) -> bytes:
    """The filter of SO_ATTACH_FILTER, 8 bytes per instruction; Unsupported for one that was not made that way."""
    count = ctypes.c_uint32(0)  # here the length is in instructions, and 0 asks for it
    try:
        libc.call("getsockopt", fd, SOL_SOCKET, SO_ATTACH_FILTER, 0, ctypes.addressof(count))
        code = ctypes.create_string_buffer(max(1, count.value) * _FILTER.size)
        if count.value:
            libc.call("getsockopt", fd, SOL_SOCKET, SO_ATTACH_FILTER, ctypes.addressof(code), ctypes.addressof(count))
    except KernelError as error:
        if error.errno in NO_SUCH_OPTION:
            return b""
        if error.errno != EACCES:
            raise
        hint = "let the task detach it (SO_DETACH_BPF) before the dump"
        raise Unsupported(f"{name} has an eBPF program as its filter, which the kernel does not show", hint) from None
    return code.raw[: count.value * _FILTER.size]


def _packed(code: int, true: int, false: int, operand: int) -> int:
    return code << 48 | true << 40 | false << 32 | operand


# --------------------------------------------------------------------------------------------------------- restore


def check(opts: Any, name: str) -> None:
    """ImageError for options that no socket has; `name` is the socket's for the message."""
    if len(opts.so_filter) > MAX_FILTER:
        raise ImageError(f"{name} has a filter of {len(opts.so_filter)} instructions, {MAX_FILTER} is the most")
    for field in ("so_sndbuf", "so_rcvbuf", "so_linger"):
        if getattr(opts, field) >= 1 << 31:
            raise ImageError(f"{name}: {field} {getattr(opts, field)} is out of bounds")
    for direction in ("snd", "rcv"):
        seconds, micros = getattr(opts, f"so_{direction}_tmo_sec"), getattr(opts, f"so_{direction}_tmo_usec")
        if seconds >= 1 << 62 or micros >= 1_000_000:
            raise ImageError(f"{name}: a timeout of {seconds} s and {micros} us")
    if len(opts.so_bound_dev) > 15 or "\0" in opts.so_bound_dev:
        raise ImageError(f"{name} is bound to a device with an impossible name")


def check_notes(found: dict[str, bytes], name: str, its_own: Mapping[str, int | None]) -> None:
    """ImageError for a value longer than its option; `its_own`, the family's, have this length (None: any)."""
    for key, _, size in _OTHERS:
        if len(found.get(key, b"")) > size:
            raise ImageError(f"{name}: the note {key} is {len(found[key])} bytes, {size} is the most")
    for key, exact in its_own.items():
        if exact is not None and len(found.get(key, bytes(exact))) != exact:
            raise ImageError(f"{name}: the note {key} is {len(found[key])} bytes, not {exact}")


def restore_reuse(fd: int, opts: Any) -> None:
    """SO_REUSEADDR and SO_REUSEPORT."""
    for field, option in _REUSE:
        if opts.HasField(field):
            _set(fd, option, getattr(opts, field), field)


def restore(fd: int, opts: Any) -> None:
    """All options of the entry but SO_REUSEADDR and SO_REUSEPORT; KernelError names the one that was refused."""
    for field, option, force in (("so_sndbuf", SO_SNDBUF, SO_SNDBUFFORCE), ("so_rcvbuf", SO_RCVBUF, SO_RCVBUFFORCE)):
        wanted = getattr(opts, field)
        if wanted and wanted != get_int(fd, option):
            _set(fd, force, wanted // 2, field)  # the kernel doubles what it is given, and tells what it has
    if opts.HasField("so_buf_lock"):
        _set(fd, SO_BUF_LOCK, opts.so_buf_lock, "so_buf_lock")
    for field, option in _FIELDS:
        if opts.HasField(field):
            _set(fd, option, getattr(opts, field), field)
    _restore_structures(fd, opts)


def _restore_structures(fd: int, opts: Any) -> None:
    for direction, option in (("snd", SO_SNDTIMEO), ("rcv", SO_RCVTIMEO)):
        value = getattr(opts, f"so_{direction}_tmo_sec"), getattr(opts, f"so_{direction}_tmo_usec")
        if any(value):
            set_bytes(fd, option, _TIMEVAL.pack(*value))
    if opts.HasField("so_linger"):
        set_bytes(fd, SO_LINGER, _LINGER.pack(1, opts.so_linger))
    if opts.so_bound_dev:
        set_bytes(fd, SO_BINDTODEVICE, opts.so_bound_dev.encode() + b"\0")
    if opts.so_filter:
        attach_filter(fd, b"".join(_unpacked(word) for word in opts.so_filter))


def _set(fd: int, option: int, value: int, name: str) -> None:
    """Set a number if it is not what it should be: what needs no right asks for none."""
    now = try_get(fd, option, 4) if option not in (SO_SNDBUFFORCE, SO_RCVBUFFORCE) else None
    if int.from_bytes(now or b"", "little") == int(value) and option not in (SO_SNDBUFFORCE, SO_RCVBUFFORCE):
        return  # also where there is no such option and none was wanted
    try:
        set_int(fd, option, value)
    except KernelError as error:
        raise KernelError("setsockopt", error.errno, name) from None


def restore_notes(fd: int, found: dict[str, bytes]) -> None:
    """The options that sk_opts_entry has no fields for."""
    for name, option, size in _OTHERS:
        if name not in found or try_get(fd, option, size) == found[name]:
            continue
        try:
            set_bytes(fd, option, found[name])
        except KernelError as error:
            raise KernelError("setsockopt", error.errno, f"{name} of a socket") from None


def attach_filter(fd: int, code: bytes) -> None:
    """SO_ATTACH_FILTER with the instructions of `filter_of`."""
    data = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("=H6xQ", len(code) // _FILTER.size, ctypes.addressof(data))
    set_bytes(fd, SO_ATTACH_FILTER, program)


def _unpacked(word: int) -> bytes:
    return _FILTER.pack(word >> 48, word >> 40 & 0xFF, word >> 32 & 0xFF, word & 0xFFFFFFFF)
