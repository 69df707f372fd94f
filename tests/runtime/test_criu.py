# SPDX-License-Identifier: GPL-2.0-only
"""CRIU in the guest, of today and of 2022 (3.17), and pycriu: each restores what the other has dumped, on each CPU.

On the host every victim makes these trips (tests/host/test_interop.py), but CRIU 3.17 cannot run on kernels from 6.13
on, whose vDSO it does not know.
"""

from __future__ import annotations

import dataclasses

import pytest

from layer.target import bootfile, guest
from tests import debian, packed

THERE = "/data"
VICTIMS = "/usr/lib/victims"
LOOPBACK = f"import sys; sys.path.append('{VICTIMS}'); import victim; victim.need_loopback()"  # CRIU tries TCP_REPAIR


@pytest.fixture(scope="module")
def options(options: guest.Options, boot: bootfile.Boot) -> guest.Options:
    """With CRIU on the data disk."""
    options.logs.mkdir(parents=True, exist_ok=True)
    try:
        disk = packed.criu_disk(boot.machine, options.logs)
    except debian.NotHadError as error:
        pytest.skip(f"no CRIU for {boot.machine.name}: {error}")
    return dataclasses.replace(options, disk=disk)


@pytest.fixture(scope="module")
def ready(target: guest.Guest, boot: bootfile.Boot) -> guest.Guest:
    """The guest, with what CRIU and victims need."""
    if "feature/victims" not in boot.templates:
        pytest.skip(f"{boot.file} was configured without feature/victims")
    target.shell.run(f'python3 -c "{LOOPBACK}"')
    return target


@pytest.mark.parametrize("way", ["criu-pycriu", "pycriu-criu"])
@pytest.mark.parametrize("name", ["memory", "sessions"])
@pytest.mark.parametrize("release", packed.CRIU_SUITES)
def test_victim_between_both(ready: guest.Guest, release: str, name: str, way: str) -> None:
    if way == "pycriu-criu" and ready.boot.machine.name == "aarch64":
        pytest.skip("a defect: restored by CRIU from images of pycriu, a task of aarch64 never leaves CRIU's restorer")
    shell, folder = ready.shell, f"/tmp/{release}-{name}-{way}"
    here = f"{THERE}/{release}"
    tools = {"criu": f"{here}/ld.so --library-path {here} {here}/criu", "pycriu": "pycriu"}
    dumper, restorer = (tools[one] for one in way.split("-"))

    def run(words: str, log: str) -> None:
        done = shell.run(f"cd {folder} && {words} -D images -v4 -o {log}", timeout=60, check=False)
        told = "" if done.status == 0 else shell.run(f"tail -n 20 {folder}/images/{log}", check=False).out
        assert done.status == 0, f"{words}: {done.out}\n{told}"

    def hear(word: str) -> str:
        look = f"n=0; until grep -sqE '^({word}|PASS|FAIL|SKIP)' log || [ $n -ge 300 ]; do sleep 0.2; n=$((n+1)); done"
        return shell.run(f"cd {folder}; {look}; tail -n 1 log", timeout=70).out.strip()

    line = f"echo $$ >pid; exec setsid python3 -B {VICTIMS}/{name}.py </dev/null >log 2>&1"
    shell.run(f"mkdir -p {folder}/images; cd {folder} && (sh -c '{line}' &)")
    assert hear("READY") == "READY"
    run(f"{dumper} dump -t $(cat pid)", "dump.log")
    run(f"{restorer} restore -d", "restore.log")
    shell.run(f"touch {folder}/go")
    assert hear("PASS") == "PASS"
    shell.run(f"rm -rf {folder}")
