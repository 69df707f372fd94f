# SPDX-License-Identifier: GPL-2.0-only
"""CRIU's RPC, asked by libcriu, the library for programs in C, which is not ours either."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests import clients
from tests.host.conftest import DEADLINE, Host, alive, reap, wait_until
from tests.host.rpc import SUBJECT


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What runs the client."""
    target = tmp_path_factory.mktemp("libcriu") / "client"
    try:
        return clients.find().compile(Path(__file__).with_name("libcriu.c"), target)
    except clients.NotHadError as reason:
        pytest.skip(str(reason))


def asked(host: Host, command: list[str], action: str, pid: int = 0) -> list[str]:
    """What the client says about an action."""
    done = subprocess.run(
        [*command, str(clients.criu(host.folder)), action, str(pid), "binary"],
        cwd=host.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE, check=True,
    )  # fmt: skip
    return done.stdout.split("\n")[:-1]


def test_check_and_version(host: Host, command: list[str]) -> None:
    assert asked(host, command, "check") == ["0"]
    assert int(asked(host, command, "version")[0]) >= 40200


def test_a_process_is_dumped_and_restored(host: Host, command: list[str]) -> None:
    subject = host.python(SUBJECT)
    assert asked(host, command, "dump", subject.pid) == ["pre-dump", "post-dump", "0"]
    reap(subject.pid)
    stages = ["pre-restore", "post-restore", "pre-resume", "post-resume"]
    assert asked(host, command, "restore") == [*stages, str(subject.pid)]
    assert subject.go() == ["memory True"]


def test_a_pre_dump_and_the_dump_that_builds_upon_it(host: Host, command: list[str]) -> None:
    """Which the library asks for by SINGLE_PRE_DUMP."""
    subject = host.python(SUBJECT)
    (host.folder / "first").mkdir()
    assert asked(host, command, "pre-dump", subject.pid)[-1] == "0"
    assert list((host.folder / "first").glob("pages-*.img"))
    assert asked(host, command, "dump-the-rest", subject.pid)[-1] == "0"
    reap(subject.pid)
    assert os.readlink(host.images / "parent") == "../first"
    assert asked(host, command, "restore")[-1] == str(subject.pid)
    assert subject.go() == ["memory True"]


def test_a_restored_root_is_a_child_of_the_client(host: Host, command: list[str]) -> None:
    subject = host.python(SUBJECT)
    assert asked(host, command, "dump", subject.pid)[-1] == "0"
    reap(subject.pid)
    assert asked(host, command, "child")[-1] == str(subject.pid)
    assert subject.go() == ["memory True"]


def test_errors_have_the_numbers_that_the_library_knows(host: Host, command: list[str]) -> None:
    assert asked(host, command, "dump", 4194303)[-1] == "-52"  # -EBADE: the answer is that it failed


def test_a_program_has_itself_dumped(host: Host, command: list[str]) -> None:
    """libcriu tells with 1 that it is the restored copy which goes on."""
    with open(host.folder / "said", "w") as said:
        asking = subprocess.Popen(
            [*command, str(clients.criu(host.folder)), "self", "0", "binary"],
            cwd=host.folder, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True,
        )  # fmt: skip
    asking.wait(DEADLINE)
    log = (host.images / "libcriu.log").read_text()
    assert asking.returncode == -9, (host.folder / "said").read_text() + log
    assert not alive(asking.pid)
    assert host.restore().ok
    wait_until((host.folder / "said").read_text, "the restored client goes on")
    assert (host.folder / "said").read_text() == "1\n"
    reap(asking.pid)
    assert os.listdir(host.images)
