# SPDX-License-Identifier: GPL-2.0-only
"""Words on a command line and what they mean, as for CRIU."""

from __future__ import annotations

import re

import pytest

from pycriu.command import arguments
from pycriu.command.usage import usage
from pycriu.errors import UserError


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ("-t 12 -D dir", {"tree": "12", "images-dir": "dir"}),
        ("-t12 -Ddir", {"tree": "12", "images-dir": "dir"}),
        ("--tree=12 --images-dir dir", {"tree": "12", "images-dir": "dir"}),
        ("--tre 12 --im=dir", {"tree": "12", "images-dir": "dir"}),
        ("-jRt 12", {"shell-job": True, "leave-running": True, "tree": "12"}),
        ("-jRt12", {"shell-job": True, "leave-running": True, "tree": "12"}),
        ("-o -", {"log-file": "-"}),
        ("-o-", {"log-file": "-"}),
        ("-v", {"verbosity": 3}),
        ("-vv", {"verbosity": 4}),
        ("-vvvv", {"verbosity": 6}),
        ("-v -v", {"verbosity": 4}),
        ("-v4", {"verbosity": 4}),
        ("-v1 -v", {"verbosity": 2}),
        ("--verbosity", {"verbosity": 3}),
        ("--verbosity=0", {"verbosity": 0}),
        ("-d", {"restore-detached": True}),
        ("--daemon", {"restore-detached": True}),
        ("--daemon --no-restore-detached", {"restore-detached": False}),
        ("--no-shell-job", {"shell-job": False}),
        ("-j --no-shell", {"shell-job": False}),
        ("--no-stream", {}),  # asks for what is so anyway
        ("--pidfile p --timeout 3", {"pidfile": "p", "timeout": "3"}),
        ("--images-dir=", {"images-dir": ""}),
        ("-D -t", {"images-dir": "-t"}),
        ("", {}),
    ],
)
def test_options(words: str, values: dict[str, object]) -> None:
    assert arguments.parse(words.split()) == (values, [])


def test_options_and_words_in_any_order() -> None:
    assert arguments.parse(["-j", "dump", "-t", "1", "-"]) == ({"shell-job": True, "tree": "1"}, ["dump", "-"])
    assert arguments.parse(["restore", "--", "-j", "x"]) == ({}, ["restore", "-j", "x"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--nonsense", "unknown option --nonsense"),
        ("-q", "unknown option -q"),
        ("-jq", "unknown option -q"),
        ("--t", "--t could be --tree or --timeout or"),
        ("-t", "-t needs a value"),
        ("--tree", "--tree needs a value"),
        ("--shell-job=1", "--shell-job takes no value"),
        ("--no-tree", "unknown option --no-tree"),
        ("-vx", "--verbosity x: not a number"),
        ("--verbosity=²", "--verbosity ²: not a number"),
        ("--stream", "--stream is not supported by pycriu"),
        ("--lazy", "--lazy-pages is not supported by pycriu"),
        ("-M x", "--ext-mount-map is not supported by pycriu"),
        ("-r /new", "--root is not supported by pycriu"),
        ("--freeze-cgroup x", "--freeze-cgroup is not supported by pycriu"),
        ("--", None),
    ],
)
def test_refusals(words: str, said: str | None) -> None:
    if said is None:
        assert arguments.parse(words.split()) == ({}, [])
        return
    with pytest.raises(UserError) as caught:
        arguments.parse(words.split())
    assert caught.value.message.startswith(said)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("digits", [10, 400, 5000])
def test_numbers_that_are_too_large(digits: int) -> None:
    """Python refuses to read those of more than 4300 digits, and no clock has room for 400."""
    with pytest.raises(UserError) as caught:
        arguments.number({"wait-pid": "9" * digits}, "wait-pid")
    assert caught.value.message == "--wait-pid 999999999...: too large a number"
    assert arguments.number({"wait-pid": "9" * 9}, "wait-pid") == 999999999
    if digits > 18:
        with pytest.raises(UserError):
            arguments.size({"ghost-limit": "9" * digits + "K"}, "ghost-limit", 0)


def test_a_value_behind_a_short_option_does_not_begin_with_a_blank() -> None:
    """In one word: `-D DIR` in quotes is a slip, or an attempt to get past sudo."""
    with pytest.raises(UserError) as caught:
        arguments.parse(["restore", "-D /checkpoint"])
    assert caught.value.message == "-D /checkpoint: a blank in front of the value"
    assert arguments.parse(["-D", " of mine", "--images-dir= x"])[0] == {"images-dir": " x"}


# Every option of CRIU 4.2, so that none is unknown here.
CRIU_SHORT = "dSsRthDovxVrjJlWLM"
CRIU_LONG = """
tree images-dir work-dir log-file verbosity restore-detached daemon shell-job leave-running leave-stopped track-mem
prev-images-dir pidfile timeout display-stats config no-default-config tcp-established file-locks ext-unix-sk external
inherit-fd link-remap ghost-limit action-script manage-cgroups root restore-sibling exec-cmd cpu-cap evasive-devices
tcp-close skip-in-flight network-lock empty-ns join-ns ext-mount-map enable-external-sharing enable-external-masters
skip-mnt enable-fs cgroup-root cgroup-props cgroup-props-file cgroup-dump-controller cgroup-yard freeze-cgroup
lsm-profile lsm-mount-context force-irmap irmap-scan-path file-validation skip-file-rwx-check page-server address port
ps-socket auto-dedup lazy-pages pre-dump-mode status-fd feature extra experimental all log-pid libdir weak-sysctls
unprivileged mntns-compat-mode veth-pair stream tls tls-cacert tls-cacrl tls-cert tls-key tls-no-cn-verify ghost-fiemap
allow-uprobes close deprecated ms help version
"""


def test_every_option_of_criu_is_known() -> None:
    assert set(CRIU_LONG.split()) <= set(arguments.LONG)
    assert set(CRIU_SHORT) == set(arguments.SHORT)
    assert len(arguments.LONG) == len(arguments.OPTIONS)


def test_help_names_every_option_once() -> None:
    text = usage()
    names = re.findall(r"^  (?:-., |    )--(?:\[no-\])?([a-z-]+)", text, re.MULTILINE)
    for option in arguments.OPTIONS:
        if option.help:
            assert names.count(option.long) == 1, option.long
        else:
            assert re.search(rf"\s{option.long}[,.]", text), option.long
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("name", arguments.ACTIONS)
def test_help_of_an_action_names_its_options_and_no_other(name: str) -> None:
    text = usage(arguments.ACTIONS[name])
    assert text.startswith(f"usage: pycriu {name}")
    names = re.findall(r"^  (?:-., |    )--(?:\[no-\])?([a-z-]+)", text, re.MULTILINE)
    assert names == [one.long for one in arguments.OPTIONS if name in one.actions and one.help]
    assert max(map(len, text.splitlines())) <= 100


def test_options_without_meaning() -> None:
    assert arguments.without_meaning("restore", {"tree": "1", "images-dir": "x"}) == ["--tree"]
    assert arguments.without_meaning("check", {"shell-job": True, "feature": "kcmp"}) == ["--shell-job"]


@pytest.mark.parametrize("given", ["0", "-1", "x", "", "1.5", "²"])
def test_numbers(given: str) -> None:
    assert arguments.number({"tree": "12"}, "tree") == 12
    assert arguments.number({}, "timeout", 10) == 10
    with pytest.raises(UserError, match="--tree"):
        arguments.number({"tree": given}, "tree")
    with pytest.raises(UserError, match="--tree is missing"):
        arguments.number({}, "tree")


@pytest.mark.parametrize(
    ("text", "size"), [("5", 5), ("2K", 2048), ("3M", 3 << 20), ("1G", 1 << 30), (1 << 20, 1 << 20)]
)
def test_sizes(text: str | int, size: int) -> None:
    assert arguments.size({"ghost-limit": text}, "ghost-limit", 7) == size
    assert arguments.size({}, "ghost-limit", 7) == 7


@pytest.mark.parametrize("text", ["", "K", "1KK", "1k", "-1", "²", "1.5M"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match="not a size"):
        arguments.size({"ghost-limit": text}, "ghost-limit", 7)


def test_choices() -> None:
    assert arguments.choice({}, "network-lock", "nftables", "skip") == "nftables"
    assert arguments.choice({"network-lock": "skip"}, "network-lock", "nftables", "skip") == "skip"
    with pytest.raises(UserError, match="not one of nftables, skip"):
        arguments.choice({"network-lock": "iptables"}, "network-lock", "nftables", "skip")


def test_what_is_refused_says_why_each_for_itself() -> None:
    """In one line, with a reason of its own; nothing is refused for no reason."""
    refused = [option for option in arguments.OPTIONS if not option.actions]
    assert all(option.reason for option in refused)
    for option in refused:
        value = [] if option.kind in (arguments.FLAG, arguments.OPTIONAL) else ["x"]
        with pytest.raises(UserError) as caught:
            arguments.parse([f"--{option.long}", *value])
        assert caught.value.message == f"--{option.long} is not supported by pycriu: {option.reason}"
        assert "\n" not in option.reason
    for action, reason in arguments.OTHER_ACTIONS.items():
        assert action not in arguments.ACTIONS
        assert reason
        assert "\n" not in reason


def test_what_has_no_effect_is_told_with_the_reason() -> None:
    needless = [option for option in arguments.OPTIONS if option.actions and option.reason]
    assert needless
    for option in needless:
        value = [] if option.kind == arguments.FLAG else ["x"]
        values, _ = arguments.parse([f"--{option.long}", *value])
        assert arguments.without_effect(values) == [f"--{option.long} has no effect: {option.reason}"]
    assert arguments.without_effect(arguments.parse(["--no-weak-sysctls", "-j"])[0]) == []


def test_options_that_can_be_given_several_times() -> None:
    values, _ = arguments.parse(["--action-script", "a", "--action-script=b", "--close", "5"])
    assert arguments.texts(values, "action-script") == ("a", "b")
    assert arguments.numbers(values, "close") == [5]
    assert arguments.texts(values, "external") == ()
    with pytest.raises(UserError, match="--close x: not the number of a descriptor"):
        arguments.numbers({"close": ("x",)}, "close")


def test_of_two_end_states_the_last_one_is_meant() -> None:
    assert arguments.parse(["-R", "-s"])[0] == {"leave-stopped": True}
    assert arguments.parse(["--leave-stopped", "--leave-running"])[0] == {"leave-running": True}
