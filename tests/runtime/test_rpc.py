# SPDX-License-Identifier: GPL-2.0-only
"""`pycriu service` and `pycriu swrk` on each CPU, asked by CRIU's own Python bindings (`rpc_client.py`)."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from typing import Any

import pytest

from layer.target import bootfile, guest
from tests import packed

FOLDER, VICTIMS, USER = "/tmp/rpc", "/usr/lib/victims", 4711
DATA = "/data/rpc"
WAYS = {"service": ("socket", f"{FOLDER}/socket"), "swrk": ("swrk", "/usr/bin/pycriu")}
Answers = list[dict[str, Any]]


@pytest.fixture(scope="module")
def options(options: guest.Options, boot: bootfile.Boot) -> guest.Options:
    """With the bindings on the data disk."""
    if "feature/victims" not in boot.templates:
        pytest.skip(f"{boot.file} was configured without feature/victims")
    return packed.on_disk(options, packed.bindings_disk)


@pytest.fixture(scope="module")
def service(target: guest.Guest) -> Iterator[guest.Guest]:
    """The guest, with a service in it."""
    shell = target.shell
    shell.run(f"mkdir {FOLDER}; cd {FOLDER}")
    words = f"--address {FOLDER}/socket --pidfile {FOLDER}/pid --daemon -v4 -o service.log -W {FOLDER}"
    shell.run(f"pycriu service {words}", timeout=60)
    yield target
    log = shell.run(f"cat {FOLDER}/service.log", check=False).out
    assert "bug of pycriu" not in log
    shell.run(
        f"kill $(cat {FOLDER}/pid); n=0; while [ -e {FOLDER}/socket ] && [ $n -lt 100 ]; do sleep 0.2; n=$((n+1)); done"
    )
    assert not shell.out(f"ls {FOLDER} | grep socket || true")


def asked(target: guest.Guest, way: str, user: int, *calls: dict[str, Any]) -> Answers:
    """What is answered to calls, one after the other."""
    words = " ".join((DATA, *WAYS[way], str(user)))
    line = f"echo '{json.dumps(calls)}' | python3 -B {DATA}/rpc_client.py {words}"
    found: Answers = json.loads(target.shell.run(line, timeout=120).out)
    return found


def heard(target: guest.Guest, folder: str, word: str) -> str:
    """The last line of a victim's log, once it begins with a word or the victim has ended."""
    look = f"n=0; until grep -sqE '^({word}|PASS|FAIL|SKIP)' log || [ $n -ge 300 ]; do sleep 0.2; n=$((n+1)); done"
    return target.shell.run(f"cd {folder}; {look}; tail -n 1 log", timeout=70).out.strip()


@pytest.mark.parametrize("way", WAYS)
def test_check(service: guest.Guest, way: str) -> None:
    assert asked(service, way, 0, {"call": "check"})[0]["errno"] == 0


@pytest.mark.parametrize("way", WAYS)
def test_a_victim_is_pre_dumped_dumped_and_restored(service: guest.Guest, way: str) -> None:
    shell, folder = service.shell, f"{FOLDER}/{way}"
    line = f"echo $$ >pid; exec setsid python3 -B {VICTIMS}/memory.py </dev/null >log 2>&1"
    shell.run(f"mkdir -p {folder}/before {folder}/images; cd {folder} && (sh -c '{line}' &)")
    assert heard(service, folder, "READY") == "READY"
    pid = int(shell.out(f"cat {folder}/pid"))
    before, dumped, restored = asked(
        service, way, 0,
        {"call": "pre_dump", "images": f"{folder}/before", "pid": pid},
        {"call": "dump", "images": f"{folder}/images", "pid": pid, "parent_img": "../before"},
        {"call": "restore", "images": f"{folder}/images"},
    )  # fmt: skip
    assert before["errno"] == 0
    assert dumped == {"errno": 0, "pid": 0, "stages": ["pre-dump", "post-dump"]}
    assert shell.out(f"readlink {folder}/images/parent") == "../before"
    stages = ["pre-restore", "post-restore", "pre-resume", "post-resume"]
    assert restored == {"errno": 0, "pid": pid, "stages": stages}
    shell.run(f"touch {folder}/go")
    assert heard(service, folder, "PASS") == "PASS"
    shell.run(f"rm -rf {folder}")


def test_a_user_gets_what_is_its_own(service: guest.Guest) -> None:
    shell, folder = service.shell, f"{FOLDER}/theirs"
    shell.run(
        f"mkdir {folder} && chown {USER}:{USER} {folder};"
        f"(sleep 1000 </dev/null >/dev/null 2>&1 & echo $! >{FOLDER}/roots)"
    )
    roots = int(shell.out(f"cat {FOLDER}/roots"))
    own, other, restored, checked = asked(
        service, "service", USER,
        {"call": "dump", "images": folder, "pid": 0, "leave_running": True},
        {"call": "dump", "images": folder, "pid": roots},
        {"call": "restore", "images": folder},
        {"call": "check"},
    )  # fmt: skip
    assert own == {"errno": 0, "pid": 0, "stages": ["pre-dump", "post-dump"]}
    assert (other["errno"], restored["errno"]) == (errno.EPERM, errno.EPERM)
    assert "post-dump" not in other["stages"]
    assert not restored["stages"]
    assert checked["errno"] == 0
    assert shell.out(f"stat -c %u {folder}/inventory.img {folder}/criu.log").split()[-1] == str(USER)
    assert shell.out(f"kill -0 {roots} && echo lives") == "lives"
    shell.run(f"kill {roots}")
