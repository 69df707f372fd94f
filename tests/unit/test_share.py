# SPDX-License-Identifier: GPL-2.0-only
"""The man page and the completion: up to date, read by the programs that they are for, and true."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pycriu import arguments

TOP = Path(__file__).parents[2]
PAGE = TOP / "share/man/man1/pycriu.1"
COMPLETION = TOP / "share/bash-completion/completions/pycriu"


def test_both_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(TOP / "share/generate"), "--check"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_page_has_every_option_and_every_refusal() -> None:
    text = PAGE.read_text().replace("\\-", "-")
    for option in arguments.OPTIONS:
        assert f"--{option.long}" in text.replace("[no-]", ""), option.long
        assert option.help in text or option.help[1:] in text, option.long
        assert option.reason[1:] in text
    for reason in arguments.OTHER_ACTIONS.values():
        assert reason[1:] in text


def test_troff_has_nothing_to_complain_of() -> None:
    groff = shutil.which("groff")
    if groff is None:
        pytest.skip("no groff on this machine: apt-get install groff-base")
    done = subprocess.run([groff, "-man", "-Tutf8", "-ww", str(PAGE)], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert "tcp-established" in re.sub(".\b", "", done.stdout)  # bold is a letter over itself


def complete(line: str, cwd: Path) -> list[str]:
    """What bash offers behind `line`."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash on this machine")
    # as readline does: words end at blanks, and = is a word
    words = line.replace("=", " = ").split(" ")
    if "=" in line and not line.endswith("="):
        words = [word for word in words if word]
    quoted = " ".join(f"'{word}'" for word in words)
    script = (
        f"source '{COMPLETION}'; COMP_WORDS=({quoted}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); "
        "_pycriu; ((${#COMPREPLY[@]})) && printf '%s\\n' \"${COMPREPLY[@]}\"; true"
    )
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
    done = subprocess.run(
        [bash, "--norc", "-c", script], capture_output=True, text=True, check=True, cwd=cwd, env=environment
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_bash_offers_what_fits(tmp_path: Path) -> None:
    (tmp_path / "images one").mkdir()
    (tmp_path / "image.conf").write_text("")
    assert complete("pycriu du", tmp_path) == ["dump"]
    assert set(complete("pycriu ", tmp_path)) == set(arguments.ACTIONS)
    assert complete("pycriu dump --leave-r", tmp_path) == ["--leave-running"]
    assert complete("pycriu restore --leave-r", tmp_path) == []
    assert complete("pycriu -t 5 dump --no-shell", tmp_path) == ["--no-shell-job"]
    assert complete("pycriu dump --network-lock ", tmp_path) == ["nftables", "skip", "none"]
    assert complete("pycriu dump --network-lock=s", tmp_path) == ["skip"]
    assert complete("pycriu dump --manage-cgroups=", tmp_path) == ["none", "ignore"]
    assert complete("pycriu dump -D im", tmp_path) == ["images one"]
    assert sorted(complete("pycriu dump --config im", tmp_path)) == ["image.conf", "images one"]
    assert str(os.getpid()) in complete("pycriu dump -t ", tmp_path)
    assert complete("pycriu --ver", tmp_path) == ["--version"]
    assert complete("pycriu jump --le", tmp_path) == []


@pytest.mark.parametrize("name", arguments.ACTIONS)
def test_bash_offers_all_options_of_an_action(tmp_path: Path, name: str) -> None:
    mine = [option for option in arguments.OPTIONS if name in option.actions and option.help]
    spelled = {f"--{one.long}" + ("=" if one.kind == arguments.OPTIONAL else "") for one in mine}
    spelled |= {f"--no-{one.long}" for one in mine if one.negatable}
    assert set(complete(f"pycriu {name} --", tmp_path)) == spelled
