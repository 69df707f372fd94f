# SPDX-License-Identifier: GPL-2.0-only
"""What BLCR's own tests try, on cr_checkpoint and cr_restart: interpreters, and the victims that have such state.

The victims judge themselves.
"""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from tests import manifest
from tests.debian import environment
from tests.host.blcr import Blcr, in_session, is_counted, kill
from tests.host.conftest import DEADLINE, Host, alive, wait_until

# Each counts until there is a file `finish`.
PYTHON = """
import os, time
n = 0
while not os.path.exists('finish'):
    print(n, flush=True)
    n += 1
    time.sleep(0.02)
"""
LOOPS = {
    "bash": ["-c", "n=0; until [[ -e finish ]]; do echo $n; n=$((n+1)); read -t 0.02 <> <(:); done; :"],
    "dash": ["-c", "n=0; until [ -e finish ]; do echo $n; n=$((n+1)); sleep 0.02; done"],
    "perl": ["-e", '$| = 1; until (-e "finish") { print $n++ + 0, "\\n"; select(undef, undef, undef, 0.02); }'],
    "tclsh": ["LOOP"],
    "ruby": [
        "--disable=gems",
        "-e",
        "$stdout.sync = n = true; n = -1; (puts n += 1; sleep 0.02) until test ?e, 'finish'",
    ],
    "python3": ["-IS", "-c", PYTHON],
}
TCL = "fconfigure stdout -buffering none\nfor {set n 0} {![file exists finish]} {incr n} { puts $n; after 20 }\n"

# BLCR's test → the victim that has that state
MATRIX = {
    "stopped.c": "stopped", "orphan.c": "families", "pipe.c, dpipe.c": "pipes", "named_fifo.c, linked_fifo.c": "fifos",
    "dup.c, cloexec.c": "regular_files", "readdir.c": "directories", "mmaps.c, overlap.c": "memory",
    "hugetlbfs.c": "hugepages", "math.c": "floats", "prctl.c": "prctls", "sigaltstack.c": "signals",
    "sigpending.c": "signal_queue", "pid_restore.c": "sessions", "pthread tests": "threads", "itimer.c": "itimers",
    "mmap of shared memory": "shared_memory", "unlinked files": "deleted_files", "credentials": "credentials",
    "cwd, umask": "fs_state", "reloc of a process's program": "identity",
}  # fmt: skip


@pytest.fixture
def blcr(host: Host) -> Blcr:
    return Blcr(host)


@pytest.mark.parametrize("name", LOOPS)
def test_interpreters_count_on(blcr: Blcr, name: str) -> None:
    program = shutil.which(name, path=environment().get("PATH"))
    if program is None:
        pytest.skip(f"{name} is not installed: make host fetches it where there is an archive")
    (blcr.folder / "LOOP").write_text(TCL)
    process = blcr.program(program, *LOOPS[name])
    blcr.wait_for_lines(5)
    blcr.checkpoint(process.pid, "-f", "one")
    blcr.wait_for_lines(3)
    blcr.checkpoint(process.pid, "-f", "two", "--term")
    restart = blcr.start("restart", "two")
    blcr.wait_for_lines(3)
    blcr.checkpoint(restart.pid, "-f", "three", "--kill")
    assert restart.wait() == -9
    wait_until(lambda: not alive(process.pid), "the end")
    restart = blcr.start("restart", "three")
    blcr.wait_for_lines(3)
    blcr.finish()
    assert restart.wait() == 0
    assert is_counted(blcr.lines())
    assert blcr.run("restart", "one").returncode == 0
    assert is_counted(blcr.lines())


@pytest.mark.parametrize("victim", sorted(set(MATRIX.values())))
def test_what_blcr_restored_comes_back(blcr: Blcr, victim: str) -> None:
    entry = next(one for one in manifest.entries() if one.name == victim)
    process = blcr.program(sys.executable, "-u", str(manifest.FOLDER / f"{victim}.py"), out="log")
    wait_until(lambda: "READY" in blcr.lines("log") or not alive(process.pid), f"{victim} is ready")
    if skipped := [line for line in blcr.lines("log") if line.startswith("SKIP ")]:
        process.wait()
        pytest.skip(f"{victim}: {skipped[0][5:]}")
    assert not entry.options
    done = blcr.run("checkpoint", "--kill", "-f", "saved", process.pid)
    assert done.returncode == 0, done
    wait_until(lambda: not in_session(process.pid), f"the end: {in_session(process.pid)}")
    ids = ("--restore-sid", "--restore-pgid", "--run-on-success=touch go")
    restart = blcr.start("restart", *ids, "saved", stderr=subprocess.PIPE)
    try:
        _, said = restart.communicate(timeout=4 * DEADLINE)
        assert (restart.returncode, blcr.lines("log")[-1]) == (0, "PASS"), said.decode()
    finally:
        kill(process.pid)
