# SPDX-License-Identifier: GPL-2.0-only
"""CRIU in the guest, from 3.17 of 2022 to today's, and pycriu: each restores what the other has dumped, on each CPU.

On the host every victim makes these trips (tests/host/test_interop.py), but CRIU 3.17 cannot run on kernels from 6.13
on, whose vDSO it does not know.

Two of CRIU's releases have a limit on aarch64 that images of their own do not get around either, so images are made
to fit before they are restored (UNFIT). All else in them must be as CRIU wants it.
"""

from __future__ import annotations

import pytest

from layer.target import bootfile, guest
from tests import packed

THERE = "/data"
VICTIMS = "/usr/lib/victims"
# Release and CPU: what is taken out of each image of that kind before that CRIU restores it, and why.
# 3.17 has room for 40 words of the auxiliary vector, and cuts its own off there; kernels from 6.3 on have more.
# 4.1 is built with signed return addresses in its restorer, which then changes the keys under them: it waits for ever
# for a task that has crashed (https://github.com/checkpoint-restore/criu/issues/2709, mended in 4.2).
UNFIT = {
    ("bookworm", "aarch64"): ("mm", "del entry['mm_saved_auxv'][40:]"),
    ("trixie", "aarch64"): ("core", "del entry['ti_aarch64']['pac_keys']"),
}
EDIT = """python3 -c "
import sys; sys.path.append('/usr/lib/python3/dist-packages')
from pycriu import images
for name in sys.argv[1:]:
    with open(name, 'rb') as file: content = images.load(file)
    for entry in content['entries']: {change}
    with open(name, 'wb') as file: images.dump(content, file)
" {folder}/images/{kind}-[0-9]*.img"""
LOOPBACK = f"import sys; sys.path.append('{VICTIMS}'); import victim; victim.need_loopback()"  # CRIU tries TCP_REPAIR


@pytest.fixture(scope="module")
def options(options: guest.Options, boot: bootfile.Boot) -> guest.Options:
    """With CRIU on the data disk."""
    return packed.on_disk(options, lambda folder: packed.criu_disk(boot.machine, folder))


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
    if restorer != "pycriu" and (release, ready.boot.machine.name) in UNFIT:
        kind, change = UNFIT[release, ready.boot.machine.name]
        shell.run(EDIT.format(folder=folder, kind=kind, change=change))
    run(f"{restorer} restore -d", "restore.log")
    shell.run(f"touch {folder}/go")
    assert hear("PASS") == "PASS"
    shell.run(f"rm -rf {folder}")
