# SPDX-License-Identifier: GPL-2.0-only
"""`pycriu restore --edit`: tasks come back with other paths, ids, addresses and limits; images stay as they are."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.host.conftest import Host, alive, state

PROGRAM = """
import socket
os.makedirs("old/deep")
os.chdir("old")
with open("deep/data", "w") as file:
    file.write("0123456789")
data = open("deep/data", "rb", buffering=0)
data.seek(4)
mapped_file = os.open("deep/data", os.O_RDONLY)
mapped = mmap.mmap(mapped_file, 10, prot=mmap.PROT_READ)
os.close(mapped_file)
listening = socket.socket()
listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listening.bind(("127.0.0.1", 0))
listening.listen()
named = socket.socket(socket.AF_UNIX)
named.bind("\\0first-" + str(os.getpid()))
named.listen()
resource.setrlimit(resource.RLIMIT_NOFILE, (500, 900))
os.chmod("..", 0o777)
os.setresgid(1234, 1234, 1234)
os.setresuid(1234, 1234, 1234)
say("at", os.getcwd(), listening.getsockname()[1])
ready()
while not os.path.exists("../go") and not os.path.exists("go"):
    time.sleep(0.002)
say("cwd", os.getcwd())
say("file", os.readlink(f"/proc/self/fd/{data.fileno()}"), data.read())
say("mapped", mapped[:3])
say("socket", listening.getsockname()[1], named.getsockname())
say("ids", os.getresuid(), os.getresgid())
say("limit", resource.getrlimit(resource.RLIMIT_NOFILE))
say("name", open("/proc/self/comm").read().strip())
"""


def content(images: Path) -> dict[str, bytes]:
    """Every image, and its bytes."""
    return {path.name: path.read_bytes() for path in images.iterdir() if path.suffix == ".img"}


def test_a_tree_comes_back_as_another(host: Host) -> None:
    subject = host.python(PROGRAM)
    folder, port = subject.said()[0].split()[1:]
    dumped = host.dump(subject)
    assert dumped.ok, dumped
    before = content(host.images)
    os.rename(folder, host.folder / "new")
    script = host.folder / "script.json"
    core = f"/core-{subject.pid}.img/entries/0/thread_core/comm"
    script.write_text(json.dumps([{"op": "replace", "path": core.replace("thread_core", "tc"), "value": "another"}]))
    other = int(port) ^ 1
    words = [
        f"--edit=files:reg:{folder}=" + str(host.folder / "new"),
        f"--edit=files:reg:{folder}/%=" + str(host.folder / "new/%"),
        "--edit=ids:uid:1234=4321",
        "--edit=ids:gid:1234=5678",
        f"--edit=sockets:local:127.0.0.1:{port}=%:{other}",
        "--edit=files:unix:@first-%=@second-%",
        "--edit=limits:nofile:500=600:800",
        f"--edit-script={script}",
    ]
    restored = host.restore(*words)
    assert restored.ok, restored
    assert "ids:uid:1234=4321: " in restored.log
    assert content(host.images) == before, "a restore writes no images"
    new = str(host.folder / "new")
    assert subject.go() == [
        f"cwd {new}",
        f"file {new}/deep/data b'456789'",
        "mapped b'012'",
        f"socket {other} b'\\x00second-{subject.pid}'",
        "ids (4321, 4321, 4321) (5678, 5678, 5678)",
        "limit (600, 800)",
        "name another",
    ]


def test_a_rehearsal_sees_what_the_restore_would(host: Host) -> None:
    subject = host.python(PROGRAM)
    folder = subject.said()[0].split()[1]
    assert host.dump(subject).ok
    os.rename(folder, host.folder / "new")
    words = ("-D", str(host.images), "--dry-run")
    without = host.run("restore", *words)
    assert not without.ok
    assert f"{folder}/deep/data" in without.log
    rules = [f"--edit=files:reg:{folder}{end}={host.folder}/new{end}" for end in ("", "/%")]
    rehearsed = host.run("restore", *words, *rules)
    assert rehearsed.ok, rehearsed
    idle = host.run("restore", *words, *rules, "--edit=files:reg:/nowhere=/x")
    assert not idle.ok
    assert "nothing in the images matches" in idle.log
    assert not alive(subject.pid)


def test_what_matches_nothing_or_is_no_rule_restores_nothing(host: Host) -> None:
    subject = host.python(PROGRAM)
    assert host.dump(subject).ok
    before = content(host.images)
    for word, sentence in (
        ("--edit=files:reg:/nowhere/%=/x/%", "nothing in the images matches"),
        ("--edit=files:regular:/a=/b", "nothing is called files:regular"),
        ("--edit=environment:PATH:/bin=/sbin", "nothing is called environment:PATH"),
        ("--edit-script=/nowhere", "--edit-script /nowhere"),
    ):
        refused = host.restore(word)
        assert not refused.ok
        assert sentence in refused.errors(), refused
        assert not alive(subject.pid)
        assert state(subject.pid) is None
    assert content(host.images) == before
    assert host.restore("--edit=?files:reg:/nowhere/%=/x/%").ok
    assert len(subject.go()) == 7
