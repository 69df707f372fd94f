# SPDX-License-Identifier: GPL-2.0-only
"""`restore --new-pid`: a second tree with the same PIDs, in a PID namespace of its own, while the first one lives."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pycriu import api
from pycriu.errors import PycriuError, TraceeGone, UserError
from pycriu.kernel import procfs
from pycriu.ownpids import outside, words
from tests.host.conftest import DEADLINE, Host, Outcome, Subject, alive, assert_sound, below, reap, state, wait_until
from tests.host.programs import PROMPT, Shell

# It writes into a file of its own of each life, as both live at once.
TWO = """
import threading
thread = threading.Thread(target=lambda: wait_for_go())
thread.start()
child = os.fork()
if child == 0:
    os.setpgid(0, 0)
    wait_for_go()
    os._exit(7)
before = (os.getpid(), os.getsid(0), os.getpgid(child), child, thread.native_id)
pause_for_dump()
thread.join()
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
after = (os.getpid(), os.getsid(0), int(os.readlink('/proc/self')), thread.native_id)
with open('below-init' if os.getppid() == 1 else 'below-us', 'w') as file:
    file.write(f'{after == (before[0], before[1], before[0], before[4])} {status}')
"""


def restored(outcome: Outcome) -> int:
    """The PID here that a restore has told."""
    assert outcome.ok, outcome
    found = re.search(r"^restored with PID (\d+)$", outcome.log, re.MULTILINE)
    assert found, outcome
    return int(found[1])


def init_of(pid: int) -> int:
    parent = procfs.stat(pid).ppid
    assert procfs.stat(parent).comm == "pycriu-init"
    return parent


def inner(pid: int) -> list[int]:
    """The PIDs of a process, ours first."""
    return [int(number) for number in procfs.parse_status(procfs.text(pid, "status"))["NSpid"].split()]


def test_both_live(host: Host) -> None:
    subject = host.python(TWO)
    assert host.dump(subject, "-R").ok
    pid = restored(host.restore("--new-pid", "--pidfile", "root"))
    assert (host.images / "root").read_text() == str(pid)
    assert pid != subject.pid
    assert inner(pid)[-1] == subject.pid
    assert {inner(one)[-1] for one in below(init_of(pid))} == {subject.pid, *below(subject.pid)}
    assert os.readlink(f"/proc/{pid}/ns/pid") != os.readlink("/proc/self/ns/pid")
    init = init_of(pid)
    subject.go()  # both see the file
    wait_until(lambda: not alive(pid), "both have ended")
    assert {(host.folder / name).read_text() for name in ("below-us", "below-init")} == {"True 7"}
    wait_until(lambda: not alive(init), "its init ends with the last task")


def test_many_of_one_image(host: Host) -> None:
    subject = host.python("pause_for_dump()\nsay('ok', os.getpid())")
    assert host.dump(subject).ok
    pids = [restored(host.restore("--new-pid")) for _ in range(3)]
    inits = [init_of(pid) for pid in pids]
    assert len({*pids, *inits}) == 6
    (host.folder / "go").touch()
    wait_until(lambda: not any(alive(pid) for pid in (*pids, *inits)), "all end")
    assert Path(host.folder / "out").read_bytes().count(b"ok %d\n" % subject.pid) >= 1


def test_its_end_is_that_of_all(host: Host) -> None:
    subject = host.python(TWO)
    assert host.dump(subject).ok
    pid = restored(host.restore("--new-pid"))
    init = init_of(pid)
    tasks = below(init)
    assert len(tasks) == 2
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(init, number)  # which do nothing to an init
    assert alive(pid)
    os.kill(init, signal.SIGKILL)
    wait_until(lambda: not any(alive(one) for one in (init, *tasks)), "all have ended")


def test_it_can_be_dumped_from_inside(host: Host) -> None:
    subject = host.python("pause_for_dump()\nsay('ok', os.getpid())")
    assert host.dump(subject).ok
    pid = restored(host.restore("--new-pid"))
    refused = host.run("dump", "-t", str(pid), "-D", str(host.images))
    assert not refused.ok
    assert "namespace" in refused.errors()
    inside = ["nsenter", "-t", str(pid), "-p", "-m", "-r", "--wd=/proc/self/cwd"]
    second = host.folder / "second"
    second.mkdir()
    words = host.command("dump", "-t", str(subject.pid), "-D", str(second), "-v4", "-o", "-")
    done = subprocess.run([*inside, *words], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    wait_until(lambda: not alive(pid), "it is dumped")
    assert host.restore(images=second).ok
    assert subject.go() == [f"ok {subject.pid}"]


def test_attached_it_stays_until_the_root_ends(host: Host) -> None:
    subject = host.python("pause_for_dump()\nsay('ok', os.getpid())")
    assert host.dump(subject).ok
    told = host.folder / "told"
    with told.open("w") as file:
        waiting = subprocess.Popen(
            host.command("restore", "--new-pid", "-D", str(host.images)), cwd=host.folder, stdin=subprocess.DEVNULL,
            stdout=file, stderr=file,
        )  # fmt: skip
    wait_until(lambda: told.read_text().endswith("\n") or waiting.poll() is not None, "it tells the PID")
    said = told.read_text()
    assert said.startswith("restored with PID "), said
    pid = int(said.split()[-1])
    assert alive(pid)
    assert waiting.poll() is None
    (host.folder / "go").touch()
    assert waiting.wait(DEADLINE) == 0
    assert not alive(pid)
    assert subject.said()[-1] == f"ok {subject.pid}"


def test_a_restore_that_fails_leaves_nothing(host: Host) -> None:
    subject = host.python("pause_for_dump()\nsay('ok')")
    assert host.dump(subject).ok
    before = set(below(os.getpid()))
    (host.images / "root").touch()
    outcome = host.restore("--new-pid", "--pidfile", "root")
    assert not outcome.ok
    assert "the file must not exist yet" in outcome.errors()
    (host.images / f"pagemap-{subject.pid}.img").unlink()
    outcome = host.restore("--new-pid")
    assert not outcome.ok
    assert f"pagemap-{subject.pid}.img" in outcome.errors()
    assert {one for one in below(os.getpid()) if alive(one)} <= before


@pytest.mark.parametrize("where", [">/dev/full", ">&-", "<&- >&- 2>&-", "| true"])
def test_whoever_hears_of_it(host: Host, where: str) -> None:
    """The tree lives, and so says the exit status; the PID is in the pidfile, too."""
    subject = host.python("pause_for_dump()\nsay('ok')")
    assert host.dump(subject).ok
    words = host.command("restore", "-d", "--new-pid", "--pidfile", "root", "-D", str(host.images))
    done = subprocess.run(
        ["sh", "-c", f'"$@" {where}', "sh", *words], cwd=host.folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert alive(int((host.images / "root").read_text()))
    if "full" in where:
        assert "standard output: No space left on device" in done.stderr
    (host.folder / "go").touch()
    wait_until(lambda: subject.said()[-1] == "ok", "it goes on")
    wait_until(lambda: not named_init(), "its init ends")


def test_without_the_right(host: Host) -> None:
    """A user with CAP_CHECKPOINT_RESTORE alone: said, and nothing is left."""
    subject = host.python("pause_for_dump()\nsay('ok')")
    assert host.dump(subject, "-R").ok
    words = host.command("restore", "-d", "--new-pid", "-D", str(host.images))
    done = subprocess.run(
        ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-all", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "--new-pid: unshare: Operation not permitted\n  a PID namespace needs CAP_SYS_ADMIN" in done.stderr
    assert subject.go() == ["ok"]


def test_it_dies_with_who_restores(host: Host) -> None:
    """Killed at any moment before the tree is let go, nothing of it is left; later it lives."""
    subject = host.python("pause_for_dump()\nsay('ok')")
    assert host.dump(subject).ok
    for number in (signal.SIGTERM, signal.SIGKILL):
        restore = subprocess.Popen(
            host.command("restore", "-d", "--new-pid", "-v0", "-D", str(host.images)), cwd=host.folder,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_until(lambda r=restore: below(r.pid) or r.poll() is not None, "init is there")  # type: ignore[misc]
        restore.send_signal(number)
        restore.wait(DEADLINE)
        if restore.returncode:
            wait_until(lambda: not named_init(), "nothing is left")
        for one in named_init():
            os.kill(one, signal.SIGKILL)
            reap(one)


def named_init() -> list[int]:
    found = []
    for pid in below(os.getpid()):
        try:
            if state(pid) not in (None, "Z") and procfs.stat(pid).comm == "pycriu-init":
                found.append(pid)
        except TraceeGone:
            continue
    return found


def test_the_number_of_the_root_is_anothers(host: Host) -> None:
    """When it has ended, and its init reaps that one, too: the others live on."""
    subject = host.python("""
root = os.getpid()
if os.fork() == 0:
    os.setsid()
    while os.getppid() == root:
        time.sleep(0.01)
    if os.fork() == 0:
        while True:  # the number is free some time after its init has waited
            with open("/proc/sys/kernel/ns_last_pid", "w") as file:
                file.write(str(root - 1))
            pid = os.fork()
            if pid == 0 and os.getpid() == root:
                say("again", True)
            if pid in (0, root):
                os._exit(0)
            os.waitpid(pid, 0)
    os.wait()
    time.sleep(0.5)
    say("lives")
    os._exit(0)
pause_for_dump()
os._exit(0)
""")
    assert host.dump(subject).ok
    init = init_of(restored(host.restore("--new-pid")))
    (host.folder / "go").touch()
    wait_until(lambda: not alive(init), "all have ended")
    assert sorted(subject.said()[-2:]) == ["again True", "lives"]


@pytest.mark.parametrize(
    "words",
    [
        ("--dry-run",), ("--exec-cmd", "--", "true"), ("--restore-sibling",), ("--action-script", "true"),
        ("--wait-pid", "1"),
    ],
    ids=lambda words: words[0],
)  # fmt: skip
def test_what_does_not_go_together(host: Host, words: tuple[str, ...]) -> None:
    outcome = host.restore("--new-pid", *words)
    assert not outcome.ok
    assert f"--new-pid and {words[0]}" in outcome.errors()


def test_a_file_of_a_process_that_is_not_there(host: Host) -> None:
    body = f"held = open('/proc/{os.getppid()}/stat')\npause_for_dump()\nsay('ok')"
    subject: Subject = host.python(body)
    dumped = host.dump(subject)
    if not dumped.ok:  # said already when it is dumped
        assert f"/proc/{os.getppid()}/stat" in dumped.errors()
        return
    before = set(below(os.getpid()))
    outcome = host.restore("--new-pid")
    assert not outcome.ok
    assert f"/proc/{os.getppid()}/stat" in outcome.errors()
    assert {one for one in below(os.getpid()) if alive(one)} <= before


# With what a program can have that must not reach the tree's init: handlers, a descriptor for signals, threads.
CALLER = """
import os, signal, socket, subprocess, sys, threading, time
import pycriu
caught = []
for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1, signal.SIGHUP):
    signal.signal(number, lambda number, frame: caught.append(number))
ours, theirs = socket.socketpair()
theirs.setblocking(False)
signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
namespace = lambda: subprocess.check_output(["readlink", "/proc/self/ns/pid"])
here = namespace()
lives = []
restore = lambda: lives.append(pycriu.restore("images", new_pid=True, pidfile=f"pid{len(lives)}"))
restore()
assert namespace() == here
thread = threading.Thread(target=restore)
thread.start()
thread.join()
assert namespace() == here
assert len({life.root_pid for life in lives}) == 2
assert [open(f"pid{number}").read() for number in (0, 1)] == [str(life.root_pid) for life in lives]
names = [open(f"/proc/{life.root_pid}/status").read().split("NSpid:")[1].split()[1] for life in lives]
assert names == sys.argv[1:] * 2, names
caught.clear()
open("go", "w").close()
print([os.waitstatus_to_exitcode(life.wait()) for life in lives])
print(open("/proc/thread-self/children").read().split(), [number for number in caught if number != signal.SIGCHLD])
"""


def test_from_python(host: Host) -> None:
    """Two at once, one of them by a thread; what the caller forks afterwards is where it was, and nobody is left."""
    subject = host.python("pause_for_dump()\nos._exit(3)")
    assert host.dump(subject).ok
    (host.folder / "caller.py").write_text(CALLER)
    done = subprocess.run(
        [sys.executable, "caller.py", str(subject.pid)], cwd=host.folder, stdin=subprocess.DEVNULL, check=False,
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[3, 3]", "[] []"]


@pytest.mark.parametrize(
    "asked",
    [{"sibling": True}, {"wait_pid": 1}, {"hook": print}],
    ids=lambda asked: next(iter(asked)),
)
def test_what_does_not_go_together_from_python(tmp_path: Path, asked: dict[str, Any]) -> None:
    with pytest.raises(UserError) as caught:
        api.restore(tmp_path, new_pid=True, **asked)
    assert caught.value.message == f"new_pid and {next(iter(asked))}"


def test_an_interrupt_when_the_tree_has_been_let_go(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lives, and nobody waits for its end."""
    subject = host.python("pause_for_dump()\nsay('ok')")
    assert host.dump(subject).ok
    heard = words.Line.hear

    def interrupted(line: words.Line) -> list[Any]:
        if line.said == words.GO:
            raise KeyboardInterrupt
        return heard(line)

    monkeypatch.setattr(words.Line, "hear", interrupted)
    with pytest.raises(KeyboardInterrupt):
        api.restore(host.images, new_pid=True, pidfile=host.folder / "root")
    (init,) = named_init()
    assert inner(below(init)[0])[-1] == subject.pid
    (host.folder / "go").touch()
    wait_until(lambda: subject.said()[-1] == "ok", "it goes on")


def test_its_init_is_killed_before_it_is_let_go(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = host.python("pause_for_dump()\nsay('ok')")
    assert host.dump(subject).ok
    found = outside.outer

    def killed(first: int, root: int) -> int:
        pid = found(first, root)
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: state(first) == "Z", "it is no more")
        return pid

    monkeypatch.setattr(outside, "outer", killed)
    before = below(os.getpid())
    with pytest.raises(PycriuError) as caught:
        api.restore(host.images, new_pid=True, pidfile=host.folder / "root")
    assert "the init of the new PID namespace has ended" in caught.value.message
    assert below(os.getpid()) == before
    assert not (host.folder / "root").exists()


def test_the_end_is_told_once(host: Host) -> None:
    """Whoever asks again does not read what somebody else has open under that number by now."""
    subject = host.python("pause_for_dump()\nos._exit(3)")
    assert host.dump(subject).ok
    restored = api.restore(host.images, new_pid=True)
    (init,) = named_init()
    (host.folder / "go").touch()
    os.waitpid(init, 0)  # as a program does that waits for all of its children
    assert os.waitstatus_to_exitcode(restored.wait()) == 3
    reader, writer = os.pipe()
    os.write(writer, b'["ended", 0, false]\n')
    with pytest.raises(ChildProcessError):
        restored.wait()
    assert os.read(reader, 9)
    os.close(reader)
    os.close(writer)


def test_a_restore_from_python_that_fails(host: Host) -> None:
    subject = host.python("pause_for_dump()\nsay('ok')")
    assert host.dump(subject).ok
    (host.images / f"pagemap-{subject.pid}.img").unlink()
    before = below(os.getpid())
    with pytest.raises(PycriuError) as caught:
        api.restore(host.images, new_pid=True)
    assert f"pagemap-{subject.pid}.img" in caught.value.message
    assert below(os.getpid()) == before
    own = os.readlink("/proc/self/ns/pid")
    assert (
        subprocess.run(["readlink", "/proc/self/ns/pid"], capture_output=True, text=True, check=True).stdout
        == f"{own}\n"
    )


JOB = """
import os, signal, time
os.write(1, b"pid %d\\n" % os.getpid())
child = os.fork()
if child == 0:
    os.setpgid(0, 0)
    while True: signal.pause()
def interrupted(number, frame):
    os.write(1, b"interrupted %d %d\\n" % (os.getpid(), os.getpgid(child) == child))
    os.kill(child, 9)
    os.wait()
    os._exit(5)
signal.signal(signal.SIGINT, interrupted)
while True:
    time.sleep(0.05)
    os.write(1, b"goes\\n")
"""


def test_a_job_of_a_shell(host: Host) -> None:
    """While the first one has the PID, the second one has the terminal of another shell, and its keys."""
    (host.folder / "job.py").write_text(JOB)
    one, other = Shell(host.folder), Shell(host.folder)
    one.type(f"{sys.executable} job.py")
    pid = int(one.expect(r"pid (\d+)\r\n")[1])
    one.expect(r"goes\r\n")
    other.type(f"{sys.executable} -m pycriu dump -R -t {pid} --shell-job -D images; echo dumped $?")
    other.expect(r"dumped 0\r\n")
    other.type(f"{sys.executable} -m pycriu restore --new-pid -D images")
    other.expect("add --shell-job")
    other.expect(PROMPT)
    other.type(f"{sys.executable} -m pycriu restore --new-pid --shell-job -D images; echo restored $?")
    outer = int(other.expect(r"restored with PID (\d+)\r\n")[1])
    assert outer != pid
    other.expect(r"goes\r\n")
    other.press("\x1a")  # Ctrl-Z
    other.expect(r"Stopped")
    other.expect(PROMPT)
    other.type("fg; echo ended $?")
    other.expect(r"goes\r\n")
    (host.folder / "second").mkdir()
    inside = ["nsenter", "-t", str(outer), "-p", "-m", "-r", "--wd=/proc/self/cwd"]
    words = host.command("dump", "-R", "-t", str(pid), "--shell-job", "-D", "second")
    done = subprocess.run([*inside, *words], cwd=host.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert_sound(host.folder / "second")
    other.press("\x03")  # Ctrl-C
    other.expect(rf"interrupted {pid} 1\r\n")
    other.expect(r"ended 0\r\n")
    wait_until(lambda: not named_init(), "its init ends")
    one.press("\x03")
    one.expect(rf"interrupted {pid} 1\r\n")
    one.expect(PROMPT)
    other.restore(host.folder / "second")  # without a namespace, now that the PID is free
    other.expect(r"goes\r\n")
    other.press("\x03")
    other.expect(rf"interrupted {pid} 1\r\n")
    for shell in (one, other):
        shell.close()
