# SPDX-License-Identifier: GPL-2.0-only
"""Programs with hooks between pycriu and CRIU, which knows nothing of them."""

from __future__ import annotations

from tests import interop
from tests.host.conftest import Host, reap
from tests.host.hooked import BEFORE, COUNTING, ORDER, RESTORED, since_ready, start, wait_said
from tests.host.test_interop import criu  # noqa: F401 - a fixture


def test_criu_restores_what_pycriu_has_dumped(host: Host, criu: interop.Tool) -> None:  # noqa: F811
    """CRIU tells nobody anything: the program, which stands and waits, finds out that it has been restored."""
    subject = start(host, ORDER + COUNTING)
    dumped = host.dump(subject)
    assert dumped.ok, dumped
    criu.restore(host.folder)
    wait_said(subject, *BEFORE, *RESTORED)
    again = host.dump(subject)
    assert again.ok, again
    assert host.restore().ok
    assert since_ready(subject) == (BEFORE + RESTORED) * 2
    assert subject.go()[-1] == "end True"


def test_pycriu_restores_what_criu_has_dumped(host: Host, criu: interop.Tool) -> None:  # noqa: F811
    """Nobody has asked the program; it is told of the restore."""
    subject = start(host, ORDER + COUNTING)
    criu.dump(host.folder, subject.pid)
    reap(subject.pid)
    restored = host.restore()
    assert restored.ok, restored
    assert since_ready(subject) == RESTORED
    assert subject.go()[-1] == "end True"
