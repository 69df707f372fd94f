# SPDX-License-Identifier: GPL-2.0-only
"""`crit find` in real checkpoints: every process, heap and shared memory, at the address that the program tells."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.host.conftest import Host

PROGRAM = """
private = bytearray(b"a se" + b"cret of one")
shared = mmap.mmap(-1, 8192)
shared[4000:4200] = b"0123456789" * 20
child = os.fork()
if child == 0:
    private[:8] = b"another!"
    while True:
        time.sleep(1)
def address(buffer):
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))
say("at", address(private), address(shared), child)
pause_for_dump()
"""


def found(host: Host, *words: str) -> list[dict[str, object]]:
    command = [sys.executable, "-m", "pycriu.crit", "find", str(host.images), "--json", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.stderr, done.stderr
    assert done.returncode == (0 if done.stdout else 1)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_what_a_tree_has_in_memory(host: Host) -> None:
    subject = host.python(PROGRAM)
    dumped = host.dump(subject)
    assert dumped.ok, dumped
    private, shared, child = map(int, next(line for line in subject.said() if line.startswith("at ")).split()[1:])
    mine = found(host, "a secret of one")
    assert (subject.pid, private) in [(one["pid"], one["address"]) for one in mine]
    changed = found(host, "another!.{7}", "-e", "-p", str(child))
    assert (child, private) in [(one["pid"], one["address"]) for one in changed]
    both = found(host, "(0123456789){20}", "-e")
    assert {(one["pid"], one["address"]) for one in both} >= {(subject.pid, shared + 4000), (child, shared + 4000)}
    assert found(host, "00" * 3 + b"no such bytes".hex() + "ff", "-x") == []
