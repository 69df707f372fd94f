# SPDX-License-Identifier: GPL-2.0-only
"""criu_opts: every field is an option of the command line, or is dealt with by name; none falls through."""

from __future__ import annotations

import pytest

from pycriu.command import arguments
from pycriu.errors import UserError
from pycriu.images import messages as m
from pycriu.service import fields


def words(opts: m.criu_opts, *, swrk: bool = True) -> list[str]:
    return [word for _, some in fields.words(opts, swrk=swrk) for word in some]


def test_every_field_is_dealt_with() -> None:
    assert {field.name for field in m.criu_opts.DESCRIPTOR.fields} == fields.known()


def test_every_option_exists() -> None:
    """An option that is renamed would turn into an unknown one, which is a poor refusal."""
    for option in (*fields._SWITCHES.values(), *fields._VALUES.values()):
        assert option in arguments.LONG


def full() -> m.criu_opts:
    """A message with every field, each with a value that a client would send."""
    opts = m.criu_opts(images_dir_fd=3, unix_sk_ino=[m.unix_sk(inode=5)], cg_root=[m.cgroup_root(path="/p")])
    opts.ps.port = 9
    opts.veths.add(if_in="eth0", if_out="veth0")
    opts.ext_mnt.add(key="/a", val="b")
    opts.inherit_fd.add(key="pipe:[1]", fd=7)
    opts.join_ns.add(ns="net", ns_file="/n", extra_opt="x")
    for field in m.criu_opts.DESCRIPTOR.fields:
        if field.message_type is not None:
            continue
        if field.is_repeated:
            getattr(opts, field.name).append("word")
        elif not opts.HasField(field.name):
            value: object = "word" if field.type == field.TYPE_STRING else field.type == field.TYPE_BOOL or 1
            setattr(opts, field.name, value)
    opts.empty_ns = 0x40000000
    opts.orphan_pts_master = False
    opts.ClearField("status_fd")
    opts.display_stats = False
    return opts


def test_each_field_gives_words_that_the_command_line_knows() -> None:
    told = {field for field, _ in fields.words(full(), swrk=True)}
    assert told | set(fields.ELSEWHERE) | {"status_fd"} == fields.known()
    for word in words(full()):
        name = word.removeprefix("--").partition("=")[0]
        assert name in arguments.LONG, word
        assert ("=" in word) != (arguments.LONG[name].kind == arguments.FLAG) or name == "ext-unix-sk", word


@pytest.mark.parametrize(
    ("opts", "expected"),
    [
        (m.criu_opts(shell_job=True), ["--shell-job"]),
        (m.criu_opts(shell_job=False), ["--no-shell-job"]),
        (m.criu_opts(leave_running=False), []),
        (m.criu_opts(ext_unix_sk=True), ["--ext-unix-sk"]),
        (m.criu_opts(ext_unix_sk=False, unix_sk_ino=[m.unix_sk(inode=5)]), []),
        (
            m.criu_opts(ext_unix_sk=True, unix_sk_ino=[m.unix_sk(inode=5), m.unix_sk(inode=6)]),
            ["--ext-unix-sk=5,6"],
        ),
        (m.criu_opts(network_lock=3), ["--network-lock=skip"]),
        (m.criu_opts(manage_cgroups=True), ["--manage-cgroups=soft"]),
        (m.criu_opts(manage_cgroups=True, manage_cgroups_mode=5), ["--manage-cgroups=strict"]),
        (m.criu_opts(cpu_cap=0xFFFFFFFF), ["--cpu-cap=all"]),
        (m.criu_opts(cpu_cap=3), ["--cpu-cap=fpu,cpu"]),
        (m.criu_opts(external=["mnt[/a]:b", "tty[1:2]"]), ["--external=mnt[/a]:b", "--external=tty[1:2]"]),
        (m.criu_opts(auto_ext_mnt=True), ["--ext-mount-map=auto"]),
        (m.criu_opts(pre_dump_mode=2), ["--pre-dump-mode=read"]),
    ],
)
def test_a_field_means_what_the_option_means(opts: m.criu_opts, expected: list[str]) -> None:
    assert words(opts) == expected


def test_what_belongs_to_the_client_is_not_for_a_service() -> None:
    opts = m.criu_opts(rst_sibling=True)
    assert words(opts) == ["--restore-sibling"]
    with pytest.raises(UserError, match="rst_sibling"):
        words(opts, swrk=False)


@pytest.mark.parametrize(
    "opts",
    [
        m.criu_opts(empty_ns=0x20000000),
        m.criu_opts(orphan_pts_master=True),
        m.criu_opts(status_fd=3),
        m.criu_opts(display_stats=True),
    ],
)
def test_what_no_option_has_is_refused_by_its_name(opts: m.criu_opts) -> None:
    name = opts.ListFields()[0][0].name
    with pytest.raises(UserError, match=name):
        words(opts)


def test_what_anybody_may_ask_for_are_fields() -> None:
    assert set(fields.FOR_ANYBODY) <= fields.known()
