# SPDX-License-Identifier: GPL-2.0-only
"""Changes while images are read: what matches is changed, what cannot be is refused, nothing is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pycriu.edits import Edits, rules, targets
from pycriu.errors import PycriuError, UserError
from pycriu.images import messages as m
from pycriu.images import store
from tests.unit import checkpoints as c


def edited(images: Path, *texts: str, script: Any = None) -> store.ImagesDir:
    """The images, changed; their directory is checked for being as it was when the test ends."""
    path = None
    if script is not None:
        path = images.parent / "script.json"
        path.write_text(script if isinstance(script, str) else json.dumps(script))
    found = store.ImagesDir(str(images))
    found.edited = Edits(texts, str(path) if path else None)
    return found


def read_all(images: store.ImagesDir) -> list[str]:
    for name in images.names():
        if not name.startswith("pages-"):
            images.read(name)
    return images.edited.check_used()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "value", "result"),
    [
        ("files:reg:/a=/b", "/a", "/b"),
        ("files:reg:/a=/b", "/ab", None),
        ("files:reg:/old/%=/new/%", "/old/x/y", "/new/x/y"),
        ("files:reg:/old/%=/new/%", "/older/x", None),
        ("files:reg:%.log=/logs/%.txt", "/var/a.log", "/logs//var/a.txt"),
        ("files:reg:/old/%=/one", "/old/x", "/one"),
        (r"files:reg:/a\=b=/c\%d", "/a=b", "/c%d"),
        (r"files:reg:/a\\b=/c\d", r"/a\b", r"/c\d"),
        ("files:reg:/a=/b=c", "/a", "/b=c"),
        ("files:reg:/aba%aba=/x", "/aba", None),
    ],
)
def test_patterns(text: str, value: str, result: str | None) -> None:
    assert rules.parse(text).replacement(value) == result


@pytest.mark.parametrize(
    "text",
    [
        "", "files", "files:reg", "files:reg:", "files:reg:/a", "files:reg:/a=", "files:reg:=/b", "::a=b",
        "files:reg:/a=/b%", "files:reg:%%=/b", "files:reg:/%=/%/%",
        "files:regular:/a=/b", "environment:PATH:/a=/b", "memory:0:1=2",
        "files:reg:/a=b", "ids:uid:1=root", "ids:uid:1=-1", "ids:uid:x=1", "ids:gid:1=4294967295", "ids:uid:%=1%",
        "sockets:local:127.0.0.1=1.2.3.4", "sockets:local:1.2.3:80=%:81", "sockets:local:%:80=%:70000",
        "sockets:local:[::g]:1=%:2", "limits:nofile:%=many", "limits:nofile:%=9:8", "limits:files:%=9",
        "limits:nofile:%=%",
    ],
)  # fmt: skip
def test_what_is_no_rule_is_refused_before_anything(text: str) -> None:
    with pytest.raises(UserError, match="--edit"):
        Edits([text], None)


def test_paths(tmp_path: Path) -> None:
    images = c.write(tmp_path)
    old = str(tmp_path / "mapped")
    with edited(images, f"files:reg:{tmp_path}/%=/elsewhere/%") as found:
        said = read_all(found)
        assert found.read("files.img")[0].reg.name == "/elsewhere/mapped"  # type: ignore[attr-defined]
    assert said == [f"--edit files:reg:{tmp_path}/%=/elsewhere/%: 1 changes"]
    with store.ImagesDir(str(images)) as same:
        assert same.read("files.img")[0].reg.name == old  # type: ignore[attr-defined]


@pytest.mark.parametrize("new", ["/a/../b", "/a/./b", "/x\0y", "/" + "n" * 5000])
def test_paths_that_lead_astray(tmp_path: Path, new: str) -> None:
    with edited(c.write(tmp_path), f"files:reg:{tmp_path}/mapped={new}") as found, pytest.raises(UserError):
        found.read("files.img")


def test_the_first_rule_that_matches_counts(tmp_path: Path) -> None:
    texts = [f"files:reg:{tmp_path}/mapped=/one", "?files:reg:/%=/two/%", "?files:reg:/one=/three"]
    with edited(c.write(tmp_path), *texts) as found:
        assert found.read("files.img")[0].reg.name == "/one"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "rule", "result"),
    [
        (b"/run/socket\0", "/run/%=/var/run/%", b"/var/run/socket\0"),
        (b"/run/socket", "/run/%=/var/run/%", b"/var/run/socket"),
        (b"\0hidden", "@%=@not-%", b"\0not-hidden"),
        (b"/run/socket\0", "/run/socket=@hidden", b"\0hidden"),
    ],
)
def test_names_of_unix_sockets(tmp_path: Path, name: bytes, rule: str, result: bytes) -> None:
    def change(images: dict[str, Any]) -> None:
        images["files.img"][2].usk.name = name

    with edited(c.write(tmp_path, change), f"files:unix:{rule}") as found:
        assert found.read("files.img")[2].usk.name == result  # type: ignore[attr-defined]


def test_ids(tmp_path: Path) -> None:
    def change(images: dict[str, Any]) -> None:
        images["ghost-file-1.img"] = [(m.ghost_file_entry(uid=1000, gid=1000, mode=0o100600), b"content")]
        creds = images[f"core-{c.FIRST}.img"][0].thread_core.creds
        creds.groups.extend([5, 1000])

    images = c.write(tmp_path, change)
    with edited(images, "ids:uid:1000=2000", "ids:gid:1000=3000", "ids:uid:0=7") as found:
        core: Any = found.read_one(f"core-{c.FIRST}.img")
        thread: Any = found.read_one(f"core-{c.THREAD}.img")
        for creds in (core.thread_core.creds, thread.thread_core.creds):
            assert {creds.uid, creds.euid, creds.suid, creds.fsuid} == {2000}
            assert {creds.gid, creds.egid, creds.sgid, creds.fsgid} == {3000}
        assert list(core.thread_core.creds.groups) == [3000, 5, 3000]
        ghost, file, _ = found.head("ghost-file-1.img")
        file.close()
        assert (ghost.uid, ghost.gid) == (2000, 3000)  # type: ignore[attr-defined]
        assert found.read("files.img")[0].reg.fown.uid == 7  # type: ignore[attr-defined]
        assert len(read_all(found)) == 3


def test_socket_addresses(tmp_path: Path) -> None:
    def change(images: dict[str, Any]) -> None:
        isk = images["files.img"][1].isk
        wide = m.file_entry()
        wide.CopyFrom(images["files.img"][1])
        wide.id = wide.isk.id = 12
        wide.isk.family = 10
        wide.isk.src_addr[:] = [0, 0, 0, 1 << 24]
        wide.isk.dst_addr[:] = [0, 0, 0, 0]
        images["files.img"].append(wide)
        assert isk.src_port == 80

    images = c.write(tmp_path, change)
    with edited(images, "sockets:local:127.0.0.1:80=10.0.0.1:8080", "sockets:local:[0:0::1]:80=[fe80::2]:%") as found:
        entries: Any = found.read("files.img")
        assert (list(entries[1].isk.src_addr), entries[1].isk.src_port) == ([0x0100000A], 8080)
        assert list(entries[3].isk.src_addr) == [0x80FE, 0, 0, 2 << 24]
        assert entries[3].isk.src_port == 80
    with edited(images, "sockets:local:%:80=%:81") as found:
        entries = found.read("files.img")
        assert [entries[n].isk.src_port for n in (1, 3)] == [81, 81]
    with edited(images, "sockets:local:%:80=10.0.0.1:81") as found, pytest.raises(UserError, match="of IPv6"):
        found.read("files.img")


def test_connections_keep_their_addresses(tmp_path: Path) -> None:
    def change(images: dict[str, Any]) -> None:
        images["files.img"][1].isk.state = 1

    with (
        edited(c.write(tmp_path, change), "sockets:local:%:80=%:81") as found,
        pytest.raises(UserError, match=r"127\.0\.0\.1:80 is a connection, whose other side knows"),
    ):
        found.read("files.img")


def test_limits(tmp_path: Path) -> None:
    texts = ("limits:nofile:%=2048:unlimited", "limits:core:1028=0")
    with edited(c.write(tmp_path), *texts) as found:
        core: Any = found.read_one(f"core-{c.FIRST}.img")
        limits = core.tc.rlimits.rlimits
        assert (limits[7].cur, limits[7].max) == (2048, (1 << 64) - 1)
        assert (limits[4].cur, limits[4].max) == (0, 4096)
        assert limits[5].cur == 1029
    with edited(c.write(tmp_path / "b"), "limits:nofile:%=9999") as found, pytest.raises(UserError, match="hard limit"):
        found.read_one(f"core-{c.FIRST}.img")


def test_a_rule_that_matches_nothing_is_said(tmp_path: Path) -> None:
    images = c.write(tmp_path)
    with edited(images, "files:reg:/nowhere/%=/b/%") as found, pytest.raises(UserError, match="nothing in the images"):
        read_all(found)
    with edited(images, "?files:reg:/nowhere/%=/b/%") as found:
        assert read_all(found) == ["--edit ?files:reg:/nowhere/%=/b/%: 0 changes"]


# --------------------------------------------------------------------------------------------------------------- script


def test_a_script(tmp_path: Path) -> None:
    script = [
        {"op": "test", "path": f"/core-{c.FIRST}.img/entries/0/tc/comm", "value": "first"},
        {"op": "replace", "path": f"/core-{c.FIRST}.img/entries/0/tc/comm", "value": "renamed"},
        {"op": "add", "path": f"/core-{c.FIRST}.img/entries/0/tc/oom_score_adj", "value": 5},
        {"op": "remove", "path": f"/core-{c.FIRST}.img/entries/0/thread_core/comm"},
        {"op": "add", "path": f"/core-{c.FIRST}.img/entries/0/thread_core/creds/groups/-", "value": 8},
        {"op": "replace", "path": "/files.img/entries/0/reg/name", "value": "/x"},
        {"op": "remove", "path": "/fdinfo-1000.img/entries/1"},
    ]
    with edited(c.write(tmp_path), "files:reg:/x=/y", script=script) as found:
        core: Any = found.read_one(f"core-{c.FIRST}.img")
        assert core.tc.comm == "renamed"
        assert core.tc.oom_score_adj == 5
        assert not core.thread_core.HasField("comm")
        assert list(core.thread_core.creds.groups) == [1000, 8]
        assert core.thread_info.gpregs.sp == 1000 + 19
        assert found.read("files.img")[0].reg.name == "/y", "rules come after the script"  # type: ignore[attr-defined]
        assert [one.fd for one in found.read("fdinfo-1000.img")] == [3, 5]  # type: ignore[attr-defined]
        assert read_all(found)[-1] == "--edit-script: 7 operations"


@pytest.mark.parametrize(
    "script",
    [
        "no json", "{}", "[1]", '[{"op": "move", "from": "/a", "path": "/b"}]',
        [{"op": "replace", "path": "/files.img/entries/0/id"}],
        [{"op": "remove", "path": "/files.img/entries/0", "value": 1}],
        [{"op": "remove", "path": "files.img/entries/0"}],
        [{"op": "remove", "path": "/files.img/0"}],
        [{"op": "remove", "path": "/pages-1.img/entries/0"}],
        [{"op": "remove", "path": "/../etc/passwd/entries/0"}],
        "[" * 100000,
    ],
)  # fmt: skip
def test_what_is_no_script_is_refused_before_anything(tmp_path: Path, script: Any) -> None:
    with pytest.raises(UserError, match="--edit-script"):
        edited(c.write(tmp_path), script=script)


@pytest.mark.parametrize(
    "step",
    [
        {"op": "test", "path": "/pstree.img/entries/0/pid", "value": 5},
        {"op": "replace", "path": "/pstree.img/entries/7/pid", "value": 5},
        {"op": "replace", "path": "/pstree.img/entries/-1/pid", "value": 5},
        {"op": "replace", "path": "/pstree.img/entries/0/nothing", "value": 5},
        {"op": "add", "path": "/pstree.img/entries/0/nothing", "value": 5},
        {"op": "replace", "path": "/pstree.img/entries/0/pid", "value": "five"},
        {"op": "replace", "path": "/pstree.img/entries/0/pid", "value": 1 << 40},
        {"op": "replace", "path": "/pstree.img/entries/0/pid/x", "value": 1},
        {"op": "remove", "path": "/pstree.img/entries/0/pid"},
        {"op": "add", "path": "/pstree.img/entries/5", "value": {}},
        {"op": "add", "path": "/pstree.img/entries/-", "value": []},
        {"op": "remove", "path": "/seccomp.img/entries/0"},
        {"op": "replace", "path": "/pipes-data.img/entries/0/bytes", "value": 2},
        {"op": "remove", "path": "/pipes-data.img/entries/0"},
    ],
)  # fmt: skip
def test_operations_that_lead_nowhere(tmp_path: Path, step: Any) -> None:
    def change(images: dict[str, Any]) -> None:
        images["pipes-data.img"] = [(m.pipe_data_entry(pipe_id=5, bytes=3, size=0), b"abc")]

    with edited(c.write(tmp_path, change), script=[step]) as found, pytest.raises(PycriuError):
        read_all(found)


def test_every_target_is_told_and_checked() -> None:
    assert set(targets._CHECKS) == {target.partition(":")[0] for target in targets.TARGETS}
