# SPDX-License-Identifier: GPL-2.0-only
"""CRIU's RPC, asked by go-criu, the library by which container runtimes in Go ask, and which is not ours either."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests import clients
from tests.host.conftest import DEADLINE, Host, reap
from tests.host.rpc import SUBJECT


@pytest.fixture(scope="module")
def program() -> Path:
    """The client."""
    try:
        return clients.in_go(Path(__file__).parent / "gocriu/client.go")
    except clients.NotHadError as reason:
        pytest.skip(str(reason))


def asked(host: Host, program: Path, action: str, pid: int = 0) -> list[str]:
    """What the client says about an action."""
    done = subprocess.run(
        [str(program), str(clients.criu(host.folder)), action, str(pid)],
        cwd=host.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE, check=True,
    )  # fmt: skip
    return done.stdout.split("\n")[:-1]


def test_version(host: Host, program: Path) -> None:
    assert int(asked(host, program, "version")[0]) >= 40200


def test_a_process_is_dumped_and_restored(host: Host, program: Path) -> None:
    subject = host.python(SUBJECT)
    assert asked(host, program, "dump", subject.pid) == ["pre-dump", "post-dump"]
    reap(subject.pid)
    assert asked(host, program, "restore") == ["pre-restore", f"post-restore {subject.pid}", "post-resume"]
    assert subject.go() == ["memory True"]


def test_a_pre_dump_and_the_dump_on_one_connection(host: Host, program: Path) -> None:
    subject = host.python(SUBJECT)
    (host.folder / "first").mkdir()
    said = asked(host, program, "pre-dump", subject.pid)
    reap(subject.pid)
    assert [line for line in said if line.startswith("error")] == []
    assert list((host.folder / "first").glob("pages-*.img"))
    assert os.readlink(host.images / "parent") == "../first"
    assert asked(host, program, "restore")[-1] == "post-resume"
    assert subject.go() == ["memory True"]


def test_an_error_has_its_words_and_number(host: Host, program: Path) -> None:
    said = asked(host, program, "dump", 4194303)
    assert "error: operation failed (msg:no process has PID 4194303" in said[1]  # behind pre-dump
    assert said[-1].endswith("err:3)")  # ESRCH
