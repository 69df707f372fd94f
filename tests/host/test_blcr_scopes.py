# SPDX-License-Identifier: GPL-2.0-only
"""Which processes a checkpoint is of: one alone, a group, a session, itself among them, and who is left out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.host.blcr import Blcr, assert_sound, in_session, is_counted, kill
from tests.host.conftest import Host, alive, children, state, wait_until

# An outer Python, whose child counts; it has the child saved, then the cr_restart of the child, and then itself.
# However slow the machine is, the child has not ended before it is saved for the last time.
ITSELF = """
import os, subprocess, sys, time
child = os.fork()
if not child:
    for number in range(16):
        print(number, "Hello", flush=True)
        time.sleep(0.1)
        while number % 4 == 3 and number < 15 and not os.path.exists(f"back{number // 4 + 1}"):
            time.sleep(0.02)
    print("16 DONE", flush=True)
    os._exit(0)

def save(name, pid):
    time.sleep(0.2)
    subprocess.run(["cr_checkpoint", f"--file={name}", "--tree", "--term", str(pid)], check=True)

def restart(number):
    started = subprocess.Popen(["cr_restart", f"--run-on-success=touch back{number}", f"Context{number}"])
    while not os.path.exists(f"back{number}"):
        assert started.poll() is None, started.returncode
        time.sleep(0.01)
    return started

save("Context1", child)
assert os.waitpid(child, 0)[1] == 15
first = restart(1)
save("Context2", first.pid)
assert first.wait() == -15, first.returncode
restart = restart(2)
save("Context3", os.getpid())
assert restart.wait() == 0, restart.returncode
"""

PIPELINE = """
import os, sys, time
reader, writer = os.pipe()
os.setsid()
first = os.fork()
if not first:
    os.close(reader)
    os.setpgid(0, 0)
    for number in range(10000):
        os.write(writer, b"%d\\n" % number)
        if os.path.exists("finish"):
            os._exit(3)
        time.sleep(0.02)
os.setpgid(first, first)
if not os.fork():
    os.close(writer)
    os.setpgid(0, first)
    while data := os.read(reader, 7):
        os.write(1, data)
        time.sleep(0.03)
    os.write(1, b"end\\n")
    os._exit(0)
os.close(reader)
os.close(writer)
print(first, file=open("group", "w"), flush=True)
os.waitpid(first, 0)
os.wait()
"""


@pytest.fixture
def blcr(host: Host) -> Blcr:
    return Blcr(host)


def test_a_python_saves_its_child_then_the_restart_of_it_then_itself(blcr: Blcr) -> None:
    (blcr.folder / "outer.py").write_text(ITSELF)
    # as a shell would: who has ended below it is read
    again = "cr_restart '--run-on-success=touch back3' Context3"
    script = f"cr_run python3 -IS outer.py >out; echo $? >first; {again}; echo $? >second"
    shell = subprocess.run(
        [sys.executable, "-ISc", REAPER, "sh", "-c", script],
        cwd=blcr.folder, env=blcr.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100,
        check=False,
    )  # fmt: skip
    assert "Traceback" not in shell.stderr, shell.stderr
    assert (blcr.folder / "first").read_text() == "143\n"
    assert (blcr.folder / "second").read_text() == "0\n"
    assert blcr.lines() == [*(f"{number} Hello" for number in range(16)), "16 DONE"]


# PID 1 of a container may not read how orphans have ended; this does, for all that is below it.
REAPER = """
import ctypes, os, sys
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0
child = os.fork()
if not child:
    os.execvp(sys.argv[1], sys.argv[1:])
while True:
    pid, status = os.wait()
    if pid == child:
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
"""


@pytest.mark.parametrize("by", ["cr_restart", "pycriu restore"])
def test_a_group_with_two_roots_and_a_pipe_between_them(blcr: Blcr, by: str) -> None:
    (blcr.folder / "pipeline.py").write_text(PIPELINE)
    shell = blcr.program(sys.executable, "-IS", "pipeline.py", start_new_session=False)
    wait_until(lambda: (blcr.folder / "group").exists() and len(blcr.lines()) > 5, "the pipeline works")
    group = int((blcr.folder / "group").read_text())
    done = blcr.run("checkpoint", "--pgid", "--term", "--dir", "saved", group)
    assert done.returncode == 0, done
    assert_sound(blcr.folder / "saved")
    shell.wait()
    assert "end" not in blcr.lines()
    if by == "cr_restart":
        restart = blcr.start("restart", "--dir", "saved")
    else:
        restored = blcr.host.restore("--shell-job", images=blcr.folder / "saved")
        assert restored.ok, restored
    blcr.wait_for_lines(5)
    blcr.finish()
    if by == "cr_restart":
        assert restart.wait() == 3
    wait_until(lambda: "end" in blcr.lines(), f"the end: {blcr.lines()[-3:]}")
    assert is_counted(blcr.lines()[:-1])


def test_a_process_alone(blcr: Blcr) -> None:
    (blcr.folder / "program.py").write_text(
        "import os, sys, time\n"
        "child = os.fork()\n"
        "while not os.path.exists('go' if child else 'end'):\n    time.sleep(0.01)\n"
        "if child:\n"
        "    try:\n        print(os.waitpid(child, 0)[1], flush=True)\n"
        "    except ChildProcessError:\n        print('alone', flush=True)\n"
    )
    program = blcr.program(sys.executable, "-IS", "program.py")
    wait_until(lambda: children(program.pid), "a child")
    (child,) = children(program.pid)
    done = blcr.run("checkpoint", "--pid", "-f", "saved", program.pid)
    assert done.returncode == 0, done
    (blcr.folder / "go").touch()
    (blcr.folder / "end").touch()
    program.wait()
    assert blcr.lines() == ["0"]
    assert blcr.run("restart", "saved").returncode == 0
    assert blcr.lines() == ["alone"]
    assert not alive(child)


def test_a_session_less_what_is_omitted(blcr: Blcr) -> None:
    loop = "n=0; until [ -e finish ]; do echo $n; n=$((n+1)); sleep 0.02; done"
    script = f"cr_run --omit sleep 300 & ({loop}) & {loop} >other; wait $!; exit 5"
    program = blcr.program("bash", "-c", script)
    wait_until(lambda: omitted_of(program.pid), "the sleep that is to be omitted")
    left = omitted_of(program.pid)
    blcr.wait_for_lines(5)
    done = blcr.run("checkpoint", "--sid", "--term", "--kmsg-warning", "-f", "saved", program.pid)
    assert done.returncode == 0, done
    assert f"process {left[0]} (sleep) is left out" in done.stderr
    nobody = blcr.run("checkpoint", left[0])
    assert (nobody.returncode, "no processes checkpointed" in nobody.stderr) == (3, True)
    kill(*left)
    wait_until(lambda: not in_session(program.pid), "the end of the session")
    restart = blcr.start("restart", "saved")
    blcr.wait_for_lines(3)
    blcr.wait_for_lines(3, "other")
    blcr.finish()
    assert restart.wait() == 5
    assert is_counted(blcr.lines())
    assert is_counted(blcr.lines("other"))


def omitted_of(pid: int) -> list[int]:
    """The `sleep 300` among the children."""
    found = []
    for one in children(pid):
        with suppress(FileNotFoundError, ProcessLookupError):  # others of them come and go
            if Path(f"/proc/{one}/cmdline").read_bytes() == b"sleep\x00300\0":
                found.append(one)
    return found


def test_a_nested_cr_run_undoes_omit(blcr: Blcr) -> None:
    said = blcr.run("run", "--omit", "sh", "-c", "cr_run sh -c 'echo ${PYCRIU_CR_OMIT-none}'; echo $PYCRIU_CR_OMIT")
    assert said.stdout == "none\n1\n"
    assert blcr.run("run", "sh", "-c", "exit 9").returncode == 9
    assert blcr.run("run", "no-such-program").returncode == 127
    assert blcr.run("run", "").returncode == 127
    assert blcr.run("run", blcr.folder).returncode == 126
    assert blcr.run("run").returncode == 0


def test_pipes_to_others_become_the_standard_ones(blcr: Blcr) -> None:
    (blcr.folder / "program.py").write_text(
        "import os, sys\nprint('ready', flush=True)\nfor line in sys.stdin:\n"
        "    print('heard', line, end='', flush=True)\n    print('told', line, end='', file=sys.stderr, flush=True)\n"
    )
    program = subprocess.Popen(
        [sys.executable, "-IS", "program.py"],
        cwd=blcr.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    blcr.host.pids.add(program.pid)
    assert program.stdin and program.stdout and program.stderr
    assert program.stdout.readline() == b"ready\n"
    done = blcr.run("checkpoint", "--term", "-f", "saved", program.pid)
    assert done.returncode == 0, done
    program.wait()
    done = blcr.run("restart", "saved", input="one\ntwo\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "heard one\nheard two\n", "told one\ntold two\n")
    for end in (program.stdin, program.stdout, program.stderr):
        end.close()


@pytest.mark.parametrize("later", ["maybe", "always", "never"])
def test_whether_a_cr_restart_is_saved(blcr: Blcr, later: str) -> None:
    program = blcr.counter()
    blcr.checkpoint(program.pid, "--term", "-f", "first")
    restart = blcr.start("restart", f"--omit-{later}", "first")
    blcr.wait_for_lines(3)
    done = blcr.run("checkpoint", "--term", "-f", "second", restart.pid)
    assert done.returncode == 0, done
    assert restart.wait() == -signal.SIGTERM
    said = blcr.run("info", "second").stdout
    assert ("cr_restart" in said.partition("Files:")[0].partition("Processes:")[2]) == (later == "never")
    again = blcr.start("restart", "second")
    blcr.wait_for_lines(3)
    assert is_counted(blcr.lines())
    assert state(restart.pid) is None or later == "never"
    os.kill(program.pid, signal.SIGKILL)
    assert again.wait() == -signal.SIGKILL
