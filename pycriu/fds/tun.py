# SPDX-License-Identifier: GPL-2.0-only
"""/dev/net/tun: network devices whose other end is a descriptor (TUN, TAP), with their queues.

A device that is not persistent goes with its last descriptor, and with it its addresses and routes: these are kept, and
the device is made again under its name and index. A persistent one stays where it is and is attached to again.
CRIU keeps tun devices together with a network namespace only; what it has in other messages is in an image of ours.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct

from pycriu.errors import About, ImageError, KernelError, Unsupported, UserError
from pycriu.fds.kind import Kind
from pycriu.fds.openfile import OpenFile
from pycriu.images import messages as m
from pycriu.kernel import netlink
from pycriu.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pycriu.fds.opening import Opening
    from pycriu.fds.saving import Saving
    from pycriu.images.store import ImagesDir, NewCheckpoint
    from pycriu.log import Log

_DEVICE = os.makedev(10, 200)
PATH = "/dev/net/tun"
_NET_NS = 2  # what entries.Ids numbers the network namespace

# linux/if_tun.h
TUNSETIFF, TUNGETIFF, TUNSETPERSIST = 0x400454CA, 0x800454D2, 0x400454CB
TUNSETOWNER, TUNSETGROUP, TUNSETIFINDEX, TUNSETQUEUE = 0x400454CC, 0x400454CE, 0x400454DA, 0x400454D9
TUNGETSNDBUF, TUNSETSNDBUF, TUNGETFILTER = 0x800454D3, 0x400454D4, 0x801054DB
IFF_TAP, IFF_PERSIST, IFF_DETACH_QUEUE, IFF_VNET_HDR = 2, 0x800, 0x400, 0x4000
_IFREQ = struct.Struct("=16sH22x")

# linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h
RTM_NEWLINK, RTM_GETLINK, RTM_NEWADDR, RTM_GETADDR, RTM_NEWROUTE, RTM_GETROUTE = 16, 18, 20, 22, 24, 26
NLM_F_REPLACE, NLM_F_CREATE = 0x100, 0x400
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_MASTER, IFLA_TXQLEN = 1, 3, 4, 10, 13
IFA_CACHEINFO, RTA_OIF, RTA_CACHEINFO = 6, 4, 12
RTPROT_KERNEL, RT_TABLE_LOCAL = 2, 255
IFF_SETTABLE = 0x1 | 0x4 | 0x20 | 0x80 | 0x100 | 0x200 | 0x1000 | 0x8000  # UP DEBUG … MULTICAST DYNAMIC, net/core/dev.c
_IFINFOMSG, _IFADDRMSG, _RTMSG = struct.Struct("=BxHiII"), struct.Struct("=BBBBI"), struct.Struct("=8BI")

_IMAGE = "pycriu-tun.img"


@record
class Link:
    """A network device, as rtnetlink lists it."""

    index: int
    flags: int
    name: str
    mtu: int
    queue: int
    address: bytes
    master: int


class Tun(Kind):
    """A queue of a TUN or TAP device, or a descriptor that is attached to none yet."""

    TYPE = 15  # fd_types.TUNF
    NAME = "tun"

    def __init__(self, options: Any, log: Log) -> None:
        super().__init__(options, log)
        self._queues: dict[int, tuple[str, int]] = {}  # id → device, flags
        self._first: dict[str, int] = {}  # device → id of its first queue
        self._devices: dict[str, Any] = {}  # device → pycriu_tun_device
        self._there: set[str] = set()  # persistent devices that still are

    # ------------------------------------------------------------------------------------------------------------ dump

    def matches(self, file: OpenFile) -> bool:
        """By its device number."""
        return stat.S_ISCHR(file.status.st_mode) and file.status.st_rdev == _DEVICE

    def inspect(self, file: OpenFile) -> None:
        """Unsupported for what cannot be read back."""
        fd = file.borrow()
        try:
            found = _interface(fd)
            if found is None:
                return
            name, flags = found
            if flags & IFF_VNET_HDR:
                raise Unsupported(
                    f"{file.name} is the end of {name}, which hands over packets half done (IFF_VNET_HDR)",
                    "what it may leave undone cannot be read back; let the task close it before the dump",
                )
            if flags & IFF_TAP and any(fcntl.ioctl(fd, TUNGETFILTER, bytes(16))[:2]):
                raise Unsupported(f"{file.name} is the end of {name}, which filters packets", "let the task detach it")
        finally:
            os.close(fd)

    def gather(self, files: list[OpenFile], saving: Saving) -> None:
        """The state of each device, once."""
        for number, file in saving.unseen(files, self._queues):
            fd = file.borrow()
            try:
                found = _interface(fd)
                if found is None:
                    continue
                self._queues[number] = found
                if found[0] not in self._first:
                    self._first[found[0]] = number
                    self._devices[found[0]] = _state(file, fd, *found)
            finally:
                os.close(fd)

    def dump(self, file: OpenFile, number: int, saving: Saving) -> Any:
        """Its message."""
        entry = m.tunfile_entry(id=number, ns_id=_NET_NS)
        if number in self._queues:
            entry.netdev, flags = self._queues[number]
            if flags & IFF_DETACH_QUEUE:
                entry.detached = True
        return m.file_entry(type=self.TYPE, id=number, tunf=entry)

    def write(self, new: NewCheckpoint) -> None:
        """Everything else."""
        own = [m.pycriu_tun_entry(id=number, flags=flags) for number, (_, flags) in self._queues.items()]
        for one in own:
            if self._first[name := self._queues[one.id][0]] == one.id:
                one.device.CopyFrom(self._devices[name])
        new.write_any(_IMAGE, own)

    # --------------------------------------------------------------------------------------------------------- restore

    def read(self, images: ImagesDir, entries: list[Any]) -> None:
        """Which devices have to be made; UserError where the name is taken by now."""
        own: dict[int, Any] = {one.id: one for one in images.read_if_there(_IMAGE)}  # type: ignore[attr-defined]
        if not entries:
            return
        taken = {link.name for link in links()}
        for entry in entries:
            name = entry.tunf.netdev
            if not name:
                continue
            if entry.id not in own or len(name.encode()) > 15 or "/" in name or "\0" in name:
                raise ImageError(
                    f"file {entry.id} is a queue of the network device {name!r}, of which too little is said"
                )
            self._queues[entry.id] = name, own[entry.id].flags
            if own[entry.id].HasField("device"):
                self._first.setdefault(name, entry.id)
            if name in taken and not self._queues[entry.id][1] & IFF_PERSIST:
                with About():
                    raise UserError(f"there is a network device {name} already", f"remove it: ip link delete {name}")
        for name, _ in self._queues.values():
            if name not in self._first:
                raise ImageError(f"{_IMAGE}: nothing is said of the network device {name}")
        self._there = {name for name in self._first if name in taken}
        self._devices = {name: own[number].device for name, number in self._first.items()}
        for name, device in self._devices.items():
            _check(name, device)

    def open(self, entry: Any, opening: Opening) -> int:
        """Attach to the device, which is made for the first of its queues."""
        try:
            fd = os.open(PATH, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            hint = "this kernel lacks CONFIG_TUN, or nobody has made the device: mknod /dev/net/tun c 10 200"
            raise UserError(f"{PATH} cannot be opened: {error.strerror}", hint) from None
        try:
            if entry.id in self._queues:
                self._attach(fd, *self._queues[entry.id])
        except OSError as error:
            os.close(fd)
            raise KernelError("ioctl", error.errno or 0, f"network device {entry.tunf.netdev}") from None
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _attach(self, fd: int, name: str, flags: int) -> None:
        its = self._devices[name]
        made = name not in self._there and name not in {link.name for link in links()}
        if made and its.index not in {link.index for link in links()}:
            fcntl.ioctl(fd, TUNSETIFINDEX, its.index.to_bytes(4, "little"))
        fcntl.ioctl(fd, TUNSETIFF, _IFREQ.pack(name.encode(), flags & ~(IFF_PERSIST | IFF_DETACH_QUEUE)))
        if made:
            for request, key in ((TUNSETOWNER, "owner"), (TUNSETGROUP, "group")):
                if its.HasField(key):
                    fcntl.ioctl(fd, request, getattr(its, key))
            fcntl.ioctl(fd, TUNSETSNDBUF, its.sndbuf.to_bytes(4, "little"))
        if flags & IFF_DETACH_QUEUE:
            fcntl.ioctl(fd, TUNSETQUEUE, _IFREQ.pack(b"", IFF_DETACH_QUEUE))

    def finish(self, opening: Opening) -> None:
        """Addresses, routes, and whatever else the devices had that were made."""
        for name, number in self._first.items():
            if name not in self._there:
                _configure(name, self._devices[name])
                if self._queues[number][1] & IFF_PERSIST:
                    fcntl.ioctl(opening.fd(number), TUNSETPERSIST, 1)


def _interface(fd: int) -> tuple[str, int] | None:
    """Name and flags of the device that a descriptor is attached to."""
    try:
        name, flags = _IFREQ.unpack(fcntl.ioctl(fd, TUNGETIFF, bytes(_IFREQ.size)))
    except OSError as error:
        if error.errno == errno.EBADFD:
            return None
        raise
    return name.rstrip(b"\0").decode(), flags


def links() -> list[Link]:
    """All network devices of our namespace."""
    with netlink.Netlink(0, "rtnetlink") as talk:
        return [parse_link(body) for body in talk.dump(RTM_GETLINK, _IFINFOMSG.pack(0, 0, 0, 0, 0))]


def parse_link(body: bytes) -> Link:
    """One answer to RTM_GETLINK."""
    _, _, index, flags, _ = _IFINFOMSG.unpack_from(body)
    its = netlink.attributes(body[_IFINFOMSG.size :])
    number = {key: int.from_bytes(its.get(key, b""), "little") for key in (IFLA_MTU, IFLA_TXQLEN, IFLA_MASTER)}
    name = its.get(IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace")
    mac = its.get(IFLA_ADDRESS, b"")
    return Link(index, flags, name, number[IFLA_MTU], number[IFLA_TXQLEN], mac, number[IFLA_MASTER])


def _state(file: OpenFile, fd: int, name: str, flags: int) -> Any:
    """What it takes to make a device again."""
    known = {link.index: link for link in links()}
    link = next((link for link in known.values() if link.name == name), None)
    if link is None:
        raise Unsupported(f"{file.name} is the end of {name}, which is in another network namespace")
    found = m.pycriu_tun_device(
        index=link.index, flags=link.flags, mtu=link.mtu, queue=link.queue,
        sndbuf=int.from_bytes(fcntl.ioctl(fd, TUNGETSNDBUF, bytes(4)), "little"),
    )  # fmt: skip
    if flags & IFF_TAP:
        found.mac = link.address
    if link.master:
        found.master = known[link.master].name
    for key in ("owner", "group"):
        with open(f"/sys/class/net/{name}/{key}") as text:
            number = int(text.read())
        if number >= 0:
            setattr(found, key, number)
    with netlink.Netlink(0, "rtnetlink") as talk:
        addresses = talk.dump(RTM_GETADDR, _IFADDRMSG.pack(0, 0, 0, 0, 0))
        found.addresses.extend(body for body in addresses if _IFADDRMSG.unpack_from(body)[4] == link.index)
        routes = talk.dump(RTM_GETROUTE, _RTMSG.pack(*[0] * 9))
        found.routes.extend(body for body in routes if _is_route(body, link.index))
    return found


def _is_route(body: bytes, index: int) -> bool:
    """Whether a route leads over a device and was made by somebody, not by the kernel for an address."""
    table, protocol = _RTMSG.unpack_from(body)[4:6]
    out = netlink.attributes(body[_RTMSG.size :]).get(RTA_OIF, b"")
    return int.from_bytes(out, "little") == index and protocol != RTPROT_KERNEL and table != RT_TABLE_LOCAL


def _check(name: str, its: Any) -> None:
    """ImageError for what no device can have."""
    if its.index >= 1 << 31 or "\0" in its.master:
        raise ImageError(f"{_IMAGE}: the network device {name} has an impossible index or master")
    for key, size in (("addresses", _IFADDRMSG.size), ("routes", _RTMSG.size)):
        if any(len(body) < size for body in getattr(its, key)):
            raise ImageError(f"{_IMAGE}: the network device {name} has {key} that are cut short")


def _configure(name: str, its: Any) -> None:
    """Give a new device what the old one had."""
    known = {link.name: link.index for link in links()}
    index, master = known[name], its.master
    body = netlink.attribute(IFLA_MTU, its.mtu.to_bytes(4, "little"))
    body += netlink.attribute(IFLA_TXQLEN, its.queue.to_bytes(4, "little"))
    if its.mac:
        body += netlink.attribute(IFLA_ADDRESS, its.mac)
    if master:
        if master not in known:
            raise UserError(
                f"the network device {name} belonged to {master}, which is no longer there", "make it again"
            )
        body += netlink.attribute(IFLA_MASTER, known[master].to_bytes(4, "little"))
    with netlink.Netlink(0, f"network device {name}") as talk:
        talk.request(RTM_NEWLINK, 0, _IFINFOMSG.pack(0, 0, index, 0, 0) + body)
        talk.request(RTM_NEWLINK, 0, _IFINFOMSG.pack(0, 0, index, its.flags & IFF_SETTABLE, IFF_SETTABLE))
        for body in its.addresses:
            family, length, what, scope, _ = _IFADDRMSG.unpack_from(body)
            head = _IFADDRMSG.pack(family, length, what, scope, index)
            rest = _without(body[_IFADDRMSG.size :], {IFA_CACHEINFO: None})
            talk.request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, head + rest)
        for body in its.routes:
            changes = {RTA_CACHEINFO: None, RTA_OIF: index.to_bytes(4, "little")}
            rest = _without(body[_RTMSG.size :], changes)
            talk.request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, body[: _RTMSG.size] + rest)


def _without(data: bytes, changes: dict[int, bytes | None]) -> bytes:
    """Attributes with some changed, or left out."""
    kept = [(kind, changes.get(kind, value)) for kind, value in netlink.attribute_list(data)]
    return b"".join(netlink.attribute(kind, value) for kind, value in kept if value is not None)
