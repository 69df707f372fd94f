# SPDX-License-Identifier: GPL-2.0-only
"""pycriu from Python: scripts that were written for CRIU's bindings, unchanged, and the functions of this process."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pycriu import api
from pycriu.errors import PycriuError, UserError
from tests import clients
from tests.host import rpc as shared
from tests.host.conftest import DEADLINE, Host, alive, reap, state, wait_until
from tests.host.rpc import HEAD, SUBJECT

daemon = shared.daemon

ROOT = Path(__file__).parents[2]


class Script:
    """Runs Python scripts whose `pycriu` is ours."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def start(self, code: str, *words: str) -> subprocess.Popen[str]:
        script = self.host.folder / "script.py"
        script.write_text(code)
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
        with open(self.host.folder / "said", "w") as said:
            return subprocess.Popen(
                [sys.executable, str(script), *words],
                cwd=self.host.folder, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said, text=True,
                start_new_session=True,
            )  # fmt: skip

    def said(self) -> str:
        return (self.host.folder / "said").read_text()

    def run(self, code: str, *words: str) -> str:
        status = self.start(code, *words).wait(DEADLINE)
        assert status == 0, self.said()
        return self.said()


@pytest.fixture
def script(host: Host) -> Script:
    return Script(host)


# ------------------------------------------------------------------------------- scripts written for CRIU's bindings

THEIRS = HEAD.replace('assert "dist-packages" in pycriu.__file__\n', "")


@pytest.fixture(params=["binary", "socket", "fd"])
def words(host: Host, request: pytest.FixtureRequest) -> tuple[str, str]:
    where = request.getfixturevalue("daemon") if request.param == "socket" else clients.criu(host.folder)
    return request.param, str(where)


def test_the_same_script_works(script: Script, words: tuple[str, str]) -> None:
    subject = script.host.python(SUBJECT)
    code = f"client().check(); ask = client(); ask.opts.pid = {subject.pid}; tell(ask.dump().restored)"
    assert script.run(THEIRS + code, *words) == "[false]\n"
    reap(subject.pid)
    assert script.run(THEIRS + "tell(client().restore().pid)", *words) == f"[{subject.pid}]\n"
    assert subject.go() == ["memory True"]


def test_a_script_has_itself_dumped(script: Script, words: tuple[str, str]) -> None:
    code = "ask = client(); before = os.getpid()\ntell(ask.dump().restored, os.getpid() == before)"
    asking = script.start(THEIRS + code, *words)
    asking.wait(DEADLINE)
    assert (asking.returncode, script.said()) == (-9, "")
    restored = script.host.restore()
    assert restored.ok, restored
    wait_until(script.said, "the restored script goes on")
    assert script.said() == "[true, true]\n"
    reap(asking.pid)


def test_it_finds_itself_wherever_it_lies(script: Script) -> None:
    code = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
os.environ.pop("PYTHONPATH", None)
os.chdir("/")
import pycriu
pycriu.criu().check()
print("looks good")
"""
    assert script.run(code) == "looks good\n"


def test_its_own_worker_and_more_than_upstream_tells(script: Script) -> None:
    code = """
import os, pycriu
ask = pycriu.criu()
print(ask.version().name.split()[0], ask.feature_check(pycriu.rpc.criu_features(lazy_pages=True)).lazy_pages)
ask.opts.images_dir_fd = os.open("images", os.O_DIRECTORY)
ask.opts.pid = 4194303
try:
    ask.dump()
except pycriu.CRIUExceptionExternal as error:
    print(error.errno, error)
"""
    first, second = script.run(code).splitlines()[:2]
    assert first == "pycriu False"
    assert second.startswith(
        f"{errno.ESRCH} DUMP failed: Error(3): No process with such pid: no process has PID 4194303"
    )


# ----------------------------------------------------------------------------------------- functions of this process


def test_dump_and_restore(script: Script) -> None:
    subject = script.host.python(SUBJECT)
    code = f"""
import os, pycriu, resource
limit = resource.getrlimit(resource.RLIMIT_NOFILE)
result = pycriu.dump({subject.pid}, "images", log_file="dump.log", log_level=4)
print(result.tasks, result.pages > 256, result.frozen > 0, limit == resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    assert script.run(code) == "1 True True True\n"
    assert not alive(subject.pid)
    reap(subject.pid)
    assert "Frozen for" in (script.host.folder / "dump.log").read_text()
    code = """
import os, pycriu
stages = []
restored = pycriu.restore("images", hook=lambda stage, pid: stages.append(stage), pidfile="pid")
print(restored.root_pid, open("pid").read(), *stages)
open("go", "w").close()
print(os.waitstatus_to_exitcode(restored.wait()))
"""
    stages = "pre-restore post-restore pre-resume post-resume"
    assert script.run(code) == f"{subject.pid} {subject.pid} {stages}\n0\n"
    assert subject.said()[-1] == "memory True"


def test_again_and_again_in_one_process(script: Script) -> None:
    """A dump leaves nothing in the process that has asked for it: descriptors, children, limits."""
    subject = script.host.python(SUBJECT)
    code = f"""
import os, pycriu
def traces():
    return sorted(os.listdir("/proc/self/fd")), open(f"/proc/self/task/{{os.getpid()}}/children").read()
pycriu.pre_dump({subject.pid}, "images")
before = traces()
for number in range(3):
    os.mkdir(str(number))
    pycriu.dump({subject.pid}, str(number), leave_running=True, prev_images_dir="../images")
print(traces() == before, os.path.exists("2/inventory.img"))
"""
    assert script.run(code) == "True True\n"
    assert subject.go() == ["memory True"]


def test_errors_name_the_object_and_leave_the_tree(script: Script) -> None:
    subject = script.host.python(SUBJECT)
    code = f"""
import pycriu
def refuse(stage, pid):
    raise pycriu.HookFailed("not now", status=3)
for call in (
    lambda: pycriu.dump(4194303, "images"),
    lambda: pycriu.dump({subject.pid}, "nowhere"),
    lambda: pycriu.dump({subject.pid}, "images", hook=refuse),
    lambda: pycriu.restore("images"),
):
    try:
        call()
    except pycriu.PycriuError as error:
        print(type(error).__name__, error.message)
"""
    said = script.run(code).splitlines()
    folder = script.host.folder
    assert said == [
        "NoProcess no process has PID 4194303",
        f"UserError {folder}/nowhere: no such directory",
        "HookFailed not now",
        f"ImageError {folder}/images: no whole checkpoint here, inventory.img is missing",
    ]
    assert subject.go() == ["memory True"]


def test_check(script: Script) -> None:
    code = """
import pycriu
print(pycriu.check())
for missing in pycriu.check(extra=True):
    assert missing.name and missing.purpose and missing.said and not missing.required
"""
    assert script.run(code) == "()\n"


def test_the_examples_of_the_readme(script: Script) -> None:
    """Each block of Python in the README, after the other, as it stands there but for the PID."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    subject = script.host.python(SUBJECT)
    (script.host.folder / "checkpoint").mkdir()
    gone = 'import os, time\nwhile os.path.exists("/proc/4711"): time.sleep(0.01)\nopen("go", "w").close()\n'
    code = "\n".join(blocks).replace("try:\n", gone + "try:\n", 1)  # what is dumped is our child, which we must reap
    running = script.start(code.replace("4711", str(subject.pid)))
    wait_until(lambda: not alive(subject.pid) or running.poll() is not None, "it is dumped")
    reap(subject.pid)
    assert running.wait(DEADLINE) == 0, script.said()
    said = script.said().splitlines()
    assert said[1:] == [f"runs again with PID {subject.pid}", str(subject.pid)]
    assert "memory True" in subject.said()


def test_a_tree_that_did_not_stop_in_time_is_not_held_by_who_lives_on(host: Host) -> None:
    subject = host.python("pause_for_dump()\nsay('ok')")
    for _ in range(10):
        with pytest.raises(PycriuError, match="could not be stopped within"):
            api.dump(subject.pid, host.images, timeout=1e-9)  # type: ignore[arg-type]
        assert subject.status("TracerPid") == "0"
        wait_until(lambda: state(subject.pid) == "S", "it sleeps on")
    assert os.listdir(host.images) == []
    assert subject.go() == ["ok"]


@pytest.mark.parametrize(
    ("pid", "more", "error"),
    [
        ("1", {}, TypeError),
        (1.5, {}, TypeError),
        (0, {}, UserError),
        (None, {"timeout": 0}, UserError),
        (None, {"timeout": -1}, UserError),
        (None, {"timeout": float("nan")}, UserError),
        (None, {"timeout": "5"}, TypeError),
        (None, {"ghost_limit": -1}, UserError),
        (None, {"ghost_limit": "1M"}, UserError),
        (None, {"file_validation": "none"}, UserError),
        (None, {"network_lock": "iptables"}, UserError),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_touched(
    host: Host, pid: Any, more: dict[str, Any], error: type[Exception]
) -> None:
    subject = host.python("pause_for_dump()\nsay('ok')")
    with pytest.raises(error):
        api.dump(subject.pid if pid is None else pid, host.images, **more)
    assert os.listdir(host.images) == []
    assert subject.status("TracerPid") == "0"
    assert subject.go() == ["ok"]


def test_directories_may_be_bytes(host: Host) -> None:
    subject = host.python("pause_for_dump()\nsay('ok')")
    api.dump(subject.pid, os.fsencode(host.images))  # type: ignore[arg-type]
    assert (host.images / "stats-dump").exists()
    reap(subject.pid)
    api.restore(os.fsencode(host.images))  # type: ignore[arg-type]
    assert subject.go() == ["ok"]


# ----------------------------------------------------------------------------------------- in a program with threads

# At any moment a thread has asked for the interpreter, which each gives away only when it is asked.
BUSY = """
import os, signal, sys, threading
import pycriu

def work():
    while not done:
        pass

done = False
sys.setswitchinterval(1e-6)
threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads:
    thread.start()
try:
    images, times, sibling = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "sibling"
    for _ in range(times):
        restored = pycriu.restore(images, sibling=sibling)
        os.kill(restored.root_pid, signal.SIGKILL)
        restored.wait()
    print("restored")
finally:
    done = True
"""
DELETED = """
import os
file = os.open("deleted", os.O_RDWR | os.O_CREAT, 0o600)
os.unlink("deleted")
ready()
wait_for_go()
"""


def test_a_program_with_threads_restores(script: Script) -> None:
    """The children that a restore makes, of itself and for deleted files, wait for no thread that they do not have."""
    subject = script.host.python(DELETED)
    api.dump(subject.pid, images_dir=str(script.host.images))
    reap(subject.pid)
    assert script.run(BUSY, str(script.host.images), "2", "child") == "restored\n"


def test_a_program_with_threads_makes_no_siblings(script: Script) -> None:
    subject = script.host.python("ready()\nwait_for_go()")
    api.dump(subject.pid, images_dir=str(script.host.images))
    reap(subject.pid)
    process = script.start(BUSY, str(script.host.images), "1", "sibling")
    assert process.wait(DEADLINE) == 1
    assert "a sibling cannot be made by a program with threads" in script.said()


IN_FLIGHT = """
import socket
here, there = socket.socketpair()
for name in ("kept", "deleted"):
    with open(name, "w+") as file:
        file.write(name)
        file.flush()
        socket.send_fds(here, [b"x"], [file.fileno()])
os.unlink("deleted")
pause_for_dump()
"""


def test_a_dump_leaves_no_descriptor_in_who_lives_on(host: Host) -> None:
    """Files that had been sent and not received, too."""
    subject = host.python(IN_FLIGHT)
    code = f"""
import os, pycriu
def dump(): pycriu.dump({subject.pid}, {str(host.images)!r}, leave_running=True); return os.listdir("/proc/self/fd")
print(dump() == dump())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.stdout == "True\n", done.stderr
