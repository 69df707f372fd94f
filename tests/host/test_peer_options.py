# SPDX-License-Identifier: GPL-2.0-only
"""The same words on the command line do the same in CRIU and here."""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.host.conftest import alive, clean_up, reap, wait_until
from tests.host.test_peer import criu  # noqa: F401  # a fixture

if TYPE_CHECKING:
    from pathlib import Path

    from tests.host.conftest import Host, Subject

# At post-resume CRIU has closed the directory whose descriptor it names.
SCRIPT = """#!/bin/sh
[ "$CRTOOLS_SCRIPT_ACTION" != post-resume ] || CRTOOLS_IMAGE_DIR=/dev
echo "$CRTOOLS_SCRIPT_ACTION|${CRTOOLS_INIT_PID:+pid}|$(pwd)|$(ls $CRTOOLS_IMAGE_DIR/ | grep -c inventory)|NAME" >>TOLD
[ "$CRTOOLS_SCRIPT_ACTION" != "$FAIL_AT" ]
"""


class Tool:
    """CRIU or pycriu, by the same words."""

    def __init__(self, command: list[str], host: Host) -> None:
        self.command, self.host = command, host

    def run(self, *words: str, **more: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command, *words], cwd=self.host.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False, timeout=60, **more,
        )  # type: ignore[call-overload,no-any-return]  # fmt: skip

    def dump(self, subject: Subject, *words: str, **more: object) -> subprocess.CompletedProcess[str]:
        done = self.run("dump", "-t", str(subject.pid), "-D", str(self.host.images), *words, **more)
        if not alive(subject.pid):
            reap(subject.pid)
        return done


@pytest.fixture
def tools(host: Host, criu: tuple[str, ...]) -> dict[str, Tool]:  # noqa: F811
    return {"criu": Tool(list(criu), host), "pycriu": Tool(host.command(), host)}


def fresh(host: Host) -> Subject:
    """A process to save; all that were there before are gone."""
    clean_up()
    for path in host.images.iterdir():
        path.unlink()
    return host.python("pause_for_dump()")


def script(host: Host, name: str) -> tuple[str, Path]:
    """A script that tells its name, and where it is told."""
    path, told = host.folder / f"{name}.sh", host.folder / "told"
    path.write_text(SCRIPT.replace("NAME", name).replace("TOLD", str(told)))
    path.chmod(0o700)
    return str(path), told


def test_action_scripts_are_told_the_same(host: Host, tools: dict[str, Tool]) -> None:
    (first, told), (second, _) = script(host, "first"), script(host, "second")
    words = ("--action-script", first, "--action-script", second)
    heard = {}
    for name, tool in tools.items():
        subject = fresh(host)
        assert tool.dump(subject, *words).returncode == 0
        assert tool.run("restore", "-d", "-D", str(host.images), *words).returncode == 0
        heard[name] = told.read_text().splitlines()
        told.unlink()
    assert heard["pycriu"] == heard["criu"]


@pytest.mark.parametrize("stage", ["pre-dump", "post-dump", "pre-restore", "post-restore", "pre-resume", "post-resume"])
def test_a_script_that_fails_has_the_same_consequences(host: Host, tools: dict[str, Tool], stage: str) -> None:
    program, told = script(host, "only")
    environment = os.environ | {"FAIL_AT": stage}
    ends: dict[str, list[object]] = {}
    for name in ("pycriu", "criu"):
        subject, tool = fresh(host), tools[name]
        dumped = tool.dump(subject, "--action-script", program, env=environment)
        end: list[object] = [dumped.returncode == 0, alive(subject.pid)]
        if dumped.returncode == 0:
            done = tool.run("restore", "-d", "-D", str(host.images), "--action-script", program, env=environment)
            if name == "criu" and ends["pycriu"][-2] is False:
                with suppress(AssertionError):  # CRIU kills whom it has restored, and does not wait for the end
                    wait_until(lambda pid=subject.pid: not alive(pid), "its end")  # type: ignore[misc]
            end += [done.returncode, alive(subject.pid)]
        ends[name] = [*end, told.read_text()]
        told.unlink()
    assert ends["pycriu"] == ends["criu"]


def test_configuration_files_are_read_the_same(host: Host, tools: dict[str, Tool]) -> None:
    config = host.folder / "config"
    config.write_text('# a comment\n\nverbosity 4\nlog-file "the log"\n  leave-running # yes\n')
    environment = os.environ | {"HOME": str(host.folder)}
    for tool in tools.values():
        subject = fresh(host)
        assert tool.dump(subject, "--config", str(config), env=environment).returncode == 0
        log = (host.images / "the log").read_text()
        assert re.search(r"^\(\d\d\.\d{6}\) Dumping finished successfully$", log, re.MULTILINE)
        assert alive(subject.pid)
        config.write_text("nonsense\n")
        assert tool.dump(subject, "--config", str(config), env=environment).returncode != 0
        config.write_text('verbosity 4\nlog-file "the log"\nleave-running\n')


def test_pid_files_and_statistics_are_the_same(host: Host, tools: dict[str, Tool]) -> None:
    said = {}
    for name, tool in tools.items():
        subject = fresh(host)
        dumped = tool.dump(subject, "--display-stats")
        pidfile = host.folder / f"{name}.pid"
        restored = tool.run("restore", "-d", "-D", str(host.images), "--pidfile", str(pidfile), "--display-stats")
        assert (dumped.returncode, restored.returncode) == (0, 0)
        assert pidfile.read_bytes() == str(subject.pid).encode()
        assert pidfile.stat().st_mode & 0o777 == 0o600
        text = re.sub(r"\d+", "N", dumped.stdout + restored.stdout)
        said[name] = re.sub(r"xN?[0-9a-fN]*\)", "xN)", text).splitlines()
        assert sorted(path.name for path in host.images.glob("stats-*")) == ["stats-dump", "stats-restore"]
    assert said["pycriu"] == said["criu"]


def test_criu_gives_an_inherited_pipe_to_what_we_have_saved(host: Host, tools: dict[str, Tool]) -> None:
    reader, writer = os.pipe()
    subject = host.python(f"pause_for_dump()\nos.write({writer}, b'back')", pass_fds=(writer,))
    name = f"pipe:[{os.fstat(writer).st_ino}]"
    assert tools["pycriu"].dump(subject, "--external", name.replace(":", "")).returncode == 0
    os.close(reader)
    os.close(writer)
    reader, writer = os.pipe()
    words = ("restore", "-d", "-D", str(host.images), "--inherit-fd", f"fd[{writer}]:{name}")
    done = tools["criu"].run(*words, pass_fds=(writer,))
    assert done.returncode == 0, done.stderr
    os.close(writer)
    (host.folder / "go").touch()
    assert os.read(reader, 100) == b"back"
    os.close(reader)
    wait_until(lambda: not alive(subject.pid), "it ends")


@pytest.mark.parametrize(
    "words",
    [
        ["restore", "--restore-sibling"], ["restore", "-d", "--exec-cmd", "--", "true"], ["restore", "--exec-cmd"],
        ["dump"], ["dump", "-t", "0"], ["dump", "-t", "1", "extra"], ["dump", "--nonsense"], ["jump"], [],
        ["check", "--feature", "cheese"], ["cpuinfo"], ["restore", "-D", "none"],
    ],
)  # fmt: skip
def test_what_is_wrong_is_so_for_both(tools: dict[str, Tool], words: list[str]) -> None:
    assert [tool.run(*words).returncode for tool in tools.values()] == [1, 1]


@pytest.mark.parametrize("words", [["-h"], ["-V"], ["check", "--feature", "kcmp_epoll"]])
def test_what_is_right_is_so_for_both(tools: dict[str, Tool], words: list[str]) -> None:
    assert [tool.run(*words).returncode for tool in tools.values()] == [0, 0]
