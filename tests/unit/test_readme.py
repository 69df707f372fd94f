# SPDX-License-Identifier: GPL-2.0-only
"""What README.md claims, held against the tree: the status table, the commands, the links."""

from __future__ import annotations

import re
from pathlib import Path

from layer import machine
from pycriu.command import arguments
from tests import manifest

TOP = Path(__file__).resolve().parent.parent.parent
README = (TOP / "README.md").read_text()


def test_status_table_is_that_of_the_victims() -> None:
    assert manifest.updated(README) == README, "python3 -m tests.manifest --write"


def test_victims_name_only_machines_that_exist() -> None:
    assert set(manifest.MACHINES) == set(machine.names())
    for entry in manifest.entries():
        assert set(entry.lacking) < set(manifest.MACHINES), entry
        assert entry.kept, entry


def test_commands_exist() -> None:
    makefile = (TOP / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for action in re.findall(r"^# pycriu ([\w-]+)", README, re.MULTILINE):
        assert action in arguments.ACTIONS, action


def test_links_lead_somewhere() -> None:
    for text in (README, (TOP / "HACKING.md").read_text()):
        for link in re.findall(r"\]\(([^)#]+)\)", text):
            assert (TOP / link).exists(), link
