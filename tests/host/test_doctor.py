# SPDX-License-Identifier: GPL-2.0-only
"""`pycriu doctor`: what it finds and advises, and that its trial is a real one. Ordinary users: test_unprivileged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pycriu.kernel import syscalls
from tests.host.conftest import DEADLINE, Host, alive, below, wait_until

# As containers have it: the call is not there. A filter of seccomp(2) that lets all others through.
FORBID = """
import ctypes, os, struct, sys
number = int(sys.argv[1])
action = int(os.environ.get("FORBID", str(0x50000 | 38)))
rules = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, action), (0x06, 0, 0, 0x7FFF0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *rule) for rule in rules))
program = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", len(rules), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(22, 2, ctypes.c_void_p(ctypes.addressof(program)), 0, 0) == 0, os.strerror(ctypes.get_errno())
os.execv(sys.argv[2], sys.argv[2:])
"""


def doctor(host: Host, *before: str, words: tuple[str, ...] = ("--json",)) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TMPDIR": str(host.folder)}
    return subprocess.run(
        [*before, *host.command("doctor", *words)], cwd=host.folder, env=environment, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def findings(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    told = json.loads(done.stdout)
    assert told["schema"] == 1
    assert told["good"] == (done.returncode == 0)
    return {one["name"]: one for one in told["findings"]}


def nothing_is_left(host: Host) -> None:
    assert not [path.name for path in host.folder.iterdir() if path.name.startswith("pycriu-doctor-")]
    assert not [pid for pid in below(os.getpid()) if alive(pid)]


def test_root(host: Host) -> None:
    done = doctor(host)
    assert done.returncode == 0, done.stdout + done.stderr
    found = findings(done)
    assert found["user"]["state"] == "good"
    assert found["kernel"]["state"] == "good"
    assert found["trial"]["state"] == "good"
    assert "dumped" in found["trial"]["found"]
    assert "no_new_privs" not in found
    nothing_is_left(host)


IGNORE = "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"


def test_who_has_started_it_ignores_its_children(host: Host) -> None:
    """As servers do: what it starts inherits that, and would hear of no child."""
    found = findings(doctor(host, sys.executable, "-c", IGNORE))
    assert found["kernel"]["state"] == "good", found["kernel"]
    assert found["trial"]["state"] == "good", found["trial"]
    nothing_is_left(host)


def test_words(host: Host) -> None:
    done = doctor(host, words=())
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[0].startswith("good user: ")
    assert "good trial: " in done.stdout
    assert done.stdout.splitlines()[-1].startswith("All is well")
    assert "cuda" not in (done.stdout + done.stderr).lower()


def test_a_filter_of_a_container(host: Host) -> None:
    number = syscalls.number("clone3", "generic")
    done = doctor(host, sys.executable, "-c", FORBID, str(number))
    assert done.returncode == 1, done.stdout + done.stderr
    found = findings(done)
    assert found["seccomp"]["state"] == "note"
    assert "--security-opt seccomp=unconfined" in found["seccomp"]["advice"][0]
    assert found["kernel"]["state"] == "bad"
    assert any("clone3_set_tid" in line for line in found["kernel"]["advice"])
    assert found["trial"]["state"] == "bad"
    assert "of a process of our own failed" in found["trial"]["found"]
    assert any("run pycriu outside of the container" in line for line in found["trial"]["advice"])
    nothing_is_left(host)


KILL = "2147483648"  # SECCOMP_RET_KILL_PROCESS


@pytest.mark.parametrize(
    ("numbers", "features"),
    [
        ((101, 117), {"ptrace_seize", "proc_mem", "pidfd_getfd"}),
        ((435, 435), {"clone3_set_tid"}),
    ],
    ids=["ptrace", "clone3"],
)
def test_a_filter_that_kills(
    host: Host, monkeypatch: pytest.MonkeyPatch, numbers: tuple[int, int], features: set[str]
) -> None:
    """doctor itself survives, names what could not be tried, and what is behind that in the list is tried, too."""
    monkeypatch.setenv("FORBID", KILL)
    number = numbers[os.uname().machine == "aarch64"]
    done = doctor(host, sys.executable, "-c", FORBID, str(number))
    assert done.returncode == 1, done.stdout + done.stderr
    found = findings(done)
    killed = {line.split(" ")[0] for line in found["kernel"]["advice"] if line.endswith("trying it ended with SIGSYS")}
    assert features <= killed
    assert len(killed) < 10
    assert found["trial"]["state"] == "bad"
    nothing_is_left(host)


def within(host: Host, setup: str, *options: str) -> subprocess.CompletedProcess[str]:
    """In a mount namespace that was changed."""
    return doctor(host, "unshare", "--mount", *options, "sh", "-ec", f'{setup}; exec "$@"', "sh")


def test_without_proc(host: Host) -> None:
    done = within(host, "umount -l /proc")
    assert "mount -t proc proc /proc" in findings(done)["/proc"]["advice"][0]
    done = within(host, "mount -t proc -o subset=pid proc /proc")
    assert findings(done)["/proc"] == {
        "name": "/proc", "state": "bad", "found": "/proc/uptime is not there",
        "advice": ["mount -t proc proc /proc, with no subset= of it"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("scope", "before", "state", "said"),
    [
        (0, (), "good", "is 0"),
        (2, (), "good", "is 2"),
        (3, (), "bad", "is 3: nobody may trace"),
        (0, ("setpriv", "--bounding-set=-sys_ptrace"), "good", "is 0"),
        (1, ("setpriv", "--bounding-set=-sys_ptrace"), "note", "only own children can be traced"),
        (2, ("setpriv", "--bounding-set=-sys_ptrace"), "bad", "nobody can be traced"),
        (3, ("setpriv", "--bounding-set=-sys_ptrace"), "bad", "is 3: nobody may trace"),
    ],
)
def test_what_is_said_of_yama(host: Host, scope: int, before: tuple[str, ...], state: str, said: str) -> None:
    """Of a file in its place: few kernels have it. What it forbids, the trial would feel."""
    here = "/proc/sys/kernel"
    setup = (
        f"cp -r {here} kept 2>&- || true; mount -t tmpfs none {here}; cp -r kept/. {here}; "
        f"mkdir -p {here}/yama; echo {scope} >{here}/yama/ptrace_scope"
    )
    found = findings(doctor(host, "unshare", "--mount", "sh", "-ec", f'{setup}; exec "$@"', "sh", *before))
    assert found["yama"]["state"] == state
    assert said in found["yama"]["found"]
    assert bool(found["yama"]["advice"]) == (state != "good")


def test_without_sys(host: Host) -> None:
    found = findings(within(host, "umount -l /sys"))
    assert found["trial"]["state"] == "good", found["trial"]
    nothing_is_left(host)


def test_where_others_are_hidden(host: Host) -> None:
    found = findings(within(host, "mount -t proc -o hidepid=2 proc /proc", "--pid", "--fork"))
    assert found["trial"]["state"] == "good", found["trial"]


def test_without_a_place(host: Host) -> None:
    """A small disk, and none that can be written to."""
    found = findings(within(host, f"mount -t tmpfs -o size=512k none {host.folder}"))
    assert found["trial"]["state"] == "bad"
    assert any("the checkpoint needs about" in line for line in found["trial"]["advice"])
    read_only = "for place in /tmp /var/tmp; do mount --bind $place $place; mount -o remount,bind,ro $place; done"
    found = findings(within(host, read_only))
    assert "No usable temporary directory" in found["trial"]["found"]
    assert found["trial"]["advice"] == ["TMPDIR=DIR pycriu doctor names one"]
    nothing_is_left(host)


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-", "| true"])
def test_whatever_is_closed(host: Host, closed: str) -> None:
    done = doctor(host, "sh", "-c", f'"$@" {closed}', "sh", words=())
    assert done.returncode == 0
    assert done.stderr == ""
    nothing_is_left(host)


def test_when_it_is_killed(host: Host) -> None:
    """Nobody else is: of a PID that it has waited for it knows nothing any more; and its process ends by itself."""
    process = subprocess.Popen(
        host.command("doctor"), cwd=host.folder, env={**os.environ, "TMPDIR": str(host.folder)},
        stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    wait_until(lambda: list(host.folder.glob("pycriu-doctor-*/ready")), "its process is there")
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE) in (0, 1)
    nothing_is_left(host)


@pytest.mark.parametrize("capability", ["sys_ptrace", "sys_admin"])
def test_root_without_a_capability(host: Host, capability: str) -> None:
    done = doctor(host, "setpriv", f"--bounding-set=-{capability}")
    found = findings(done)
    assert f"CAP_{capability.upper()}" in found["capabilities"]["found"]
    assert found["capabilities"]["state"] == "note"
    nothing_is_left(host)


def test_root_without_all(host: Host) -> None:
    done = doctor(host, "setpriv", "--bounding-set=-all")
    assert done.returncode == 1
    found = findings(done)
    assert found["user"]["state"] == "bad"
    assert "--cap-add CHECKPOINT_RESTORE" in found["user"]["advice"][0]
    assert "trial" in found
    nothing_is_left(host)


def test_the_guide_has_what_is_advised() -> None:
    guide = (Path(__file__).parents[2] / "docs/guide.md").read_text()
    for words in ("sudoers", "CAP_CHECKPOINT_RESTORE", "setcap", "--wait-pid", "--new-pid", "--unprivileged"):
        assert words in guide
