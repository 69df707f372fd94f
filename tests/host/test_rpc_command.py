# SPDX-License-Identifier: GPL-2.0-only
"""`pycriu swrk` and `pycriu service` as commands: what they want, and how they end."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from pycriu import rpc
from pycriu.images import messages as m
from tests import clients
from tests.host.conftest import DEADLINE, Host
from tests.host.rpc import Service


def swrk(host: Host, *words: str, pass_fds: tuple[int, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [clients.criu(host.folder), "swrk", *words],
        capture_output=True, text=True, timeout=DEADLINE, check=False, pass_fds=pass_fds, cwd=host.folder,
    )  # fmt: skip


@pytest.mark.parametrize("words", [(), ("x",), ("-1",), ("987",), ("99999999999",), ("0",)])
def test_swrk_wants_a_socket(host: Host, words: tuple[str, ...]) -> None:
    done = swrk(host, *words)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "swrk needs" in done.stderr or "descriptor" in done.stderr or "unknown option" in done.stderr


def test_swrk_wants_one_of_the_right_type(host: Host) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as wrong:
        done = swrk(host, str(wrong.fileno()), pass_fds=(wrong.fileno(),))
    assert done.returncode == 1
    assert "SOCK_SEQPACKET" in done.stderr


@pytest.mark.parametrize(
    ("packet", "status"),
    [
        (b"", 255),
        (b"\xff", 255),
        (m.criu_req(type=rpc.CHECK).SerializeToString(), 0),
        (m.criu_req(type=rpc.VERSION, keep_open=True).SerializeToString(), 255),
        (m.criu_req(type=rpc.DUMP).SerializeToString(), 1),
        (m.criu_req(type=rpc.RESTORE).SerializeToString(), 1),
        (m.criu_req(type=rpc.WAIT_PID, pid=1).SerializeToString(), 0),
    ],
)
def test_exit_statuses_are_those_of_criu(host: Host, packet: bytes, status: int) -> None:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, its:
        if packet:
            ours.send(packet)
        ours.shutdown(socket.SHUT_WR)
        assert swrk(host, str(its.fileno()), pass_fds=(its.fileno(),)).returncode == status


def test_an_address_is_not_taken_from_others(host: Host) -> None:
    """A file that is no socket, a service that listens; one that has been killed leaves its socket to the next."""
    program = clients.criu(host.folder)

    def start(path: Path) -> subprocess.CompletedProcess[str]:
        words = [program, "service", "--address", str(path)]
        return subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE, check=False)

    (host.folder / "file").write_text("precious")
    assert "is no socket" in start(host.folder / "file").stderr
    assert (host.folder / "file").read_text() == "precious"
    first = Service(host)
    assert "listens there already" in start(first.path).stderr
    first.process.kill()
    first.process.wait()
    assert first.path.exists()
    (host.folder / "service.log").unlink()
    second = Service(host)
    second.idle()
    second.process.terminate()
    assert second.process.wait(DEADLINE) == 0
