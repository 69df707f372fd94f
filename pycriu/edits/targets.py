# SPDX-License-Identifier: GPL-2.0-only
"""What rules can change: the values in messages, each with the target that names it.

files:reg       paths of files, directories, named pipes and devices, mapped ones and working directories included
files:unix      names of UNIX sockets; @ begins an abstract one
ids:uid ids:gid credentials of tasks, owners of what a restore makes; TO is a number, FROM one or %
sockets:local   ADDRESS:PORT that an IP socket is bound to; [ADDRESS]:PORT for IPv6; % for either part
sockets:peer    the same of the other side
limits:NAME     SOFT or SOFT:HARD of a resource limit (nofile, core, …); FROM is the soft one or %
"""

from __future__ import annotations

import ipaddress
from functools import partial
from typing import TYPE_CHECKING, Any

from pycriu.errors import UserError
from pycriu.record import record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pycriu.edits.rules import Pattern, Rule

LIMITS = (
    "cpu", "fsize", "data", "stack", "core", "rss", "nproc", "nofile", "memlock", "as", "locks", "sigpending",
    "msgqueue", "nice", "rtprio", "rttime",
)  # fmt: skip
_UNLIMITED = (1 << 64) - 1

# Message → fields with ids of users, and of groups.
_IDS = {
    "creds_entry": (("uid", "euid", "suid", "fsuid"), ("gid", "egid", "sgid", "fsgid", "groups")),
    "fown_entry": (("uid", "euid"), ()),
    "memfd_inode_entry": (("uid",), ("gid",)),
    "ghost_file_entry": (("uid",), ("gid",)),
    "ipc_desc_entry": (("uid", "cuid"), ("gid", "cgid")),
    "file_perms_entry": (("uid",), ("gid",)),
}
_TCP = (6, 262)  # IPPROTO_TCP, IPPROTO_MPTCP
_NO_CONNECTION = (7, 10)  # TCP_CLOSE, TCP_LISTEN
_MAX_ID = (1 << 32) - 2
_MAX_PATH, _MAX_UNIX = 4095, 108

TARGETS = ("files:reg", "files:unix", "ids:uid", "ids:gid", "sockets:local", "sockets:peer",
           *(f"limits:{name}" for name in LIMITS))  # fmt: skip


@record
class Value:
    """A value that a rule may change: `replace` says whether the rule matches, and changes it then."""

    target: str
    replace: Callable[[Rule], bool]


def checked(rule: Rule) -> Rule:
    """The rule, if its target is one and its sides can be values of it; UserError otherwise."""
    if rule.target not in TARGETS:
        raise UserError(f"--edit {rule.text}: nothing is called {rule.target}", f"there are {', '.join(TARGETS)}")
    _CHECKS[rule.target.partition(":")[0]](rule)
    return rule


def values(message: Any) -> Iterator[Value]:
    """The values of one message, not of those in it."""
    name = message.DESCRIPTOR.name
    if name == "reg_file_entry":
        yield Value("files:reg", partial(_path, message))
    elif name == "unix_sk_entry":
        yield Value("files:unix", partial(_unix_name, message))
    elif name == "inet_sk_entry":
        yield Value("sockets:local", partial(_address, message, "src"))
        yield Value("sockets:peer", partial(_address, message, "dst"))
    elif name == "task_rlimits_entry":
        for limit, entry in zip(LIMITS, message.rlimits, strict=False):
            yield Value(f"limits:{limit}", partial(_limit, entry))
    for target, fields in zip(("ids:uid", "ids:gid"), _IDS.get(name, ((), ())), strict=True):
        for field in fields:
            yield Value(target, partial(_id, message, field))


# --------------------------------------------------------------------------------------------------------------- files


def _check_files(rule: Rule) -> None:
    if rule.target == "files:reg" and not rule.new.head.startswith("/") and not (rule.new.is_any or not rule.new.head):
        raise UserError(f"--edit {rule.text}: a path is absolute", "let what stands behind the = begin with /")


def _path(message: Any, rule: Rule) -> bool:
    new = rule.replacement(message.name)
    if new is None:
        return False
    parts = new.split("/")
    if not new.startswith("/") or "\0" in new or ".." in parts or "." in parts or len(new.encode()) > _MAX_PATH:
        raise UserError(f"--edit {rule.text}: makes {new!r} of {message.name!r}, which is no absolute, plain path")
    message.name = new
    return True


def _unix_name(message: Any, rule: Rule) -> bool:
    if not message.name:
        return False
    abstract = message.name.startswith(b"\0")
    ended = not abstract and message.name.endswith(b"\0")
    old = message.name[1:] if abstract else message.name.removesuffix(b"\0")
    text = ("@" if abstract else "") + old.decode(errors="surrogateescape")
    new = rule.replacement(text)
    if new is None:
        return False
    data = new.encode(errors="surrogateescape")
    if not new or b"\0" in data or len(data) >= _MAX_UNIX:
        raise UserError(f"--edit {rule.text}: makes {new!r} of {text!r}, which no UNIX socket can be called")
    message.name = b"\0" + data[1:] if new.startswith("@") else data + (b"\0" if ended or abstract else b"")
    return True


# ----------------------------------------------------------------------------------------------------------------- ids


def _check_ids(rule: Rule) -> None:
    _number(rule, rule.new)
    if not rule.old.is_any:
        _number(rule, rule.old)


def _number(rule: Rule, side: Pattern) -> int:
    text = side.head
    if side.tail is not None or not text.isascii() or not text.isdigit() or int(text) > _MAX_ID:
        raise UserError(f"--edit {rule.text}: not a number of a user or group", "from 0 to 4294967294; % for any")
    return int(text)


def _id(message: Any, field: str, rule: Rule) -> bool:
    new = int(rule.new.head)
    current = getattr(message, field)
    if isinstance(current, int):
        if rule.old.match(str(current)) is None:
            return False
        setattr(message, field, new)
        return True
    found = [new if rule.old.match(str(one)) is not None else one for one in current]
    changed = any(rule.old.match(str(one)) is not None for one in current)
    current[:] = found
    return changed


# ------------------------------------------------------------------------------------------------------------- sockets


def _check_sockets(rule: Rule) -> None:
    for side in (rule.old.head, rule.new.head):
        address, port = _parts(rule, side)
        if address != "%":
            _parsed(rule, address)
        if port != "%" and (not port.isascii() or not port.isdigit() or int(port) > 0xFFFF):
            raise UserError(f"--edit {rule.text}: {port} is not a port", "ADDRESS:PORT, % for either")


def _parts(rule: Rule, side: str) -> tuple[str, str]:
    if side == "%":
        return "%", "%"
    address, colon, port = side.rpartition(":")
    if not colon:
        raise UserError(f"--edit {rule.text}: {side} is not ADDRESS:PORT", "[ADDRESS]:PORT for IPv6, % for either part")
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    return address, port


def _parsed(rule: Rule, address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(address)
    except ValueError:
        raise UserError(f"--edit {rule.text}: {address} is not an address of IPv4 or IPv6") from None


def _address(message: Any, side: str, rule: Rule) -> bool:
    words = getattr(message, f"{side}_addr")
    port = getattr(message, f"{side}_port")
    packed = b"".join(word.to_bytes(4, "little") for word in words)
    if len(packed) not in (4, 16):
        return False
    current = ipaddress.ip_address(packed)
    wanted, wanted_port = _parts(rule, rule.old.head)
    if wanted not in ("%", str(current)) and (wanted == "%" or _parsed(rule, wanted) != current):
        return False
    if wanted_port not in ("%", str(port)):
        return False
    if message.proto in _TCP and message.state not in _NO_CONNECTION:
        raise UserError(
            f"--edit {rule.text}: {current}:{port} is a connection, whose other side knows its addresses",
            "only sockets without a connection can be given others",
        )
    new, new_port = _parts(rule, rule.new.head)
    if new != "%":
        address = _parsed(rule, new)
        if address.version != current.version:
            raise UserError(f"--edit {rule.text}: {current} is an address of IPv{current.version}, {new} is not")
        words[:] = [int.from_bytes(address.packed[at : at + 4], "little") for at in range(0, len(address.packed), 4)]
    if new_port != "%":
        setattr(message, f"{side}_port", int(new_port))
    return True


# -------------------------------------------------------------------------------------------------------------- limits


def _check_limits(rule: Rule) -> None:
    if rule.new.tail is not None:
        raise UserError(f"--edit {rule.text}: a limit is a number or unlimited", "SOFT or SOFT:HARD")
    soft, hard = _limits(rule)
    if hard is not None and soft > hard:
        raise UserError(f"--edit {rule.text}: the soft limit is above the hard one", "SOFT:HARD")
    if not rule.old.is_any and rule.old.tail is None:
        _limit_of(rule, rule.old.head)


def _limits(rule: Rule) -> tuple[int, int | None]:
    soft, colon, hard = rule.new.head.partition(":")
    return _limit_of(rule, soft), _limit_of(rule, hard) if colon else None


def _limit_of(rule: Rule, text: str) -> int:
    if text == "unlimited":
        return _UNLIMITED
    if not text.isascii() or not text.isdigit() or int(text) > _UNLIMITED:
        raise UserError(f"--edit {rule.text}: {text!r} is no limit", "a number or unlimited; SOFT or SOFT:HARD")
    return int(text)


def _limit(entry: Any, rule: Rule) -> bool:
    current = "unlimited" if entry.cur == _UNLIMITED else str(entry.cur)
    if rule.old.match(current) is None:
        return False
    soft, hard = _limits(rule)
    if hard is None and soft > entry.max:
        raise UserError(f"--edit {rule.text}: the hard limit is {entry.max}", "SOFT:HARD changes both")
    entry.cur = soft
    if hard is not None:
        entry.max = hard
    return True


_CHECKS: dict[str, Callable[[Rule], None]] = {
    "files": _check_files,
    "ids": _check_ids,
    "sockets": _check_sockets,
    "limits": _check_limits,
}
