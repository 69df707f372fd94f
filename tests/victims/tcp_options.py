# SPDX-License-Identifier: GPL-2.0-only
"""Options of TCP sockets, over IPv4 and IPv6: of fresh, listening and connected ones.

Kept: options of TCP sockets: every one that can be read back, of SOL_SOCKET, IP, IPv6 and TCP
Missing: TCP_QUICKACK, which the kernel changes by itself
Options: --tcp-established
"""

import contextlib
import socket
import struct
from collections.abc import Iterator

import victim

SOL, IP, IPV6, TCP = socket.SOL_SOCKET, socket.IPPROTO_IP, 41, socket.IPPROTO_TCP

# level, option, value: numbers of the kernel's headers, as Python has not all of the names
WANTED = [
    (SOL, socket.SO_KEEPALIVE, 1), (SOL, socket.SO_OOBINLINE, 1), (SOL, socket.SO_PRIORITY, 5),
    (SOL, socket.SO_MARK, 77), (SOL, socket.SO_RCVLOWAT, 3), (SOL, socket.SO_SNDBUF, 70000),
    (SOL, socket.SO_RCVBUF, 60000), (SOL, socket.SO_REUSEADDR, 1),
    (IP, socket.IP_TTL, 44), (IP, 10, 1), (IP, 15, 1), (IP, 21, 3),
    (TCP, socket.TCP_NODELAY, 1), (TCP, socket.TCP_CORK, 1), (TCP, socket.TCP_KEEPIDLE, 1111),
    (TCP, socket.TCP_KEEPINTVL, 22), (TCP, socket.TCP_KEEPCNT, 6), (TCP, socket.TCP_SYNCNT, 4),
    (TCP, socket.TCP_LINGER2, 17), (TCP, socket.TCP_USER_TIMEOUT, 54321), (TCP, 25, 9999), (TCP, 16, 1), (TCP, 36, 1),
]  # fmt: skip
FOR_V6 = [(IPV6, 16, 33), (IPV6, 67, 0x28), (IPV6, 49, 1), (IPV6, 62, 1), (IPV6, 70, 1)]
UNCONNECTED = [(TCP, 9, 5), (TCP, socket.TCP_MAXSEG, 1200), (TCP, 23, 11), (TCP, 27, 1)]


def set_all(sock: socket.socket, *, connected: bool) -> list[tuple[int, int]]:
    """Set what this kernel has; what was set."""
    done = []
    wanted = WANTED + (FOR_V6 if sock.family == socket.AF_INET6 else []) + ([] if connected else UNCONNECTED)
    for level, option, value in wanted:
        with contextlib.suppress(OSError):
            sock.setsockopt(level, option, value)
            done.append((level, option))
    sock.setsockopt(SOL, socket.SO_LINGER, struct.pack("=ii", 1, 9))
    sock.setsockopt(SOL, 20, struct.pack("=qq", 61, 250000))  # SO_RCVTIMEO
    sock.setsockopt(TCP, socket.TCP_CONGESTION, b"reno")
    victim.check(len(done) > len(wanted) // 2, f"only {done} could be set")
    return done


def facts(sock: socket.socket, known: list[tuple[int, int]]) -> dict[object, object]:
    """What the options are."""
    found: dict[object, object] = {key: sock.getsockopt(*key) for key in known}
    found["linger"] = sock.getsockopt(SOL, socket.SO_LINGER, 8)
    found["timeout"] = sock.getsockopt(SOL, 20, 16)
    found["congestion"] = sock.getsockopt(TCP, socket.TCP_CONGESTION, 16)
    found["locks"] = sock.getsockopt(SOL, 72)
    return found


def scenario() -> Iterator[victim.Damage]:
    victim.need_loopback()
    socks: dict[str, socket.socket] = {}
    ends: dict[str, tuple[socket.socket, socket.socket]] = {}
    for name, family, host in (("v4", socket.AF_INET, "127.0.0.1"), ("v6", socket.AF_INET6, "::1")):
        fresh = socks[f"{name} fresh"] = socket.socket(family)
        listening = socks[f"{name} listening"] = socket.create_server((host, 0), family=family)
        one = socks[f"{name} connected"] = socket.socket(family)
        one.setsockopt(TCP, socket.TCP_NODELAY, 1)
        one.connect(listening.getsockname()[:2])
        other, _ = listening.accept()
        ends[name] = one, other
        for sock in (fresh, listening):
            socks[name + str(sock.fileno())] = sock
    known = {name: set_all(sock, connected="connected" in name) for name, sock in socks.items()}
    before = {name: facts(sock, known[name]) for name, sock in socks.items()}
    for one, _ in ends.values():
        one.send(b"held back by TCP_CORK")
    yield lambda: socks["v4 fresh"].setsockopt(TCP, socket.TCP_SYNCNT, 9)
    for name, sock in socks.items():
        now = facts(sock, known[name])
        wrong = {key: (value, now[key]) for key, value in before[name].items() if now[key] != value}
        victim.check(not wrong, f"{name}: options were and are {wrong}")
    for name, (one, other) in ends.items():
        one.setsockopt(TCP, socket.TCP_CORK, 0)
        other.settimeout(20)
        data = b""
        while len(data) < 21:
            data += other.recv(100)
        victim.equal(data, b"held back by TCP_CORK", f"{name}: what waited")


if __name__ == "__main__":
    victim.play(scenario)
