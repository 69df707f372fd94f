# SPDX-License-Identifier: GPL-2.0-only
"""cr_checkpoint and cr_restart: what is refused, and which exit code each class of failure has."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pycriu.blcr import codes
from tests.host.blcr import ROOT, Blcr, gone, kill
from tests.host.conftest import DEADLINE, Host, alive, children, interpreter_for_others, state, wait_until


@pytest.fixture
def blcr(host: Host) -> Blcr:
    return Blcr(host)


def test_nobody_is_there(blcr: Blcr) -> None:
    program = blcr.program("true")
    program.wait()
    done = blcr.run("checkpoint", program.pid)
    assert done.returncode == 3
    assert f"no process has PID {program.pid}" in done.stderr
    done = blcr.run("checkpoint", "-q", program.pid)
    assert (done.returncode, done.stderr) == (3, "")
    assert blcr.run("checkpoint", "--pgid", program.pid).returncode == 3
    for words in ((), ("7" * 5000,), (program.pid, program.pid)):
        assert blcr.run("checkpoint", *words).returncode == codes.USAGE
    assert blcr.run("checkpoint", "--nonsense", program.pid).returncode == codes.USAGE


HOOKS = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
import pycriu

@pycriu.before_checkpoint
def ready():
    if os.path.exists("busy"):
        raise pycriu.NotNow("busy")
    if os.path.exists("never"):
        raise RuntimeError("never")

@pycriu.after_restore
def back():
    print("back", flush=True)

print("ready", flush=True)
while not os.path.exists("finish"):
    time.sleep(0.01)
"""


def test_a_program_says_not_now_or_no(blcr: Blcr) -> None:
    (blcr.folder / "program.py").write_text(HOOKS)
    program = blcr.program(sys.executable, "program.py", str(ROOT))
    wait_until(lambda: blcr.lines() == ["ready"], f"ready: {blcr.lines()}")
    for name, code, said in (
        ("busy", codes.CR_ETEMPFAIL, "try again later"),
        ("never", codes.CR_EPERMFAIL, "unable to checkpoint"),
    ):
        (blcr.folder / name).touch()
        done = blcr.run("checkpoint", "--term", program.pid)
        assert done.returncode == code, done
        assert f"Checkpoint cancelled by application: {said}" in done.stderr
        assert f"process {program.pid}" in done.stderr
        (blcr.folder / name).unlink()
    blcr.checkpoint(program.pid, "--term", "-f", "saved")
    blcr.finish()
    assert blcr.run("restart", "saved").returncode == 0
    assert blcr.lines() == ["ready", "back"]


def test_others_than_root_are_told_what_they_lack(blcr: Blcr) -> None:
    program = blcr.program("sleep", "100")
    blcr.checkpoint(program.pid, "-f", "saved")
    for path in (blcr.folder, *blcr.folder.parents[:3], blcr.bin, blcr.folder / "saved"):
        path.chmod(0o755)
    for path in blcr.bin.iterdir():
        path.write_text(path.read_text().replace(sys.executable, interpreter_for_others()))
    nobody = {"user": 65534, "group": 65534, "extra_groups": []}
    words = {"checkpoint": ("-F", 1, program.pid), "restart": ("saved",)}
    for name in words:
        done = blcr.run(name, *words[name], **nobody)
        assert done.returncode == 1, done
        assert "CAP_CHECKPOINT_RESTORE is needed" in done.stderr
    kill(program.pid)
    program.wait()


def test_what_cannot_be_saved_is_refused_by_name(blcr: Blcr) -> None:
    (blcr.folder / "program.py").write_text(
        "import os, mmap, time\n"
        "other = os.memfd_create('x'); os.write(other, bytes(4096))\n"
        "area = mmap.mmap(other, 4096)\n"
        "if os.fork() == 0:\n    os.setsid()\n    print('ready', flush=True)\n    time.sleep(100)\n"
        "time.sleep(100)\n"
    )
    program = blcr.program("python3", "-IS", "program.py")
    wait_until(lambda: blcr.lines() == ["ready"], "ready")
    (child,) = children(program.pid)
    done = blcr.run("checkpoint", "--pid", child)
    assert done.returncode == codes.CR_ENOSUPPORT, done
    assert "shared with process" in done.stderr
    assert blcr.run("checkpoint", program.pid).returncode == 0
    kill(child, program.pid)
    program.wait()


# ------------------------------------------------------------------------------------------------- failures, by class


def test_each_class_of_failure_has_its_command(blcr: Blcr) -> None:
    program = blcr.counter()
    blcr.checkpoint(program.pid, "-f", "saved")
    hooks = [f"--run-on-fail-{kind}=echo {kind}; exit 4{at}" for at, kind in enumerate(("args", "temp", "env", "perm"))]
    done = blcr.run("restart", *hooks, "saved")  # its PID is in use
    assert (done.returncode, done.stdout, done.stderr) == (41, "temp\n", "")
    assert blcr.run("restart", "saved").returncode == 16
    done = blcr.run("restart", "--run-on-failure=exit 0", "saved")
    assert done.returncode == 16
    assert f"PID {program.pid} is in use" in done.stderr
    kill(program.pid)
    program.wait()
    for words, kind in (
        (["missing"], 0), (["--nonsense", "saved"], 0), ([], 0), (["saved", "saved"], 0), (["-f", "saved", "saved"], 0),
        (["-f", "saved", "-F", "0"], 0), (["-S", "65", "saved"], 0), (["--relocate", "x", "saved"], 0),
        (["--dir", "missing"], 0), ([str(blcr.folder)], 2), (["out"], 3), (["/dev/null"], 3),
    ):  # fmt: skip
        done = blcr.run("restart", *hooks, *words)
        assert (done.returncode, done.stdout) == (40 + kind, ("args", "temp", "env", "perm")[kind] + "\n"), done
    done = blcr.run(
        "restart", "--run-on-fail-args", "exit 42", "--bad-argument"
    )  # a word of its own, as BLCR's test has
    assert done.returncode == 42
    assert blcr.run("restart", "-q", "--bad-argument").stderr == ""
    assert blcr.run("restart", "saved", "saved").returncode == codes.USAGE
    (blcr.folder / "out").rename(blcr.folder / "moved")
    done = blcr.run("restart", *hooks, "saved")
    assert (done.returncode, done.stdout) == (42, "env\n"), done
    assert blcr.run("restart", "saved").returncode == 2
    (blcr.folder / "out").write_text("")
    done = blcr.run("restart", *hooks, "saved")
    assert (done.returncode, done.stdout) == (43, "perm\n"), done
    (blcr.folder / "out").unlink()
    (blcr.folder / "moved").rename(blcr.folder / "out")
    restart = blcr.start("restart", *hooks, "--run-on-success=touch ran", "saved")
    wait_until((blcr.folder / "ran").exists, "the command for success")
    assert alive(program.pid)
    restart.terminate()
    assert restart.wait() == -signal.SIGTERM
    assert blcr.run("restart", "--run-on-success=exit 9", "saved").returncode == 9
    assert alive(program.pid)
    kill(program.pid)
    gone([program.pid])


def test_a_context_that_is_cut_short_or_foreign_is_refused(blcr: Blcr) -> None:
    program = blcr.counter()
    blcr.checkpoint(program.pid, "-f", "saved", "--term")
    content = (blcr.folder / "saved").read_bytes()
    for at, data in enumerate((content[: len(content) // 2], content[:700], b"", b"nonsense" * 1000)):
        (blcr.folder / f"bad{at}").write_bytes(data)
        done = blcr.run("restart", f"bad{at}")
        assert done.returncode == 22, done
        assert "Restart failed" in done.stderr
        assert not Path(f"/proc/{program.pid}").exists()


def test_a_context_of_another_version_or_cpu_is_refused(blcr: Blcr) -> None:
    program = blcr.counter()
    blcr.checkpoint(program.pid, "--dir", "saved", "--term")

    def changed(name: str, before: bytes, after: bytes) -> subprocess.CompletedProcess[str]:
        path = blcr.folder / "saved" / name
        content = path.read_bytes()
        assert before in content
        path.write_bytes(content.replace(before, after, 1))
        done = blcr.run("restart", "--dir", "saved")
        path.write_bytes(content)
        assert state(program.pid) is None
        return done

    done = changed("inventory.img", b"\x08\x02", b"\x08\x63")  # img_version, the first field
    assert (done.returncode, "img_version 99 is not known" in done.stderr) == (codes.CR_EVERSION, True), done
    here, other = (b"\x08\x01", b"\x08\x03") if os.uname().machine == "x86_64" else (b"\x08\x03", b"\x08\x01")
    done = changed(f"core-{program.pid}.img", here, other)  # mtype
    assert (done.returncode, "another CPU architecture" in done.stderr) == (codes.CR_EBADARCH, True), done
    blcr.finish()
    assert blcr.run("restart", "--dir", "saved").returncode == 7


# -------------------------------------------------------------------------------------------------- what is another


def saved(blcr: Blcr) -> int:
    """A counter that was ended by its checkpoint, the file `context`."""
    program = blcr.counter()
    blcr.checkpoint(program.pid, "-f", "context", "--term")
    program.wait()
    return program.pid


def test_who_has_started_it_ignores_its_children(blcr: Blcr) -> None:
    """As servers do, and what they start inherits that: the end of the program is heard of all the same."""
    saved(blcr)
    blcr.finish()
    done = blcr.run("restart", "context", preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN))
    assert done.returncode == 7, done


def test_the_first_process_of_a_container_ends_too(blcr: Blcr) -> None:
    """The signal that has ended the program ends nobody there: the exit status says it, as a shell would."""
    saved(blcr)
    words = ["unshare", "-p", "-f", "--kill-child", "--mount-proc", str(blcr.bin / "cr_restart"), "--term", "context"]
    done = subprocess.run(
        words, cwd=blcr.folder, env=blcr.environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE,
        check=False,
    )  # fmt: skip
    assert done.returncode == 128 + signal.SIGTERM, done


def test_a_pipe_that_does_not_wait(blcr: Blcr) -> None:
    """O_NONBLOCK is of the pipe, and whoever else has it may have set it."""
    saved(blcr)
    blcr.finish()
    context = (blcr.folder / "context").read_bytes()
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    restart = blcr.start("restart", "-F", "0", stdin=reader)
    os.close(reader)
    time.sleep(0.3)  # it looks, and there is nothing yet
    for part in (context[:3000], context[3000:]):
        with open(os.dup(writer), "wb") as file:
            file.write(part)
        time.sleep(0.05)
    os.close(writer)
    assert restart.wait(DEADLINE) == 7


def test_a_working_directory_that_has_been_removed(blcr: Blcr) -> None:
    """`Blcr.run` sees that none ends with a traceback."""
    (blcr.folder / "gone").mkdir()
    script = 'cd gone && rmdir ../gone && exec "$@"'
    for name, *words in (("checkpoint", "1"), ("checkpoint", "-d", "x", "1"), ("restart", "-d", "x"), ("info", "x")):
        line = ["sh", "-c", script, "sh", str(blcr.bin / f"cr_{name}"), *words]
        (blcr.folder / "gone").mkdir(exist_ok=True)
        done = subprocess.run(line, cwd=blcr.folder, env=blcr.environment, capture_output=True, text=True, check=False)
        assert done.returncode == errno.ENOENT, done
        assert "o such" in done.stderr
        assert "Traceback" not in done.stderr
