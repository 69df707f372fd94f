# SPDX-License-Identifier: GPL-2.0-only
"""cr_checkpoint and cr_restart: defaults, signals, destinations, and what is another after a restart."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from pycriu.blcr import codes
from tests.host.blcr import Blcr, assert_sound, gone, is_counted, kill
from tests.host.conftest import Host, alive, below, children, state, wait_until


@pytest.fixture
def blcr(host: Host) -> Blcr:
    return Blcr(host)


def test_it_goes_on_by_default_and_comes_back_from_the_file_later(blcr: Blcr) -> None:
    program = blcr.counter()
    blcr.checkpoint(program.pid)
    context = blcr.folder / f"context.{program.pid}"
    assert stat.S_IMODE(context.stat().st_mode) == 0o400
    assert_sound(context)
    assert not [path.name for path in blcr.folder.iterdir() if path.name.startswith(".")]
    blcr.wait_for_lines(5)
    blcr.finish()
    assert program.wait() == 7
    before = len(blcr.lines())
    blcr.finish(at_last=False)
    restart = blcr.start("restart", context.name)  # what was written since is cut off, and written again
    wait_until(lambda: len(blcr.lines()) > before + 3, "it counts on")
    blcr.finish()
    assert restart.wait() == 7
    assert is_counted(blcr.lines())
    assert blcr.run("restart", context.name).returncode == 7
    assert is_counted(blcr.lines())
    assert len(blcr.lines()) < before


@pytest.mark.parametrize(
    ("words", "ends"),
    [
        (["--term"], -signal.SIGTERM),
        (["--kill"], -signal.SIGKILL),
        (["--abort"], -signal.SIGABRT),
        (["--signal=10", "-S", "15"], -signal.SIGTERM),
        (["--kill", "--run"], None),
        (["--cont"], None),
        (["--signal", str(int(signal.SIGUSR1))], None),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_signals_after_a_checkpoint(blcr: Blcr, words: list[str], ends: int | None) -> None:
    program = blcr.counter()
    done = blcr.run("checkpoint", *words, program.pid)
    assert done.returncode == 0, done
    if ends is None:
        blcr.wait_for_lines(5)
        assert ("heard" in blcr.lines()) == ("--signal" in words)
        kill(program.pid)
        program.wait()
    else:
        assert program.wait() == ends
    before = len(blcr.lines())
    restart = blcr.start("restart", f"context.{program.pid}")
    if ends is not None:
        wait_until(lambda: len(blcr.lines()) > before + 5, "it counts again")
    else:
        blcr.wait_for_lines(5)
    assert is_counted(blcr.lines())
    os.kill(program.pid, signal.SIGKILL)
    assert restart.wait() == -signal.SIGKILL


def test_stop_leaves_it_stopped(blcr: Blcr) -> None:
    program = blcr.counter()
    blcr.checkpoint(program.pid, "--stop")
    wait_until(lambda: state(program.pid) == "T", "stopped")
    kill(program.pid)
    program.wait()
    restart = blcr.start("restart", "--stop", f"context.{program.pid}")
    wait_until(lambda: state(program.pid) == "T", "restored, and stopped")
    before = len(blcr.lines())
    os.kill(program.pid, signal.SIGCONT)
    wait_until(lambda: len(blcr.lines()) > before + 3, "it counts again")
    assert is_counted(blcr.lines())
    restart.terminate()
    assert restart.wait() == -signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGUSR1], ids=lambda one: one.name)
def test_signals_after_a_restart(blcr: Blcr, number: signal.Signals) -> None:
    program = blcr.counter()
    blcr.checkpoint(program.pid, "--term")
    if number == signal.SIGUSR1:
        blcr.finish()
    done = blcr.run("restart", "-S", int(number), f"context.{program.pid}")
    if number == signal.SIGUSR1:
        assert done.returncode == 7
        assert "heard" in blcr.lines()
        assert is_counted(blcr.lines())
    else:
        assert done.returncode == -number, done


def test_signals_are_forwarded(blcr: Blcr) -> None:
    program = blcr.counter()
    blcr.checkpoint(program.pid, "--term")
    restart = blcr.start("restart", f"context.{program.pid}")
    blcr.wait_for_lines(3)
    assert children(restart.pid) == [program.pid]
    restart.send_signal(signal.SIGUSR1)
    wait_until(lambda: "heard" in blcr.lines(), "the signal has come")
    restart.send_signal(signal.SIGINT)
    assert restart.wait() in (-signal.SIGINT, 1)
    assert not alive(program.pid)


def test_a_stream_needs_no_file(blcr: Blcr) -> None:
    program = blcr.counter()
    with blcr.start("checkpoint", "-F", 1, "--term", program.pid, stdout=subprocess.PIPE) as sender:
        restart = blcr.start("restart", "-F", 0, stdin=sender.stdout)
        assert sender.wait() == 0
        assert program.wait() == -signal.SIGTERM
        blcr.wait_for_lines(5)
        blcr.finish()
        assert restart.wait() == 7
    assert not list(blcr.folder.glob("context*"))
    assert is_counted(blcr.lines())


def test_a_restart_that_is_interrupted_leaves_nothing(blcr: Blcr) -> None:
    temporary = blcr.folder / "temporary"
    temporary.mkdir()
    environment = blcr.environment | {"TMPDIR": str(temporary)}
    with blcr.start("restart", "-F", 0, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as restart:
        assert restart.stdin and restart.stderr
        restart.stdin.write(bytes(100))
        restart.stdin.flush()
        wait_until(lambda: list(temporary.iterdir()), "the folder for the images")
        wait_until(lambda: catches(restart.pid, signal.SIGTERM), "the signal can come")
        restart.terminate()
        assert restart.stderr.read().decode().startswith("cr_restart: Restart cancelled by signal 15")
        assert restart.wait() == 4
    assert not list(temporary.iterdir())


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.partition("SigCgt:")[2].split()[0], 16) >> (number - 1) & 1)


def test_what_replaces_a_context(blcr: Blcr) -> None:
    program = blcr.counter()
    context = blcr.folder / "saved"
    context.write_text("old")
    assert blcr.run("checkpoint", "--noclobber", "-f", "saved", program.pid).returncode == 17
    assert context.read_text() == "old"
    blcr.checkpoint(program.pid, "--backup", "-f", "saved")
    blcr.checkpoint(program.pid, "--backup", "-f", "saved")
    assert (blcr.folder / "saved.~1~").read_text() == "old"
    assert_sound(blcr.folder / "saved.~2~")
    blcr.checkpoint(program.pid, "--backup=kept", "--nosync", "-f", "saved")
    assert_sound(blcr.folder / "kept")
    inode = context.stat().st_ino
    blcr.checkpoint(program.pid, "--clobber", "-f", "saved")
    assert context.stat().st_ino == inode
    blcr.checkpoint(program.pid, "-f", "saved")
    assert context.stat().st_ino != inode
    blcr.checkpoint(program.pid, "--noclobber", "-f", "new")
    for path in (context, blcr.folder / "new"):
        assert_sound(path)
    assert sorted(path.name for path in blcr.folder.glob(".*")) == []
    kill(program.pid)
    program.wait()


def test_a_directory_has_the_images_as_they_are(blcr: Blcr) -> None:
    program = blcr.counter()
    blcr.checkpoint(program.pid, "--dir", "images.d")
    blcr.checkpoint(program.pid, "--backup", "--dir", "images.d")
    assert blcr.run("checkpoint", "--noclobber", "--dir", "images.d", program.pid).returncode == 17
    for name in ("images.d", "images.d.~1~"):
        assert_sound(blcr.folder / name)
    kill(program.pid)
    program.wait()
    blcr.finish()
    assert blcr.run("restart", "--dir", "images.d").returncode == 7
    assert is_counted(blcr.lines())


def test_what_fails_leaves_the_program_and_the_old_context(blcr: Blcr) -> None:
    program = blcr.counter()
    context = blcr.folder / f"context.{program.pid}"
    context.write_text("old")
    reader, writer = os.pipe()
    done = blcr.run("checkpoint", "--time=1", "--term", "-F", writer, program.pid, pass_fds=[writer])
    assert done.returncode == 110, done  # nobody reads: ETIMEDOUT
    os.close(reader)
    done = blcr.run("checkpoint", "--term", "-F", writer, program.pid, pass_fds=[writer])
    assert done.returncode == 32, done  # EPIPE
    os.close(writer)
    assert blcr.run("checkpoint", "--term", "-f", blcr.folder, program.pid).returncode == 21  # EISDIR
    assert blcr.run("checkpoint", "--term", "-f", "no/where", program.pid).returncode == 2
    assert blcr.run("checkpoint", "-f", "one", "-F", 1, program.pid).returncode == 22
    blcr.wait_for_lines(5)
    assert is_counted(blcr.lines())
    assert context.read_text() == "old"
    assert sorted(path.name for path in blcr.folder.glob(".*")) == []
    kill(program.pid)
    program.wait()


def test_several_that_save_one_process_do_so_one_after_the_other(blcr: Blcr) -> None:
    program = blcr.counter()
    savers = [blcr.start("checkpoint", "-f", name, program.pid) for name in ("one", "two", "three", "four")]
    assert [saver.wait() for saver in savers] == [0] * 4
    for name in ("one", "two", "three", "four"):
        assert_sound(blcr.folder / name)
    savers = [blcr.start("checkpoint", "--backup", "--term", "-f", "one", program.pid) for _ in range(3)]
    assert sorted(saver.wait() for saver in savers) == [0, 3, 3]  # nobody is there any more
    assert program.wait() == -signal.SIGTERM
    assert_sound(blcr.folder / "one")
    blcr.finish()
    assert blcr.run("restart", "one").returncode == 7
    assert is_counted(blcr.lines())


def test_what_a_killed_one_has_left_is_removed_by_the_next(blcr: Blcr) -> None:
    for _ in range(10):
        program = blcr.counter()
        saver = blcr.start("checkpoint", "--term", "-f", "saved", program.pid)
        wait_until(lambda: saver.poll() is not None or at_work(blcr.folder), "it works")  # noqa: B023 - at once
        saver.kill()
        if saver.wait() == -signal.SIGKILL:
            break
        program.wait()  # the saver was done before we came
        (blcr.folder / "saved").unlink()
    blcr.wait_for_lines(3)
    assert not (blcr.folder / "saved").exists()
    blcr.checkpoint(program.pid, "-f", "saved")
    assert [path.name for path in blcr.folder.glob(".*")] == []
    kill(program.pid)
    program.wait()


def at_work(folder: Path) -> bool:
    """Whether somebody has begun to write images; that place may be gone at any moment."""
    with suppress(FileNotFoundError):
        return any(os.listdir(place / "images") for place in folder.glob(".cr_checkpoint-*"))
    return False


def test_a_disk_without_room(blcr: Blcr, tmp_path: Path) -> None:
    small = blcr.folder / "small"
    small.mkdir()
    program = blcr.counter()
    for size in (2, 5):  # not even for the images; not for both them and the context
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}m", "none", str(small)], check=False).returncode:
            kill(program.pid)
            pytest.skip("nothing can be mounted on this machine")
        try:
            (small / "old").write_text("old")
            for words in (["-f", "small/old"], ["--backup", "-f", "small/old"], ["--noclobber", "-f", "small/new"]):
                done = blcr.run("checkpoint", "--term", *words, program.pid)
                assert done.returncode == 28, done
                assert [(path.name, path.read_text()) for path in small.iterdir()] == [("old", "old")]
            environment = blcr.environment | {"TMPDIR": str(small)}
            with (
                (blcr.folder / "stream").open("wb") as stream,
                blcr.start("checkpoint", "--term", "-F", 1, program.pid, stdout=stream, env=environment) as sender,
            ):
                assert sender.wait() == (28 if size == 2 else 0)
            assert [path.name for path in small.iterdir()] == ["old"]
        finally:
            subprocess.run(["umount", str(small)], check=True)
    assert program.wait() == -signal.SIGTERM


def test_a_file_that_cannot_be_cut_back_spoils_no_other(blcr: Blcr) -> None:
    """Both have grown since. One can only be appended to: nothing is restarted, and the other keeps its words."""
    (blcr.folder / "program.py").write_text(
        "import os, time\nfiles = [open(name, 'ab', buffering=0) for name in ('first', 'second')]\n"
        "for file in files:\n    file.write(b'before\\n')\nprint('ready', flush=True)\ntime.sleep(100)\n"
    )
    program = blcr.program(sys.executable, "-IS", "program.py")
    wait_until(lambda: blcr.lines() == ["ready"], "it has written")
    blcr.checkpoint(program.pid, "--term", "-f", "saved")
    program.wait()
    first, second = (blcr.folder / name for name in ("first", "second"))
    for path in (first, second):
        path.write_text("before\nand since\n")
    done = subprocess.run(["chattr", "+a", str(second)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file here is only appended to: {done.stderr.strip()}")
    try:
        refused = blcr.run("restart", "saved")
        assert refused.returncode == errno.EPERM
        assert f"{second} cannot be cut back" in refused.stderr
        assert [path.read_text() for path in (first, second)] == ["before\nand since\n"] * 2
        assert not alive(program.pid)
    finally:
        subprocess.run(["chattr", "-a", str(second)], check=True)


def test_paths_are_relocated(blcr: Blcr) -> None:
    old = blcr.folder / "old=place"
    old.mkdir()
    loop = "n=0; until [ -e finish ]; do echo $n; n=$((n+1)); sleep 0.03; done"
    program = blcr.program("sh", "-c", loop, out="old=place/out", cwd=old)
    blcr.wait_for_lines(3, "old=place/out")
    blcr.checkpoint(program.pid, "--term", "-f", "saved")
    new = blcr.folder / "new"
    old.rename(new)
    assert blcr.run("restart", "saved").returncode == 2
    (new / "finish").touch()
    quoted = str(old).replace("=", "\\=")
    done = blcr.run("restart", "--relocate=/no/where=/else", f"--relocate={quoted}={new}", "saved")
    assert done.returncode == 0, done
    assert is_counted(blcr.lines("new/out"))


def test_new_pids_let_it_be_restarted_beside_itself(blcr: Blcr) -> None:
    program = blcr.counter()
    blcr.checkpoint(program.pid, "-f", "saved")
    copies = [
        blcr.start("restart", "--no-restore-pid", f"--run-on-success=touch back{number}", "saved") for number in (1, 2)
    ]
    for number, copy in enumerate(copies, 1):
        wait_until(lambda: (blcr.folder / f"back{number}").exists() or copy.poll() is not None, "it runs")  # noqa: B023
    if copies[0].poll() == 1:
        pytest.skip("this machine makes no PID namespaces")
    assert [copy.poll() for copy in copies] == [None, None]
    assert alive(program.pid)
    blcr.finish()
    assert [program.wait(), *(copy.wait() for copy in copies)] == [7, 7, 7]


def test_commands_of_a_restart_with_new_pids_run_out_here(blcr: Blcr) -> None:
    """Also when the namespace is no more, where nothing could be started."""
    place = blcr.folder / "place"
    place.mkdir()
    program = blcr.program("sh", "-c", "until [ -e finish ]; do echo 1; sleep 0.03; done", out="place/out", cwd=place)
    blcr.wait_for_lines(3, "place/out")
    blcr.checkpoint(program.pid, "--term", "-f", "saved")
    copy = blcr.start("restart", "--no-restore-pid", "--run-on-success=readlink /proc/self/ns/pid >where", "saved")
    where = blcr.folder / "where"
    wait_until(lambda: (where.exists() and where.read_text().endswith("\n")) or copy.poll() is not None, "it runs")
    assert where.read_text() == os.readlink("/proc/self/ns/pid") + "\n"
    (place / "finish").touch()
    assert copy.wait() == 0
    place.rename(blcr.folder / "elsewhere")
    done = blcr.run("restart", "--no-restore-pid", "--run-on-failure=touch failed", "saved")
    assert done.returncode == 2, done
    assert (blcr.folder / "failed").exists()


def test_new_pids_of_those_that_have_lost_their_parents(blcr: Blcr) -> None:
    """Somebody hears of their end, while the eldest lives."""
    code = "until [ -e back ]; do sleep 0.02; done; for i in 1 2 3; do (sleep 0.1 &); done; touch begun; exec sleep 60"
    program = blcr.program("sh", "-c", code, out="out")
    blcr.checkpoint(program.pid, "--term", "-f", "saved")
    copy = blcr.start("restart", "--no-restore-pid", "--run-on-success=touch back", "saved")
    wait_until(lambda: (blcr.folder / "begun").exists() or copy.poll() is not None, "it runs")
    wait_until(lambda: len(below(copy.pid)) == 2, "its init and it are left")
    copy.kill()
    copy.wait()


def test_groups_and_sessions_are_ours_unless_they_are_to_be_kept(blcr: Blcr) -> None:
    program = blcr.counter()
    blcr.checkpoint(program.pid, "-f", "saved", "--term")

    def ids(*words: str) -> tuple[int, int]:
        restart = blcr.start("restart", *words, "saved")
        blcr.wait_for_lines(2)
        found = os.getpgid(program.pid), os.getsid(program.pid)
        restart.kill()
        restart.wait()
        kill(program.pid)
        gone([program.pid])
        return found

    assert ids() == (os.getpgrp(), os.getsid(0))
    assert ids("--restore-pgid") == (program.pid, os.getsid(0))
    assert ids("--restore-sid", "--restore-pgid") == (program.pid, program.pid)
    assert ids("--restore-sid", "--no-restore-sid") == (os.getpgrp(), os.getsid(0))


def test_saved_files_are_not_needed(blcr: Blcr) -> None:
    (blcr.folder / "library").write_bytes(b"as it was" + bytes(20000))
    (blcr.folder / "program.py").write_text(
        "import ctypes, os, time\n"
        "libc = ctypes.CDLL(None); libc.mmap.restype = ctypes.c_void_p\n"
        "libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]\n"
        "fd = os.open('library', os.O_RDONLY)\n"
        "areas = [libc.mmap(None, 24576, 1, how, fd, 0) for how in (1, 2)]\n"
        "os.close(fd)\n"
        "print('ready', flush=True)\n"
        "while not os.path.exists('go'): time.sleep(0.01)\n"
        "print(*(ctypes.string_at(area, 9).decode() for area in areas), flush=True)\n"
    )
    program = blcr.program("python3", "-IS", "program.py")
    wait_until(lambda: blcr.lines() == ["ready"], "ready")
    blcr.checkpoint(program.pid, "-f", "none")
    blcr.checkpoint(program.pid, "-f", "all", "--save-all", "--term")
    (blcr.folder / "library").unlink()
    (blcr.folder / "go").touch()
    assert blcr.run("restart", "none").returncode == 2
    done = blcr.run("restart", "all")
    assert done.returncode == 0, done
    assert blcr.lines()[-1] == "as it was as it was"


def test_a_program_that_is_saved_may_have_another_file(blcr: Blcr) -> None:
    own = blcr.folder / "own"
    shutil.copy("/bin/sleep", own)
    program = blcr.program(str(own), "300")
    wait_until(lambda: Path(f"/proc/{program.pid}/comm").read_text() == "own\n", "it sleeps")
    blcr.checkpoint(program.pid, "-f", "none")
    blcr.checkpoint(program.pid, "-f", "exe", "--save-exe", "--term")
    content = own.read_bytes()
    own.unlink()  # it may be busy
    own.write_bytes(content + content)
    own.chmod(0o755)
    done = blcr.run("restart", "none")
    assert done.returncode == 22, done
    assert "at the dump it was" in done.stderr
    restart = blcr.start("restart", "--run-on-success=touch back", "exe")
    wait_until((blcr.folder / "back").exists, "it is back")
    assert alive(program.pid)
    kill(program.pid)
    assert restart.wait() == -signal.SIGKILL


def test_debuggers_and_what_they_debug(blcr: Blcr) -> None:
    program = blcr.counter()
    tracer = blcr.program(
        "python3", "-ISc",
        "import ctypes, os, signal, sys, time\n"
        "libc = ctypes.CDLL(None)\n"
        f"assert libc.ptrace(0x4206, {program.pid}, 0, 0) == 0\n"  # PTRACE_SEIZE
        "print('ready', flush=True)\ntime.sleep(100)",
        out="tracer",
    )  # fmt: skip
    wait_until(lambda: blcr.lines("tracer") == ["ready"], "seized")
    assert blcr.run("checkpoint", program.pid).returncode == codes.CR_EPTRACED
    assert blcr.run("checkpoint", "--ptraced-allow", program.pid).returncode == codes.CR_EPTRACED
    done = blcr.run("checkpoint", "--ptraced-skip", program.pid)
    assert done.returncode == 3
    assert "no processes checkpointed" in done.stderr
    assert blcr.run("checkpoint", tracer.pid).returncode == codes.CR_EPTRACER
    assert blcr.run("checkpoint", "--ptracer-skip", tracer.pid).returncode == 3
    kill(tracer.pid, program.pid)
    tracer.wait()
    program.wait()


def test_a_debugger_below_is_left_out_with_what_it_debugs(blcr: Blcr) -> None:
    traced = (
        "import ctypes, os, time; ctypes.CDLL(None).ptrace(0, 0, 0, 0)\nos.close(1)\nos.execlp('sleep', 'sleep', '100')"
    )
    (blcr.folder / "program.py").write_text(
        "import os, sys, time\n"
        "if os.fork():\n    time.sleep(100)\n"
        "reader, writer = os.pipe()\n"
        "child = os.fork()\n"
        f"if not child:\n    os.execlp(sys.executable, 'python3', '-ISc', {traced!r})\n"
        "os.waitpid(child, 0)\n"  # it has stopped at its execve
        "print(os.getpid(), child, flush=True)\ntime.sleep(100)\n"
    )
    program = blcr.program(sys.executable, "-IS", "program.py")
    wait_until(blcr.lines, "the debugger")
    tracer, child = map(int, blcr.lines()[0].split())
    assert blcr.run("checkpoint", program.pid).returncode == codes.CR_EPTRACER
    done = blcr.run("checkpoint", "--ptracer-skip", "--kmsg-warning", "-f", "saved", program.pid)
    assert done.returncode == 0, done
    assert all(f"process {pid} " in done.stderr for pid in (tracer, child)), done
    assert f'"pid": {program.pid},' in blcr.run("info", "--json", "saved").stdout
    assert f'"pid": {child},' not in blcr.run("info", "--json", "saved").stdout
    kill(child, tracer, program.pid)
    program.wait()
    gone([tracer, child])


def test_info_shows_what_is_in_it(blcr: Blcr) -> None:
    program = blcr.counter()
    blcr.checkpoint(program.pid, "-f", "saved", "--term")
    said = blcr.run("info", "saved").stdout
    for text in (f"Scope: tree {program.pid}", "Registers:", "SIGUSR1: handler", f"{blcr.folder}/out"):
        assert text in said
    assert f'"pid": {program.pid}' in blcr.run("info", "--json", "saved").stdout
    assert blcr.run("info", "missing").returncode == 2
    with Path("/dev/full").open("w") as full:
        shown = blcr.start("info", "saved", stdout=full, stderr=subprocess.PIPE)
        assert shown.stderr is not None
        assert shown.stderr.read() == b"cr_info: standard output: No space left on device\n"
        assert shown.wait() == 22
