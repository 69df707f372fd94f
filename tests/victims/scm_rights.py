# SPDX-License-Identifier: GPL-2.0-only
"""Descriptors in flight (SCM_RIGHTS) that nobody has in a table: files at a position, pipes, sockets, each with data.

Missing: descriptors of what cannot be saved
"""

import os
import socket
from collections.abc import Iterator

import victim


def scenario() -> Iterator[victim.Damage]:
    left, right = socket.socketpair()
    send_files(left)
    packets, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    near = send_socket(packets)
    circle, other = socket.socketpair()
    socket.send_fds(circle, [b"me"], [circle.fileno(), other.fileno()])
    yield lambda: right.recv(100)
    judge_files(right)
    judge_socket(receiver, near)
    data, fds, _, _ = socket.recv_fds(other, 9, 9)
    victim.equal(
        (data, [os.fstat(fd).st_ino for fd in fds]), (b"me", inodes(circle, other)), "a socket sent over itself"
    )


def send_files(left: socket.socket) -> None:
    with open("data", "w+b", buffering=0) as file:
        file.write(b"0123456789")
        file.seek(4)
        left.send(b"head:")
        socket.send_fds(left, [b"file"], [file.fileno(), file.fileno()])
    reader, writer = os.pipe()
    os.write(writer, b"in the pipe")
    left.send(b"more:")
    socket.send_fds(left, [b"pipe"], [reader, writer])
    for fd in (reader, writer):
        os.close(fd)


def judge_files(right: socket.socket) -> None:
    victim.equal(right.recv(5), b"head:", "bytes before the descriptors")
    data, fds, _, _ = socket.recv_fds(right, 100, 9)
    victim.equal((data, len(fds)), (b"file", 2), "a message with two descriptors")
    victim.equal((os.read(fds[0], 3), os.read(fds[1], 3)), (b"456", b"789"), "one open file, behind both")
    victim.equal(right.recv(5), b"more:", "bytes between")
    data, (end, start), _, _ = socket.recv_fds(right, 100, 9)
    victim.equal((data, os.read(end, 99)), (b"pipe", b"in the pipe"), "a pipe")
    os.write(start, b"on")
    victim.equal(os.read(end, 9), b"on", "the pipe goes on")


def send_socket(packets: socket.socket) -> socket.socket:
    """One end goes into a packet, with data and a file waiting in it; the other end."""
    near, far = socket.socketpair()
    near.send(b"within a socket in flight")
    inner = os.open("data", os.O_RDONLY)
    socket.send_fds(near, [b"and a file"], [inner])
    os.close(inner)
    socket.send_fds(packets, [b"socket"], [far.fileno()])
    far.close()
    return near


def judge_socket(receiver: socket.socket, near: socket.socket) -> None:
    data, (fd,), _, _ = socket.recv_fds(receiver, 100, 9)
    victim.equal(data, b"socket", "a packet with a socket")
    with socket.socket(fileno=fd) as inside:
        data, (fd,), _, _ = socket.recv_fds(inside, 100, 9)
        victim.equal(data, b"within a socket in flightand a file", "what waits in it")
        victim.equal(os.read(fd, 99), b"0123456789", "the file that waits in it")
        inside.send(b"answer")
        victim.equal(near.recv(9), b"answer", "what it says")


def inodes(*ends: socket.socket) -> list[int]:
    return [os.fstat(end.fileno()).st_ino for end in ends]


victim.play(scenario)
