# SPDX-License-Identifier: GPL-2.0-only
"""Users other than root ask the service: for their own processes and files, and for what is not theirs."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pycriu import rpc
from pycriu.images import messages as m
from tests.host import rpc as shared
from tests.host.conftest import DEADLINE, traces
from tests.host.rpc import Service, request

service = shared.service

USER, OTHER = 4711, 4712

# A client with another user id: connects, sends what is on its standard input, and prints the answer in hexadecimal.
AS_USER = """
import os, socket, sys
os.setgroups([]); os.setresgid(*[{group}] * 3); os.setresuid(*[{user}] * 3)
images = os.open({images!r}, os.O_DIRECTORY) if {images!r} else -1
connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
connection.connect({path!r})
connection.send(bytes.fromhex({packet!r}).replace(b"\\x08\\x63", bytes([8, images])))
print(connection.recv(1 << 16).hex())
"""


def ask_as(service: Service, user: int, asked: m.criu_req, images: Path) -> m.criu_resp:
    """What a user is answered. `images` is opened by that user; 99 stands for its descriptor."""
    packet = asked.SerializeToString().hex()
    code = AS_USER.format(user=user, group=user, images=str(images), path=str(service.path), packet=packet)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    return m.criu_resp.FromString(bytes.fromhex(done.stdout.strip()))


def as_user(user: int, group: int | None = None) -> str:
    """What a subject does to be a user's."""
    ids = f"os.setgroups([]); os.setresgid(*[{group or user}] * 3); os.setresuid(*[{user}] * 3)"
    return f"{ids}; libc.prctl(4, 1, 0, 0, 0)\nmemory = b'x'\npause_for_dump()\nsay('memory', memory)\n"


@pytest.fixture
def theirs(service: Service) -> Path:
    """A directory that belongs to the user, and a way to it."""
    for folder in service.host.folder.parents:
        if folder != Path("/") and not stat.S_IMODE(folder.stat().st_mode) & stat.S_IXOTH:
            folder.chmod(folder.stat().st_mode | stat.S_IXOTH)
    service.host.folder.chmod(0o755)
    folder = service.host.folder / "theirs"
    folder.mkdir()
    os.chown(folder, USER, USER)
    (service.host.folder / "out").touch()
    return folder


def test_a_user_has_an_own_process_dumped(service: Service, theirs: Path) -> None:
    subject = service.host.python(as_user(USER))
    answer = ask_as(service, USER, request(rpc.DUMP, 99, subject.pid, leave_running=True), theirs)
    assert answer.success, answer.cr_errmsg
    assert (theirs / "inventory.img").exists()
    assert (theirs / "criu.log").stat().st_uid == USER
    restored = service.host.folder / "restored"
    restored.mkdir()
    assert subject.go() == ["memory b'x'"]


@pytest.mark.parametrize(
    "whose",
    [
        "pause_for_dump()\nsay('on')\n",  # root's
        as_user(OTHER),
        as_user(USER, OTHER),  # another group
        f"os.setresuid({USER}, {USER}, 0)\npause_for_dump()\n",  # could become root again
        as_user(USER).replace("prctl(4, 1", "prctl(4, 0"),  # does not let itself be traced
        as_user(USER).replace(
            "os.setgroups", "child = os.fork()\nif not child: time.sleep(60)\nos.setgroups"
        ),  # with a child that is root's
    ],
    ids=["root", "other", "group", "saved", "undumpable", "child"],
)
def test_a_user_gets_nobody_elses(service: Service, theirs: Path, whose: str) -> None:
    subject = service.host.python(whose)
    before = traces(subject.pid)
    answer = ask_as(service, USER, request(rpc.DUMP, 99, subject.pid), theirs)
    assert (answer.success, answer.cr_errno) == (False, errno.EPERM), answer.cr_errmsg
    assert traces(subject.pid) == before
    assert os.listdir(theirs) == ["criu.log"]


@pytest.mark.parametrize(
    ("asked", "number"),
    [
        (request(rpc.RESTORE, 99), errno.EPERM),
        (request(rpc.PAGE_SERVER, 99), errno.EPERM),
        (request(rpc.CPUINFO_DUMP, 99), errno.EPERM),
        (request(rpc.DUMP, 99, config_file="/etc/shadow"), errno.EBADRQC),
        (request(rpc.DUMP, -1, images_dir="/etc"), errno.EBADRQC),
        (request(rpc.DUMP, -1, images_dir="/root"), errno.EBADRQC),
        (request(rpc.DUMP, 99, work_dir_fd=0), errno.EBADRQC),
        (request(rpc.DUMP, 99, parent_img="../../secret"), errno.EBADRQC),
        (request(rpc.DUMP, 99, link_remap=True), errno.EBADRQC),
    ],
)
def test_a_user_does_not_get_what_only_root_may_ask_for(
    service: Service, theirs: Path, asked: m.criu_req, number: int
) -> None:
    if asked.opts.pid == 0 and asked.type == rpc.DUMP:
        asked.opts.pid = service.host.python(as_user(USER)).pid
    answer = ask_as(service, USER, asked, theirs)
    assert (answer.success, answer.cr_errno) == (False, number), answer.cr_errmsg
    assert "root:x" not in answer.cr_errmsg


def test_a_user_cannot_have_other_peoples_files_written(service: Service, theirs: Path) -> None:
    """By a directory of root's, by a link in an own one, by a file of root's that lies there."""
    subject = service.host.python(as_user(USER))
    precious = service.host.folder / "precious"
    precious.write_text("precious")
    (theirs / "link").symlink_to(precious)
    os.link(precious, theirs / "hard")
    (theirs / "stats-dump.tmp").symlink_to(precious)
    for folder, log in ((service.host.images, "x"), (theirs, "link"), (theirs, "hard")):
        answer = ask_as(service, USER, request(rpc.DUMP, 99, subject.pid, leave_running=True, log_file=log), folder)
        assert (answer.success, answer.cr_errno) == (False, errno.EBADRQC), answer.cr_errmsg
    answer = ask_as(service, USER, request(rpc.DUMP, 99, subject.pid, leave_running=True), theirs)
    assert answer.success, answer.cr_errmsg
    assert precious.read_text() == "precious"
    assert subject.go() == ["memory b'x'"]


def test_a_user_may_have_so_many_connections(service: Service, theirs: Path) -> None:
    code = f"""
import os, socket
os.setgroups([]); os.setresgid(*[{USER}] * 3); os.setresuid(*[{USER}] * 3)
open_ones = []
for _ in range(24):
    one = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    one.connect({str(service.path)!r})
    one.settimeout(0.5)
    open_ones.append(one)
closed = 0
for one in open_ones:
    try:
        closed += one.recv(1) == b""
    except TimeoutError:
        pass
print(closed)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, cwd="/")
    assert done.stdout == "8\n"
