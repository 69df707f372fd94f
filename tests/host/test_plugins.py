# SPDX-License-Identifier: GPL-2.0-only
"""Plugins of --libdir: when they are asked, what they keep, and what is refused without them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.host.conftest import Host, Subject

# Takes care of /dev/loop-control, which pycriu refuses, and writes down when it is asked for what.
PLUGIN = """
import os
from pycriu.errors import UserError
from pycriu.plugins.interface import Plugin

class Loops(Plugin):
    NAME = "loops"
    def note(self, *words):
        with open("{folder}/asked", "a") as file:
            print(*words, file=file)
    def handle_fd(self, file):
        return file.link == "/dev/loop-control"
    def handle_vma(self, pid, mapping):
        return mapping.name == "{folder}/window"
    def pause(self, pids, seconds):
        self.note("pause", len(pids), seconds)
    def after_freeze(self, tree):
        self.note("after_freeze", len(tree.root.walk()))
        if os.path.exists("{folder}/object"):
            raise UserError("the plugin objects")
    def save_fd(self, file):
        self.note("save_fd")
        return b"flags %d" % file.flags
    def before_write(self):
        self.note("before_write")
        return b"a note"
    def resume(self, tasks, tree=None):
        self.note("resume", len(tasks), tree is None)
    def thawed(self):
        self.note("thawed")
    def after_resume(self):
        self.note("after_resume")
    def on_failure(self):
        self.note("on_failure")
    def ended(self):
        self.note("ended")
    def check(self, note):
        self.note("check", note)
    def restore_fd(self, data):
        self.note("restore_fd", data)
        return os.open("/dev/loop-control", int(data.split()[1]) | os.O_CLOEXEC)

PLUGIN = Loops
"""

BODY = """
import os
try:
    fd = os.open("/dev/loop-control", os.O_RDWR | os.O_NONBLOCK)
except OSError as error:
    lacks("/dev/loop-control", error)
pause_for_dump()
flags = fcntl.fcntl(fd, fcntl.F_GETFL)
say(os.readlink(f"/proc/self/fd/{fd}"), bool(flags & os.O_NONBLOCK), flags & os.O_ACCMODE)
"""
KEPT = ["/dev/loop-control True 2"]


@pytest.fixture
def libdir(host: Host) -> Path:
    """A directory with the plugin, and with what is none."""
    folder = host.folder / "plugins"
    folder.mkdir()
    (folder / "loops.py").write_text(PLUGIN.format(folder=host.folder))
    (folder / "cuda_plugin.so").touch()
    return folder


def asked(host: Host) -> list[str]:
    """When the plugin was asked for what, since the last time."""
    file = host.folder / "asked"
    lines = file.read_text().splitlines() if file.exists() else []
    file.unlink(missing_ok=True)
    return lines


def start(host: Host) -> Subject:
    """A program that pycriu alone refuses."""
    return host.python(BODY)


def test_round_trip(host: Host, libdir: Path) -> None:
    subject = start(host)
    dumped = host.dump(subject, "-L", str(libdir))
    assert dumped.ok, dumped
    assert "cuda_plugin.so are plugins for criu" in dumped.log
    assert asked(host) == ["pause 1 10", "after_freeze 1", "save_fd", "before_write", "ended", "after_resume"]
    restored = host.restore("--libdir", str(libdir))
    assert restored.ok, restored
    assert asked(host) == ["check b'a note'", "restore_fd b'flags 34818'", "resume 1 True", "after_resume"]
    assert subject.go() == KEPT


def test_a_mapping_of_a_plugin_goes_into_no_image(host: Host, libdir: Path) -> None:
    (host.folder / "window").write_bytes(bytes(4096))
    body = 'window = mmap.mmap(os.open("window", os.O_RDWR), 4096)\npause_for_dump()\nsay("ok")'
    subject = host.python(body)
    assert "window" in subject.proc("maps")
    assert host.dump(subject, "-L", str(libdir)).ok
    assert host.restore("-L", str(libdir)).ok
    assert "window" not in subject.proc("maps")
    assert subject.go() == ["ok"]


def test_left_running_and_left_stopped(host: Host, libdir: Path) -> None:
    subject = start(host)
    assert host.dump(subject, "-L", str(libdir), "-R").ok
    assert asked(host)[-3:] == ["thawed", "before_write", "after_resume"]
    assert host.dump(subject, "-L", str(libdir), "-s").ok
    assert asked(host)[-3:] == ["before_write", "resume 1 False", "after_resume"]
    subject.process.send_signal(18)
    assert subject.go() == KEPT


def test_refused_without_it(host: Host, libdir: Path) -> None:
    subject = start(host)
    host.refused(subject, "/dev/loop-control", "cannot be saved")
    assert host.dump(subject, "-L", str(libdir)).ok
    asked(host)
    outcome = host.restore()
    assert not outcome.ok
    assert "these images were made with the plugin loops, and cannot be restored without it" in outcome.errors()
    assert asked(host) == []


def test_what_it_objects_to_is_undone(host: Host, libdir: Path) -> None:
    subject = start(host)
    (host.folder / "object").touch()
    host.refused(subject, "the plugin objects", options=("-L", str(libdir)))
    assert asked(host) == ["pause 1 10", "after_freeze 1", "on_failure"]
    assert subject.go() == KEPT


FAULTY = """
from pycriu.plugins.interface import Plugin
class Faulty(Plugin):
    NAME = "faulty"
    def %s(self, *_):
        raise ValueError("no such thing")
    def on_failure(self):
        raise KeyError("nor this")
PLUGIN = Faulty
"""


@pytest.mark.parametrize("when", ["pause", "after_freeze", "before_write", "handle_fd"])
def test_what_a_plugin_of_somebodys_raises(host: Host, libdir: Path, when: str) -> None:
    """It is named, not taken for a fault of ours; all others hear of the end."""
    (libdir / "faulty.py").write_text(FAULTY % when)
    subject = start(host)
    host.refused(subject, f"the plugin faulty: {when}: ValueError: no such thing", options=("-L", str(libdir)))
    assert when == "handle_fd" or asked(host)[-1] == "on_failure"
    assert subject.go() == KEPT


@pytest.mark.parametrize(("content", "said"), [("x = (", "SyntaxError"), ("import no_such_module", "ModuleNotFound")])
def test_a_plugin_that_cannot_be_loaded(host: Host, libdir: Path, content: str, said: str) -> None:
    (libdir / "broken.py").write_text(content)
    subject = start(host)
    host.refused(subject, f"{libdir}/broken.py: cannot be loaded: {said}", options=("-L", str(libdir)))
    assert subject.go() == KEPT


def test_what_an_editor_has_left_there(host: Host, libdir: Path) -> None:
    (libdir / ".#loops.py").symlink_to("somebody@somewhere.812")
    subject = start(host)
    assert host.dump(subject, "-L", str(libdir), "-R").ok
    (libdir / "away.py").symlink_to("nowhere")
    host.images = host.folder / "others"
    host.images.mkdir()
    host.refused(subject, f"{libdir}/away.py cannot be loaded: No such file", options=("-L", str(libdir)))
    assert subject.go() == KEPT


@pytest.mark.parametrize(("content", "needle"), [("x = 1", "has no PLUGIN"), (None, "may be written to by others")])
def test_what_is_no_plugin(host: Host, libdir: Path, content: str | None, needle: str) -> None:
    other = libdir / "other.py"
    other.write_text(content or "PLUGIN = None")
    if content is None:
        other.chmod(0o666)
    subject = start(host)
    host.refused(subject, needle, options=("-L", str(libdir)))
    host.refused(subject, "no-such-directory", options=("-L", "no-such-directory"))
    assert subject.go() == KEPT
