# SPDX-License-Identifier: GPL-2.0-only
"""Pipes in packet mode (O_DIRECT): where the packets in flight end, also when the writer is gone; switched on later;
a second open file for an end; the flags that fcntl(2) tells.

Missing: packets and other data together in one pipe.
"""

import fcntl
import os
from collections.abc import Iterator

import victim

PACKETS = (b"one", b"", b"three" * 700, b"4")


def scenario() -> Iterator[victim.Damage]:
    reader, writer = os.pipe2(os.O_DIRECT)
    send(writer, PACKETS)
    half, gone = os.pipe2(os.O_DIRECT | os.O_CLOEXEC)
    send(gone, PACKETS)
    os.close(gone)
    later_reader, later = os.pipe()
    fcntl.fcntl(later, fcntl.F_SETFL, os.O_DIRECT | os.O_NONBLOCK)
    send(later, [b"%d" % number for number in range(16)])
    again = os.open(f"/proc/self/fd/{reader}", os.O_RDONLY | os.O_NONBLOCK)
    everybody = (reader, writer, half, later_reader, later, again)
    before = [fcntl.fcntl(fd, fcntl.F_GETFL) for fd in everybody]
    yield lambda: os.read(reader, 2)
    victim.equal([fcntl.fcntl(fd, fcntl.F_GETFL) for fd in everybody], before, "the flags")
    sent = [packet for packet in PACKETS if packet]
    victim.equal(os.read(reader, 2), b"on", "the first packet, cut by a short read")
    victim.equal([os.read(again, 10000) for _ in sent[1:]], sent[1:], "the packets of the other open file")
    victim.equal([os.read(half, 10000) for _ in sent] + [os.read(half, 1)], [*sent, b""], "the packets of who is gone")
    for number in range(16):
        victim.equal(os.read(later_reader, 100), b"%d" % number, f"packet {number}")
    send(writer, (b"a", b"b"))
    victim.equal([os.read(reader, 10), os.read(reader, 10)], [b"a", b"b"], "packets that are sent now")


def send(fd: int, packets: object) -> None:
    for packet in packets:  # type: ignore[attr-defined]
        os.write(fd, packet)


victim.play(scenario)
