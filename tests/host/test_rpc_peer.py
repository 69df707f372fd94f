# SPDX-License-Identifier: GPL-2.0-only
"""RPC beside CRIU's own: our bindings ask CRIU, and who has itself dumped by one is answered by the other."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests import clients
from tests.host import rpc as shared
from tests.host.conftest import DEADLINE, Host, alive, reap, wait_until
from tests.host.rpc import HEAD, SUBJECT, Client
from tests.host.test_peer import criu, reaped, run  # noqa: F401 - a fixture
from tests.host.test_python_api import Script

found = shared.found


@pytest.fixture
def program(host: Host, criu: tuple[str, ...]) -> Path:  # noqa: F811
    """CRIU as one file, as clients want it."""
    path = host.folder / "real-criu"
    path.write_text(f'#!/bin/sh\nunset PYTHONHOME PYTHONPATH\nexec {shlex.join(criu)} "$@"\n')
    path.chmod(0o755)
    return path


def test_our_bindings_ask_criu(host: Host, program: Path) -> None:
    subject = host.python(SUBJECT)
    code = HEAD.replace('assert "dist-packages" in pycriu.__file__\n', "") + "ask = client()\n"
    dump = f"ask.opts.pid = {subject.pid}; tell(ask.version().major_number >= 3, ask.dump().restored)"
    script = Script(host)
    assert script.run(code + dump, "binary", str(program)) == "[true, false]\n"
    wait_until(lambda: not reaped(subject.pid), "all of the session is gone")
    assert script.run(code + "tell(ask.restore().pid)", "binary", str(program)) == f"[{subject.pid}]\n"
    assert subject.go() == ["memory True"]


@pytest.mark.parametrize("dumper", ["pycriu", "criu"])
def test_who_has_itself_dumped_is_answered_by_the_other(
    host: Host,
    program: Path,
    criu: tuple[str, ...],  # noqa: F811
    found: clients.Clients,
    dumper: str,
) -> None:
    where = clients.criu(host.folder) if dumper == "pycriu" else program
    client = Client(host, found, "binary", where)
    asking = client.start("ask = client()\ntell(ask.dump().restored)")
    asking.wait(DEADLINE)
    assert (asking.returncode, client.said()) == (-9, ""), client.said()
    wait_until(lambda: not reaped(asking.pid), "all of the session is gone")
    restored = run(criu, host, "restore", "-d") if dumper == "pycriu" else host.restore()
    assert restored.ok, restored
    wait_until(client.said, "the restored client goes on")
    assert client.said() == "[true]\n"
    wait_until(lambda: not alive(asking.pid), "it ends")
    reap(asking.pid)
