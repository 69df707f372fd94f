# SPDX-License-Identifier: GPL-2.0-only
"""What whoever starts us, or ends us, may have in store: a signal while we become ready, pidfiles, SIGCHLD, threads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pycriu.command import background

ROOT = Path(__file__).resolve().parents[2]

BEGIN = """
import os, sys, time
from pycriu.actions import Signals
from pycriu.command import background
with Signals():
    try:
        ready = background.begin("it")
        print(os.getpid(), flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print("undone by", "the child" if "ready" in globals() else "the parent", flush=True)
"""


def python(code: str, *words: str, **more: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *words], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, **more,
    )  # type: ignore[call-overload]  # fmt: skip


def test_who_is_interrupted_before_its_child_is_ready_ends_the_child() -> None:
    """Else that would go on without what the parent has undone, such as the name of its socket."""
    with python(BEGIN) as parent:
        child = int(parent.stdout.readline())  # type: ignore[union-attr]
        wait_until_it_reads(parent.pid)
        parent.send_signal(signal.SIGTERM)
        said = parent.communicate(timeout=30)[0]
    assert said.splitlines() == ["undone by the child", "undone by the parent"]
    assert not os.path.exists(f"/proc/{child}")


def wait_until_it_reads(pid: int) -> None:
    end = time.monotonic() + 30
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_pidfile_that_somebody_else_has_removed(tmp_path: Path) -> None:
    with background.Pidfile(str(tmp_path), "pid"):
        assert (tmp_path / "pid").read_text() == str(os.getpid())
        (tmp_path / "pid").unlink()
    with background.Pidfile(str(tmp_path), "pid"):
        (tmp_path / "pid").unlink()
        (tmp_path / "pid").write_text("1")  # another's, by now
    assert (tmp_path / "pid").read_text() == "1"
    (tmp_path / "pid").unlink()
    with background.Pidfile(str(tmp_path), "pid"):
        pass
    assert not list(tmp_path.iterdir())


SCRIPT = """
import os, sys
from pycriu.actions import Signals
from pycriu.command.scripts import Scripts
from pycriu.log import Log
with Signals(), Log() as log:
    Scripts(["/bin/true"], ".", ".", log)("pre-dump", 0)
    print("done")
"""


def test_who_has_started_us_ignores_its_children() -> None:
    """And so would we, and find none."""
    how = "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    with python(how, sys.executable, "-c", SCRIPT) as ours:
        assert ours.communicate(timeout=30)[0] == "done\n"


KEYS = """
import os, signal, sys, time
from pycriu.command.scripts import Scripts
from pycriu.errors import HookFailed
from pycriu.log import Log
def interrupt(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGINT, interrupt)
scripts = Scripts([sys.argv[1]], ".", ".", Log())
us, met = os.getpid(), 0
def script():
    for name in open(f"/proc/{us}/task/{us}/children").read().split():
        if open(f"/proc/{name}/comm").read() == "sleep\\n":
            return int(name)
for number in range(40):
    key = os.fork()
    if not key:
        while not (child := script()):
            pass
        time.sleep(0.001)  # until it is waited for
        os.kill(child, signal.SIGINT)
        os.kill(us, signal.SIGINT)
        os._exit(0)
    try:
        try:
            scripts("pre-dump", 0)
        except HookFailed:
            pass
        while True:
            time.sleep(0.01)
    except KeyboardInterrupt:
        met += 1
    os.waitpid(key, 0)
print(met)
"""


def test_a_key_that_ends_us_and_the_script_at_once(tmp_path: Path) -> None:
    """Its end is seen, and then the signal: it is not there to be ended any more."""
    (tmp_path / "script").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "script").chmod(0o755)
    with python(KEYS, str(tmp_path / "script")) as ours:
        assert ours.communicate(timeout=60)[0] == "40\n"


THREADS = """
import os, resource, signal, sys
from pycriu.command import progress
from pycriu.pages import copying
os.setgroups([]); os.setresgid(54321, 54321, 54321); os.setresuid(54321, 54321, 54321)
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
signal.alarm(20)
shown = progress.Progress(2)
shown.begin("saved", 1 << 20, lambda: 0)
source, copy = os.memfd_create("source"), os.memfd_create("copy")
os.pwrite(source, b"first", 0)
os.pwrite(source, b"last", 60 << 20)
os.truncate(source, 64 << 20)
copying.copy_file(source, [(0, 1 << 14)], copy)
shown.end()
print(os.pread(copy, 5, 0), os.pread(copy, 4, 60 << 20), os.fstat(copy).st_size >> 20)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody without a process to spare")
def test_no_more_threads_may_be_had() -> None:
    with python(THREADS) as ours:
        assert ours.communicate(timeout=60)[0] == "b'first' b'last' 64\n"
