# SPDX-License-Identifier: GPL-2.0-only
"""Pre-dumps of CRIU and of pycriu as parents of each other's dumps, where the kernel tracks changes for both."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from layer.target import bootfile, guest
from tests import debian, packed
from tests.runtime.test_tracking import HIDDEN, PROGRAM, TRACKED, Subject, push

HERE = "/data/trixie"
CRIU = f"{HERE}/ld.so --library-path {HERE} {HERE}/criu"
LOOPBACK = "import sys; sys.path.append('/usr/lib/victims'); import victim; victim.need_loopback()"


@pytest.fixture(scope="module")
def options(options: guest.Options, boot: bootfile.Boot) -> guest.Options:
    """With CRIU on the data disk."""
    if boot.machine.name not in TRACKED:
        pytest.skip(f"the kernel of {boot.machine.name} tracks no changes, and CRIU makes no pre-dumps without")
    if "feature/victims" not in boot.templates:
        pytest.skip(f"{boot.file} was configured without feature/victims")
    options.logs.mkdir(parents=True, exist_ok=True)
    try:
        disk = packed.criu_disk(boot.machine, options.logs)
    except debian.NotHadError as error:
        pytest.skip(f"no CRIU for {boot.machine.name}: {error}")
    return dataclasses.replace(options, disk=disk)


@pytest.fixture
def subject(target: guest.Guest, request: pytest.FixtureRequest) -> Iterator[Subject]:
    """A process that changes its memory."""
    target.shell.run(f'python3 -c "{LOOPBACK}"')  # CRIU tries TCP_REPAIR
    push(target)
    folder = f"/tmp/{request.node.name.removeprefix('test_')[:24]}"
    yield Subject(target, folder)
    target.shell.run(f"pkill -9 -f {PROGRAM}; cd /; rm -rf {folder}", check=False)


def criu(subject: Subject, action: str, images: str, parent: str = "") -> None:
    """A dump or pre-dump of CRIU's that leaves the process running."""
    line = f"{CRIU} {action} -t {subject.pid} -D {images} -v4 -o log --track-mem"
    line += " -R" if action == "dump" else ""
    line += f" --prev-images-dir ../{parent}" if parent else ""
    done = subject.shell.run(f"cd {subject.folder}; mkdir {images} && {line}", timeout=60, check=False)
    said = done.status and subject.shell.run(f"tail -n 20 {subject.folder}/{images}/log", check=False).out
    assert done.status == 0, f"{done.out}\n{said}"


def test_pycriu_builds_upon_criu(subject: Subject) -> None:
    criu(subject, "pre-dump", "0")
    subject.obey("write 3 4", "memfd 5")
    subject.save("pre-dump", "1", "0")
    assert subject.look("1")["private"] == [3, 4]  # CRIU leaves shared memory to the dump
    subject.judge("1")
    subject.obey("write 6")
    subject.expect(subject.save("dump", "2", "1"))
    assert subject.look("2") == {"private": [6], "shared": []}
    subject.judge("2")
    subject.end("2")


def test_criu_builds_upon_pycriu(subject: Subject) -> None:
    """And takes the bits away from who has asked for them before."""
    subject.save("pre-dump", "0")
    subject.obey("write 3", "mem 4", "memfd 5")
    criu(subject, "dump", "1", "0")
    assert subject.look("1")["private"] == [3, 4]
    subject.judge("1")
    subject.obey("write 6")
    subject.expect(subject.save("dump", "2", "0", "-R"), HIDDEN)
    assert subject.look("2")["private"] == [3, 4, 6]
    subject.judge("2")
    criu(subject, "dump", "3", "1")
    assert subject.look("3")["private"] == [6]
    subject.judge("3")
    subject.shell.run(f"kill -9 {subject.pid}; sleep 1")
    subject.end("3")
