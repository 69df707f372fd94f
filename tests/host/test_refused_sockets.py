# SPDX-License-Identifier: GPL-2.0-only
"""Sockets that cannot be saved are refused before anything is touched, and say whose they are and what to do."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from tests.host.conftest import Subject, alive

if TYPE_CHECKING:
    from tests.host.conftest import Host

IMPORT = "import socket\nN = '\\0refused-' + str(os.getpid())\n"
SERVER = "l = socket.socket(socket.AF_UNIX)\nl.bind(N)\nl.listen(5)\n"


def with_peer(host: Host, code: str, kind: int = socket.SOCK_STREAM) -> tuple[Subject, socket.socket]:
    """A subject whose `x` is connected to a socket of ours."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    text = f"{IMPORT}x = socket.socket(fileno={theirs.fileno()})\n{code}\npause_for_dump()\nsay(x.recv(99))"
    subject = host.python(text, pass_fds=(theirs.fileno(),))
    theirs.close()
    return subject, ours


@pytest.mark.parametrize("options", [(), ("--ext-unix-sk",)])
def test_a_stream_to_outside_is_refused_with_its_owner(host: Host, options: tuple[str, ...]) -> None:
    subject, ours = with_peer(host, "")
    with ours:
        needles = ("is connected to a UNIX socket outside the tree", f"of process {os.getpid()}", "--ext-unix-sk")
        host.refused(subject, *needles, options=options)
        ours.send(b"still")
        assert subject.go() == ["b'still'"]


def test_a_datagram_socket_to_outside_wants_the_option_and_a_name(host: Host) -> None:
    subject, ours = with_peer(host, "", socket.SOCK_DGRAM)
    with ours:
        host.refused(subject, "outside the tree", "add --ext-unix-sk")
        host.refused(subject, "has no name", options=("--ext-unix-sk",))
        host.refused(subject, "outside the tree", options=("--ext-unix-sk=1,2",))


def test_what_was_sent_and_not_received_may_lead_out_too(host: Host) -> None:
    subject, ours = with_peer(
        host, "a, b = socket.socketpair()\nsocket.send_fds(a, [b'y'], [x.fileno()])\ny = x\ndel x\nx = a"
    )
    with ours:
        host.refused(subject, "outside the tree")


def test_descriptors_of_an_unknown_kind_in_flight_are_refused(host: Host) -> None:
    code = (
        "a, b = socket.socketpair()\nfd = libc.syscall(323, os.O_CLOEXEC | 1)\n"
        "if fd < 0: lacks('userfaultfd')\n"
        "socket.send_fds(a, [b'y'], [fd])\nos.close(fd)"
    )
    subject = host.python(IMPORT + code + "\npause_for_dump()")
    host.refused(subject, "sent to descriptor", "not yet received")


def test_a_socket_that_somebody_outside_has_too_is_refused(host: Host) -> None:
    with socket.socket(socket.AF_UNIX) as shared:
        shared.bind(str(host.folder / "shared"))
        shared.listen()
        code = f"{IMPORT}x = socket.socket(fileno={shared.fileno()})\npause_for_dump()"
        subject = host.python(code, pass_fds=(shared.fileno(),))
        host.refused(subject, "is a socket that process", str(os.getpid()), "has open, too")
    assert host.dump(subject).ok


def test_out_of_band_bytes_are_refused(host: Host) -> None:
    subject = host.python(IMPORT + "a, b = socket.socketpair()\na.send(b'x', socket.MSG_OOB)\npause_for_dump()")
    host.refused(subject, "out-of-band", "MSG_OOB")


PENDING = {
    "from outside": ("", "a process outside the tree (descriptor", ""),
    "from one that is gone": ("c = socket.socket(socket.AF_UNIX)\nc.connect(N)\nc.close()\n", "has gone since", ""),
    "with something sent": (
        "c = socket.socket(socket.AF_UNIX)\nc.connect(N)\nc.send(b'x')\n",
        "has sent something",
        "say(c.send(b'x') if 0 else c.recv(9))",
    ),
}


@pytest.mark.parametrize("what", PENDING)
def test_connections_not_accepted_are_refused_or_dropped(host: Host, what: str) -> None:
    code, needle, judge = PENDING[what]
    subject = host.python(IMPORT + SERVER + code + "pause_for_dump()\nl.setblocking(False)\n" + judge + "\n"
                          "try: l.accept()\nexcept BlockingIOError: say('none waits')")  # fmt: skip
    with socket.socket(socket.AF_UNIX) as client:
        if what == "from outside":
            client.connect(f"\0refused-{subject.pid}")
        host.refused(subject, "waiting to be accepted" if judge == "" else "has not accepted it yet", needle)
        host.round_trip(subject, "--skip-in-flight")
        assert subject.go() == (["b''"] if judge else []) + ["none waits"]


def test_netlink_messages_that_wait_are_refused(host: Host) -> None:
    code = (
        "a, b = (socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 2) for _ in range(2))\n"
        "a.bind((0, 0))\nb.sendto(b'x', (a.getsockname()[0], 0))\npause_for_dump()\nsay(a.recv(9))"
    )
    subject = host.python(IMPORT + code)
    host.refused(subject, "netlink socket with messages that the task has not read", f"process {subject.pid}")
    assert subject.go() == ["b'x'"]


def test_a_ring_that_is_mapped_is_refused(host: Host) -> None:
    code = (
        "p = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)\n"
        "p.setsockopt(263, 5, struct.pack('=4I', 4096, 2, 2048, 4))\n"
        "m = mmap.mmap(p.fileno(), 8192)\npause_for_dump()"
    )
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
    except OSError as error:
        pytest.skip(f"no packet socket here: {error.strerror}")
    host.refused(host.python(IMPORT + code), "socket:[")


FAMILIES = {
    "kernel cryptography (AF_ALG)": "socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET, 0)",
    "vsock": "socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)",
    "CAN": "socket.socket(socket.AF_CAN, socket.SOCK_RAW, 1)",
    "TIPC": "socket.socket(socket.AF_TIPC, socket.SOCK_STREAM)",
    "Bluetooth": "socket.socket(31, socket.SOCK_RAW, 1)",
    "key management (PF_KEY)": "socket.socket(15, socket.SOCK_RAW, 2)",
    "XDP": "socket.socket(44, socket.SOCK_RAW, 0)",
    "MPTCP": "socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)",
    "SCTP": "socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132)",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_are_refused_by_name(host: Host, family: str) -> None:
    try:
        eval(FAMILIES[family], {"socket": socket}).close()
    except OSError as error:
        pytest.skip(f"this kernel makes no {family} socket: {error.strerror}")
    subject = host.python(f"import socket\nx = {FAMILIES[family]}\npause_for_dump()")
    host.refused(subject, f"a {family} socket", f"process {subject.pid}", "close it before the dump")


# ------------------------------------------------------------------------------------------------------- at a restore


def dumped(host: Host, code: str) -> Subject:
    subject = host.python(IMPORT + code + "\npause_for_dump()\nsay('ok')")
    assert host.dump(subject).ok
    assert not alive(subject.pid)
    return subject


def test_a_path_that_another_socket_has_by_now_is_refused(host: Host) -> None:
    dumped(host, "l = socket.socket(socket.AF_UNIX)\nl.bind('service')\nl.listen()")
    path = host.folder / "service"
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        outcome = host.restore()
        assert not outcome.ok
        assert "is the UNIX socket of another process by now" in outcome.errors()
        assert path.is_socket(), "a refused restore took somebody's socket away"
    path.unlink()
    path.write_text("")
    assert "another file is there" in host.restore().errors()
    path.unlink()
    assert host.restore().ok


def test_an_abstract_name_that_another_socket_has_by_now_is_refused(host: Host) -> None:
    subject = dumped(host, SERVER)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"\0refused-{subject.pid}")
        outcome = host.restore()
        assert not outcome.ok
        assert "is in use by another UNIX socket" in outcome.errors()
        assert not alive(subject.pid)
    assert host.restore().ok


def test_a_service_outside_that_is_gone_is_named(host: Host) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as service:
        service.bind(str(host.folder / "service"))
        code = "x = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\nx.connect('service')\n"
        code += "y = socket.socket(socket.AF_UNIX)\ny.bind('mine')\npause_for_dump()\nsay('ok')"
        subject = host.python(IMPORT + code)
        assert host.dump(subject, "--ext-unix-sk").ok
    outcome = host.restore("--ext-unix-sk")
    assert not outcome.ok
    assert "start the service" in outcome.log
    assert not (host.folder / "mine").exists(), "a restore that failed left the file of a socket"
    assert not alive(subject.pid)
