# SPDX-License-Identifier: GPL-2.0-only
"""crit says what CRIU's own says: the same JSON of every type of image, the same views of a checkpoint, the same bytes.

Where the two differ it is on purpose, and said here.
"""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pycriu.crit import cli
from pycriu.images import decoded, framing, magics
from pycriu.images.catalogue import Kind
from tests import clients
from tests.unit.test_crit_recode import SAMPLES, WITH_MAGIC, images_of, older

# Types of which CRIU's crit knows the magic, but not the entries.
NOT_THEIRS = ("signal-s", "signal-p", "pidfd", "binfmt-misc")
# Types whose contents it cannot write.
NOT_WRITTEN = (*NOT_THEIRS, "bpfmap-data", "ipcns-shm")
THEIRS = [kind for kind in WITH_MAGIC if not kind.own]

SCRIPT = """
import base64, io, json, sys
import pycriu
for line in sys.stdin:
    action, label, data = json.loads(line)
    try:
        if action == "encode":
            out = io.BytesIO()
            pycriu.images.dump(data, out)
            said = base64.b64encode(out.getvalue()).decode()
        else:
            file = io.BytesIO(base64.b64decode(data))
            said = json.dumps(pycriu.images.load(file, action == "pretty"), indent=4 if action == "pretty" else None)
    except Exception:
        said = None
    print(json.dumps(said), flush=True)
"""


@pytest.fixture(scope="module")
def upstream() -> clients.Clients:
    try:
        return clients.find()
    except clients.NotHadError as reason:
        pytest.skip(str(reason))


def ask(upstream: clients.Clients, folder: Path, questions: list[tuple[str, str, Any]]) -> list[Any]:
    """What CRIU's Python library answers; None where it fails."""
    script = folder / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        upstream.python(script), env=upstream.environment(), cwd=folder, capture_output=True, text=True, check=True,
        input="".join(json.dumps(question) + "\n" for question in questions),
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()]


def examples() -> list[tuple[Kind, bytes]]:
    made = [(kind, images_of(kind, number)) for kind in THEIRS for number in range(4)]
    recorded = [(magics.kind_of(path.read_bytes(), path.name), path.read_bytes()) for path in SAMPLES]
    return made + [(kind, older(kind, data)) for kind, data in made] + recorded


def renamed(image: dict[str, Any]) -> dict[str, Any]:
    """Our values in the words of CRIU 4.1: later versions have renamed a field and added two."""
    image.pop("img_version", None)
    for entry in image["entries"]:
        if image["magic"] == "PAGEMAP" and "compat_nr_pages" in entry:
            entry["nr_pages"] = entry.pop("compat_nr_pages")
        if image["magic"] == "INVENTORY":
            entry.pop("allow_uprobes", None)
        if image["magic"] == "CORE" and "tc" in entry:
            entry["tc"].pop("task_state", None)  # theirs calls a stopped task a zombie, and a dead one nothing
    return image


def test_the_same_values(upstream: clients.Clients, tmp_path: Path) -> None:
    some = examples()
    questions = [(how, "x", base64.b64encode(data).decode()) for _, data in some for how in ("decode", "pretty")]
    answers = ask(upstream, tmp_path, questions)
    compared = 0
    for (kind, data), pair in zip(some, zip(answers[::2], answers[1::2], strict=True), strict=True):
        for said, pretty in zip(pair, (False, True), strict=True):
            if kind.stem in NOT_THEIRS:
                assert said is None, f"CRIU's crit reads {kind.stem} by now"
                continue
            assert said is not None, kind.stem
            mine = json.loads(json.dumps(decoded.load(data, kind.stem, pretty=pretty)))
            assert renamed(mine) == renamed(json.loads(said)), kind.stem
            compared += 1
    assert compared > 500


def test_the_same_bytes(upstream: clients.Clients, tmp_path: Path) -> None:
    """What we decode they encode; what they have decoded we encode."""
    some = [(kind, images_of(kind, number)) for kind in THEIRS for number in range(2) if kind.stem not in NOT_WRITTEN]
    some = [(kind, data) for kind, data in some if not kind.head and kind.stem != "inventory"]  # see `renamed`
    ours = [("encode", "x", decoded.load(data, kind.stem)) for kind, data in some]
    for (kind, data), said in zip(some, ask(upstream, tmp_path, ours), strict=True):
        assert said is not None, kind.stem
        assert base64.b64decode(said) == data, kind.stem
    theirs = ask(upstream, tmp_path, [("decode", "x", base64.b64encode(data).decode()) for _, data in some])
    for (kind, data), said in zip(some, theirs, strict=True):
        assert decoded.dump(json.loads(said), kind.stem) == data, kind.stem


def test_a_pagemap_in_the_words_of_older_versions() -> None:
    image = {"magic": "PAGEMAP", "entries": [{"pages_id": 1}, {"vaddr": 4096, "nr_pages": 2, "flags": "PE_PRESENT"}]}
    data = decoded.dump(image, "x")
    _, (entry, _, _) = framing.entries(magics.kind_of(data, "x"), data, "x")
    assert (entry.compat_nr_pages, entry.HasField("nr_pages"), entry.flags) == (2, False, 4)  # type: ignore[attr-defined]


@pytest.mark.parametrize("what", ["ps", "fds", "mems", "rss"])
def test_the_same_views(
    upstream: clients.Clients, tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "look.py"
    script.write_text("from crit.__main__ import main\nmain()\n")
    theirs = subprocess.run(
        [*upstream.python(script), "x", str(SAMPLES[0].parent), what], env=upstream.environment(), cwd=tmp_path,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "No module named 'crit'" in theirs.stderr:
        pytest.skip("Debian's package of the bindings has no crit")
    assert cli.main(["x", str(SAMPLES[0].parent), what]) == 0
    assert capsys.readouterr().out == theirs.stdout != ""
