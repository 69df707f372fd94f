# SPDX-License-Identifier: GPL-2.0-only
"""What README.md claims, held against the tree: the status table, the commands, the links."""

from __future__ import annotations

import re
from pathlib import Path

from layer import machine
from pycriu import arguments

TOP = Path(__file__).resolve().parent.parent.parent
README = (TOP / "README.md").read_text()


def status_rows() -> list[list[str]]:
    """The cells of the status table."""
    table = README.split("## What is saved and brought back")[1].split("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_row_names_a_victim_and_every_victim_has_a_row() -> None:
    named = {row[-1].strip("`") for row in status_rows()}
    victims = {path.stem for path in (TOP / "tests/victims").glob("*.py")} - {"victim"}
    assert named == victims


def test_a_row_claims_only_machines_that_exist() -> None:
    header = next(line for line in README.splitlines() if line.startswith("| resource |"))
    columns = [cell.strip() for cell in header.strip("|").split("|")]
    assert set(machine.names()) <= set(columns)
    for row in status_rows():
        assert len(row) == len(columns), row
        assert set(row[1:5]) <= {"yes", "no"}, row


def test_commands_exist() -> None:
    makefile = (TOP / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for action in re.findall(r"^# pycriu (\w+)", README, re.MULTILINE):
        assert action in arguments.ACTIONS, action


def test_links_lead_somewhere() -> None:
    for text in (README, (TOP / "HACKING.md").read_text()):
        for link in re.findall(r"\]\(([^)#]+)\)", text):
            assert (TOP / link).exists(), link
