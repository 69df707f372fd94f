# SPDX-License-Identifier: GPL-2.0-only
"""What a service says to clients that read little; what is left of its socket, and of a worker that a client began."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import pycriu
from pycriu import log
from pycriu.errors import PycriuError, Several
from pycriu.images import messages as m
from pycriu.service import wire
from pycriu.service.listener import Listener


@pytest.mark.parametrize(
    "error",
    [
        PycriuError("x", "a file \udcff"),
        Several([PycriuError(f"{'/long' * 200}/{number}", "ä" * 1000) for number in range(30)]),
    ],
    ids=["no text", "long"],
)
def test_an_error_fits_into_a_response(error: PycriuError) -> None:
    """go-criu reads 8 KiB; a longer packet than the buffer of the socket cannot be sent at all."""
    response = m.criu_resp(type=1, success=False, cr_errmsg=wire.words(error)).SerializeToString()
    assert len(response) < 8192
    assert m.criu_resp.FromString(response).cr_errmsg.startswith(str(error)[:1])


def test_a_short_error_is_told_as_it_is() -> None:
    assert wire.words(PycriuError("no room for ü", "make some")) == "no room for ü\n  make some"


def test_a_socket_that_somebody_else_has_removed(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with Listener(str(path), log.Log()):
        path.unlink()
    with Listener(str(path), log.Log()):
        path.unlink()
        path.touch()
    assert path.exists(), "it is another's by now"
    path.unlink()
    with Listener(str(path), log.Log()):
        assert path.is_socket()
    assert not list(tmp_path.iterdir())


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def test_a_program_that_is_none_leaves_nothing() -> None:
    """No child, no descriptor; and the next request has a new connection."""
    before, fds = children(), len(os.listdir("/proc/self/fd"))
    ask = pycriu.criu()
    ask.use_binary("/nonexistent/criu")
    for call in (ask.version, ask.page_server_chld):
        with pytest.raises(pycriu.CRIUExceptionInternal):
            call()
        assert ask.sk is None
    assert children() == before
    assert len(os.listdir("/proc/self/fd")) == fds
    ask.use_sk("/nonexistent/socket")
    with pytest.raises(pycriu.CRIUExceptionInternal):
        ask.version()


def test_a_script_that_ignores_its_children_is_answered() -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert pycriu.criu().version().name.startswith("pycriu")
    finally:
        signal.signal(signal.SIGCHLD, before)


INTERRUPTED = """
import os, signal, sys
from pycriu import log
from pycriu.service.listener import Listener
chmod = os.chmod
def interrupted(*words):
    chmod(*words)
    signal.raise_signal(signal.SIGINT)
os.chmod = interrupted
try:
    with Listener(sys.argv[1], log.Log()):
        pass
except KeyboardInterrupt:
    print(os.listdir("."))
"""


def test_a_signal_before_it_listens_leaves_no_name(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, "socket"], capture_output=True, text=True, check=False, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(pycriu.__file__).parents[1])},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("[]\n", "")
