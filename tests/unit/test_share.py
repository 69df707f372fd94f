# SPDX-License-Identifier: GPL-2.0-only
"""The man page and the completions: up to date, read by the programs that they are for, and true."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pycriu.blcr import options as blcr
from pycriu.command import arguments

TOP = Path(__file__).parents[2]
PAGE = TOP / "share/man/man1/pycriu.1"
COMPLETION = TOP / "share/bash-completion/completions/pycriu"


def test_all_are_up_to_date() -> None:
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


@pytest.mark.parametrize("command", blcr.COMMANDS, ids=lambda one: one.name)
def test_the_pages_of_blcr_have_every_option(command: blcr.Command) -> None:
    text = (PAGE.parent / f"{command.name}.1").read_text().replace("\\-", "-")
    for option in command.options:
        assert f"--{option.long}" in text
        assert f"-{option.short}" in text
        assert option.help[1:] in text or option.help == "the same"


@pytest.mark.parametrize("name", ["pycriu", *(one.name for one in blcr.COMMANDS)])
def test_troff_has_nothing_to_complain_of(name: str) -> None:
    groff = shutil.which("groff")
    if groff is None:
        pytest.skip("no groff on this machine: apt-get install groff-base")
    page = PAGE.parent / f"{name}.1"
    done = subprocess.run([groff, "-man", "-Tutf8", "-ww", str(page)], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert "--version" in re.sub(".\b", "", done.stdout)  # bold is a letter over itself


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


FISH = TOP / "share/fish/vendor_completions.d/pycriu.fish"
ZSH = TOP / "share/zsh/site-functions/_pycriu"


def offered(name: str) -> set[str]:
    """The long options of an action, as they are typed."""
    mine = [option for option in arguments.OPTIONS if name in option.actions and option.help]
    return {f"--{one.long}" for one in mine} | {f"--no-{one.long}" for one in mine if one.negatable}


@pytest.mark.parametrize("name", arguments.ACTIONS)
def test_fish_and_zsh_have_all_options_of_an_action(name: str) -> None:
    lines = re.findall(
        r"^complete -c pycriu(?: -n '__pycriu_action ([^']*)')?.* -l (\S+)", FISH.read_text(), re.MULTILINE
    )
    assert {f"--{long}" for actions, long in lines if not actions or name in actions.split()} == offered(name)
    case = ZSH.read_text().split(f"\n        {name})\n")[1].split(";;")[0]
    assert set(re.findall(r"^ +'(?:\*|\([^)]*\))?(--[a-z-]+?)=?-?\[", case, re.MULTILINE)) == offered(name)


def test_fish_offers_what_fits(tmp_path: Path) -> None:
    fish = shutil.which("fish")
    if fish is None:
        pytest.skip("no fish on this machine: apt-get install fish")
    (tmp_path / "images").mkdir()

    def complete(line: str) -> list[str]:
        script = f"source {FISH}; complete -C '{line}'"
        done = subprocess.run(
            [fish, "--no-config", "-c", script],
            capture_output=True, text=True, check=True, cwd=tmp_path, env=os.environ | {"HOME": str(tmp_path)},
        )  # fmt: skip
        return [found.split("\t")[0] for found in done.stdout.splitlines()]

    assert complete("pycriu du") == ["dump"]
    assert set(complete("pycriu ")) == set(arguments.ACTIONS)
    assert complete("pycriu dump --leave-r") == ["--leave-running"]
    assert complete("pycriu restore --leave-r") == []
    assert complete("pycriu -t 5 dump --no-shell") == ["--no-shell-job"]
    assert set(complete("pycriu dump --network-lock ")) == {"nftables", "skip", "none"}
    assert complete("pycriu dump --network-lock=s") == ["--network-lock=skip"]
    assert complete("pycriu dump -D im") == ["images/"]
    assert complete("pycriu cpuinfo d") == ["dump"]


def test_zsh_offers_what_fits() -> None:
    """What the function hands to _arguments, which knows the rest."""
    zsh = shutil.which("zsh")
    if zsh is None:
        pytest.skip("no zsh on this machine: apt-get install zsh")

    def handed(*words: str) -> list[str]:
        script = (
            f"_arguments() {{ print -rl -- $@ }}; _describe() {{ print -rl -- ${{(P)2}} }}; "
            f"words=({' '.join(words)} ''); CURRENT=$#words; source {ZSH}"
        )
        done = subprocess.run([zsh, "-f", "-c", script], capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return done.stdout.splitlines()

    dump = handed("pycriu", "-t", "5", "dump")
    assert "(-R --leave-running)--leave-running[let the tasks run on after the dump]" in dump
    assert (
        "(--network-lock)--network-lock=[how packets are held\\: nftables (default), skip]:HOW:(nftables skip none)"
        in dump
    )
    assert not [word for word in handed("pycriu", "restore") if "--leave-running" in word]
    assert "2: :(dump check)" in handed("pycriu", "cpuinfo")
    assert [
        word for word in handed("pycriu") if word.startswith("(") and "--help" not in word and "--version" not in word
    ] == []


def test_zsh_accepts_all_specifications() -> None:
    """Each is one that _arguments understands, by its own rules: a name, an explanation, and what comes behind it."""
    specification = re.compile(r"(\*|\([^)]*\))?--?[A-Za-z-]+[=+-]*\[([^][:\\]|\\.)*\](::?([^:\\]|\\.)*:.+)?|\d: :.+")
    for line in re.findall(r"^ {16}'(.*)'(?: \\)?$", ZSH.read_text(), re.MULTILINE):
        assert specification.fullmatch(line), line
