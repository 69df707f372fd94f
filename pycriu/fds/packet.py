# SPDX-License-Identifier: GPL-2.0-only
"""Packet sockets: protocol, interface, memberships, fanout, rings, options.

Refused: a ring that is mapped (as every mapping of a socket), a fanout group that a program steers. Packets that wait
to be read are lost, as any packet may be; the log tells how many bytes.
Sources: packet(7), net/packet/{af_packet,diag}.c.
"""

from __future__ import annotations

import _socket
import ctypes
import os
import struct

from pycriu.errors import About, ImageError, KernelError, Unsupported, UserError
from pycriu.fds import sockets
from pycriu.fds.kind import Kind
from pycriu.fds.openfile import OpenFile, no_owner
from pycriu.images import messages as m
from pycriu.images import own
from pycriu.kernel import libc, sockdiag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pycriu.fds.opening import Opening
    from pycriu.fds.saving import Saving
    from pycriu.images.store import ImagesDir, NewCheckpoint
    from pycriu.log import Log

NOTES_IMAGE = "pycriu-sockets-packet.img"
AF_PACKET, SOCK_DGRAM, SOCK_RAW, SOCK_CLOEXEC = 17, 2, 3, 0o2000000
SOL_PACKET = 263
ADD_MEMBERSHIP, RX_RING, COPY_THRESH, AUXDATA, ORIGDEV, VERSION, RESERVE, TX_RING = 1, 5, 7, 8, 9, 10, 12, 13
LOSS, VNET_HDR, TIMESTAMP, FANOUT = 14, 15, 17, 18
FANOUT_CBPF, FANOUT_EBPF = 6, 7
NO_FANOUT = 0xFFFFFFFF
NET_NS = 2  # what `entries` calls the network namespace
ENODEV, ENXIO = 19, 6
TPACKET_V3 = 2
_MAX_RING = 1 << 30  # bytes

# Options without a field in CRIU's message: name, number.
_OPTIONS = (("tx_has_off", 19), ("qdisc_bypass", 20), ("ignore_outgoing", 23), ("vnet_hdr_sz", 24))
_OWN_NOTES = dict.fromkeys(("fanout", *(name for name, _ in _OPTIONS)), 4)  # name → length
_MEMBERSHIP = struct.Struct("=iHH8s")  # struct packet_mreq
_MEMBERSHIP_LONG = struct.Struct("=iHH32s")
_SOCKADDR = struct.Struct("=H2siHBB8s")  # struct sockaddr_ll


class Packet(Kind):
    """Sockets of AF_PACKET."""

    TYPE = 10  # fd_types.PACKETSK

    def __init__(self, options: Any, log: Log) -> None:
        super().__init__(options, log)
        self._listed: dict[int, sockdiag.Packet] | None = None
        self._found: dict[int, tuple[sockdiag.Packet, Any, dict[str, bytes]]] = {}  # by inode
        self._notes: own.Notes = {}

    # ------------------------------------------------------------------------------------------------------------ dump

    def matches(self, file: OpenFile) -> bool:
        """A socket of this family."""
        found = sockets.about(file)
        return found is not None and found.family == AF_PACKET

    def gather(self, files: list[OpenFile], saving: Saving) -> None:
        """Everything."""
        if self._listed is None:
            self._listed = sockdiag.packet()
        for file in files:
            inode = file.status.st_ino
            if inode in self._found:
                continue
            with About(file):
                self._found[inode] = self._look(file, self._listed.get(inode))

    def _look(self, file: OpenFile, row: sockdiag.Packet | None) -> tuple[sockdiag.Packet, Any, dict[str, bytes]]:
        if row is None:
            raise Unsupported(f"{file.name} is not among the packet sockets that the kernel lists")
        if row.fanout is not None and row.fanout >> 16 & 0xFF in (FANOUT_CBPF, FANOUT_EBPF):
            raise Unsupported(
                f"{file.name} is a packet socket in a fanout group that a BPF program steers",
                "the kernel does not show the program; let the task leave the group",
            )
        if row.queued:
            self.log.warn("%s: %d bytes of packets that were not read are lost", file.name, row.queued)
        fd = file.borrow()
        try:
            return row, sockets.entry(fd, file.name), sockets.notes(fd) | _own_notes(fd)
        finally:
            os.close(fd)

    def dump(self, file: OpenFile, number: int, saving: Saving) -> Any:
        """The image of one socket."""
        row, opts, self._notes[number] = self._found[file.status.st_ino]
        entry = m.packet_sock_entry(
            id=number, type=row.type, protocol=_swapped(row.protocol), flags=file.flags, ifindex=row.interface,
            fown=no_owner(), opts=opts, version=row.version, reserve=row.reserve,
            aux_data=bool(row.flags & sockdiag.AUXDATA), orig_dev=bool(row.flags & sockdiag.ORIGDEV),
            vnet_hdr=bool(row.flags & sockdiag.VNETHDR), loss=bool(row.flags & sockdiag.LOSS),
            timestamp=row.timestamp, copy_thresh=row.copy_threshold, ns_id=NET_NS,
            mclist=[m.packet_mclist(index=i, type=t, addr=a) for i, n, t, a in row.memberships for _ in range(n)],
        )  # fmt: skip
        if row.fanout is not None:
            entry.fanout = row.fanout
        for field, ring in (("rx_ring", row.receive_ring), ("tx_ring", row.send_ring)):
            if ring is not None:
                size, blocks, frame, frames, timeout, private, features = ring
                getattr(entry, field).CopyFrom(
                    m.packet_ring(
                        block_size=size, block_nr=blocks, frame_size=frame, frame_nr=frames, retire_tmo=timeout,
                        sizeof_priv=private, features=features,
                    )
                )  # fmt: skip
        return m.file_entry(type=self.TYPE, id=number, psk=entry)

    def write(self, new: NewCheckpoint) -> None:
        """The notes."""
        new.write_any(NOTES_IMAGE, own.socket_entries(self._notes))

    # --------------------------------------------------------------------------------------------------------- restore

    def read(self, images: ImagesDir, entries: list[Any]) -> None:
        """Notes and entries, checked."""
        self._notes = own.socket_notes(images, NOTES_IMAGE, sockets.NOTES | _OWN_NOTES.keys())
        for one in (entry.psk for entry in entries):
            name = f"packet socket {one.id}"
            sockets.check(one.opts, name)
            sockets.check_notes(self._notes.get(one.id, {}), name, _OWN_NOTES)
            _check(one, name)

    def rehearse(self, entry: Any) -> None:
        """Its interface is there."""
        if entry.psk.ifindex:
            _on_interface(entry.psk.ifindex, lambda: _demand_interface(entry.psk.ifindex))

    def open(self, entry: Any, opening: Opening) -> int:
        """Make one socket."""
        one = entry.psk
        # Without a protocol until it is bound, or it would catch packets of all interfaces meanwhile.
        fd = _socket.socket(AF_PACKET, one.type | SOCK_CLOEXEC, 0).detach()
        try:
            _set_up(fd, one, self._notes.get(one.id, {}))
        except BaseException:
            os.close(fd)
            raise
        return fd


def _own_notes(fd: int) -> dict[str, bytes]:
    found = {}
    for name, option in (*_OPTIONS, ("fanout", FANOUT)):
        value = sockets.try_get(fd, option, 4, SOL_PACKET)
        if value is not None and any(value):
            found[name] = value
    return found


def _check(one: Any, name: str) -> None:
    if one.type not in (SOCK_DGRAM, SOCK_RAW) or one.protocol >= 1 << 16 or one.version > TPACKET_V3:
        raise ImageError(f"{name} has an impossible type, protocol or version")
    if one.ifindex >= 1 << 31 or any(one_of.index >= 1 << 31 for one_of in one.mclist):
        raise ImageError(f"{name} is on an impossible interface")
    if len(one.mclist) > 1 << 12 or any(len(one_of.addr) > 32 or one_of.type >= 1 << 16 for one_of in one.mclist):
        raise ImageError(f"{name} has impossible memberships")
    for field in ("rx_ring", "tx_ring"):
        ring = getattr(one, field)
        if one.HasField(field) and ring.block_size * ring.block_nr > _MAX_RING:
            raise ImageError(f"{name} has a ring of {ring.block_size * ring.block_nr} bytes")


def _set_up(fd: int, one: Any, its_notes: dict[str, bytes]) -> None:
    """Version and reserve before the rings, the interface before the fanout group, the filter before any packet."""
    sockets.restore(fd, one.opts)
    sockets.restore_reuse(fd, one.opts)
    numbers = (
        (VERSION, one.version), (RESERVE, one.reserve), (AUXDATA, one.aux_data), (ORIGDEV, one.orig_dev),
        (VNET_HDR, one.vnet_hdr), (LOSS, one.loss), (TIMESTAMP, one.timestamp), (COPY_THRESH, one.copy_thresh),
    )  # fmt: skip
    for option, value in numbers:
        if value:
            sockets.set_int(fd, option, value, SOL_PACKET)
    for name, option in _OPTIONS:
        if name in its_notes:
            sockets.set_bytes(fd, option, its_notes[name], SOL_PACKET)
    for field, option in (("rx_ring", RX_RING), ("tx_ring", TX_RING)):
        if one.HasField(field):
            sockets.set_bytes(fd, option, _ring(getattr(one, field), one.version), SOL_PACKET)
    for member in one.mclist:
        _join(fd, member)
    _bind(fd, one)
    if one.fanout != NO_FANOUT:
        flags = int.from_bytes(its_notes.get("fanout", b""), "little") & 0xFF000000
        sockets.set_int(fd, FANOUT, one.fanout | flags, SOL_PACKET)
    sockets.restore_notes(fd, its_notes)
    os.set_blocking(fd, not one.flags & os.O_NONBLOCK)


def _join(fd: int, member: Any) -> None:
    form = _MEMBERSHIP if len(member.addr) <= 8 else _MEMBERSHIP_LONG
    wish = form.pack(member.index, member.type, len(member.addr), member.addr)
    _on_interface(member.index, lambda: sockets.set_bytes(fd, ADD_MEMBERSHIP, wish, SOL_PACKET))


def _bind(fd: int, one: Any) -> None:
    if one.protocol or one.ifindex:
        packed = _SOCKADDR.pack(AF_PACKET, one.protocol.to_bytes(2, "little"), one.ifindex, 0, 0, 0, b"")
        address = ctypes.create_string_buffer(packed, len(packed))
        where = ctypes.addressof(address)
        _on_interface(one.ifindex, lambda: libc.call("bind", fd, where, len(packed), what="packet socket"))


def _demand_interface(index: int) -> None:
    try:
        _socket.if_indextoname(index)
    except OSError as error:
        raise KernelError("if_indextoname", error.errno or ENODEV) from None


def _on_interface(index: int, action: Callable[[], object]) -> None:
    try:
        action()
    except KernelError as error:
        if error.errno not in (ENODEV, ENXIO):
            raise
        raise UserError(
            f"a packet socket was on network interface {index}, which is not there: {error.message}",
            "`ip link` lists them; make it, with the same index, before the restore",
        ) from None


def _ring(ring: Any, version: int) -> bytes:
    """struct tpacket_req, or tpacket_req3 where the version has it."""
    usual = (ring.block_size, ring.block_nr, ring.frame_size, ring.frame_nr)
    more = (ring.retire_tmo, ring.sizeof_priv, ring.features) if version == TPACKET_V3 else ()
    return struct.pack(f"={len(usual) + len(more)}I", *usual, *more)


def _swapped(protocol: int) -> int:
    """Between the order of hosts, in which sock_diag tells, and that of networks, in which socket(2) is told."""
    return int.from_bytes(protocol.to_bytes(2, "big"), "little")
