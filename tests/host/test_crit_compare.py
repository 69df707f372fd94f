# SPDX-License-Identifier: GPL-2.0-only
"""`crit diff` and `crit stats` on real checkpoints: a process that changes little between two dumps."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.host.conftest import Host

PROGRAM = """
import socket
area = mmap.mmap(-1, 64 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for page in range(64):
    area[page * 4096] = 0 if page >= 32 else 1 + page % 2
listening = socket.socket()
listening.bind(("127.0.0.1", 0))
listening.listen()
child = os.fork()
if child == 0:
    while True:
        time.sleep(1)
say("at", ctypes.addressof(ctypes.c_char.from_buffer(area)), child)
ready()
wait_for_go()
area[5 * 4096 + 17] = 99
kept = os.open("/dev/null", os.O_RDONLY)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
say("changed", kept)
while True:
    time.sleep(1)
"""


def crit(*words: str | Path, status: int = 0) -> Any:
    command = [sys.executable, "-m", "pycriu.crit", *map(str, words), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status, done
    return json.loads(done.stdout)


def test_what_has_changed_between_two_dumps(host: Host) -> None:
    subject = host.python(PROGRAM)
    one, other = (host.folder / name for name in ("one", "other"))
    for images in (one, other):
        images.mkdir()
    assert host.dump(subject, "--leave-running", images=one).ok
    assert crit("diff", one, one) == {"images": {}, "entries": {}, "memory": []}
    (host.folder / "go").touch()
    subject.wait_for("changed")
    assert host.dump(subject, "--leave-running", images=other).ok
    at, _child = map(int, next(line for line in subject.said() if line.startswith("at ")).split()[1:])
    kept = next(line for line in subject.said() if line.startswith("changed")).split()[1]
    found = crit("diff", one, other, status=1)
    assert found["images"] == {}
    changes = {(name, row["path"], row["kind"]) for name, rows in found["entries"].items() for row in rows}
    assert (f"core-{subject.pid}.img", "tc.rlimits.rlimits[4].max", "changed") in changes
    tables = {path for name, path, kind in changes if name.startswith("fdinfo-") and kind == "added"}
    assert tables == {f"[fd={kept}]"}
    assert not [path for name, path, _ in changes if name == "pstree.img"]
    area = next(row for row in found["memory"] if row["pid"] == subject.pid and row["start"] <= at < row["end"])
    assert area["changed"] >= 1
    rest = [row for row in found["memory"] if row["pid"] != subject.pid]
    assert not [row for row in rest if row["start"] <= at < row["end"]], "the child has a copy of its own"


def test_figures_of_a_tree(host: Host) -> None:
    subject = host.python(PROGRAM)
    dumped = host.dump(subject)
    assert dumped.ok, dumped
    found = crit("stats", host.images)
    assert found["totals"]["processes"] == 2
    assert [one["parent"] for one in found["processes"]] == [0, subject.pid]
    assert found["sockets"] == {"IPv4 TCP, listening": 1}
    assert found["pages"]["zero"] >= 2 * 32
    assert found["pages"]["duplicates"] >= 62, "32 pages of two sorts, and all of them twice"
    assert found["totals"]["bytes"] == sum(path.stat().st_size for path in host.images.glob("*.img"))
    page = host.folder / "page.html"
    subprocess.run([sys.executable, "-m", "pycriu.crit", "stats", str(host.images), "--html", str(page)], check=True)
    assert f"{subject.pid} {found['processes'][0]['name']}" in page.read_text()
