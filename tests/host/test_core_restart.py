# SPDX-License-Identifier: GPL-2.0-only
"""Restart from cores of gdb: the half-built list, programs with threads, plugins, mapped files, and what is refused."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import gdb
from tests.host.conftest import DEADLINE, Host, reap, state, wait_until
from tests.host.cores import RESTART, end, gcore, imported, restart
from tests.host.programs import need

SOURCES = Path(__file__).parent


def at_line(name: str, text: str) -> int:
    """The number of the line of a source that has a text."""
    lines = (SOURCES / f"{name}.c").read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


def debugged(program: str, folder: Path, *commands: str) -> str:
    """What gdb says; a machine without gdb skips by name."""
    try:
        return gdb.run(program, *commands, folder=folder)
    except gdb.NoGdbError as error:
        pytest.skip(f"no gdb: {error}")


@pytest.fixture
def linklist(host: Host, compiled: Callable[..., str]) -> Callable[..., str]:
    """The list of 4000 nodes, stopped at a line for the nth time: its core is written, and it is killed."""

    def build(text: str, times: int, *how: str) -> str:
        program = compiled("linklist", "-g", "-O0", "-Wl,--build-id", *how)
        (host.folder / "typed").write_text("4000\n")
        said = debugged(
            program, host.folder, f"break {at_line('linklist', text)}", "run <typed", f"cont {times}",
            "gcore core.linklist", "kill",
        )  # fmt: skip
        assert "Saved corefile" in said, said
        return program

    return build


def test_the_rest_of_a_list_is_built_and_printed(host: Host, linklist: Callable[..., str]) -> None:
    """The second example of the original: all numbers, though only 500 nodes were there."""
    program = linklist("last = append", 500)
    said = restart(host, "-n", "-w", program, "core.linklist")
    lines = said.splitlines()
    assert lines[0] == f"Restarting {program} using core file core.linklist"
    assert lines[1] == "Original command-line (first 80 chars):"
    assert program.rpartition("/")[2] in lines[2]
    assert re.match(r"Process will be restarted with pid +=", lines[4])
    first = lines.index("How many? 0")
    assert lines[first:-1] == ["How many? 0", *(str(number) for number in range(1, 4001))]
    assert lines[-1] == "Restarted process finished, exiting with value 0"
    assert lines[first - 2 : first] == [
        f"{program} ready to continue from where it left off",
        "Waiting for restarted process to finish",
    ]


def test_several_restarts_of_one_core_at_once(host: Host) -> None:
    """One has the PID of then, and the others each one that is free, which another may have found free, too."""
    subject = host.python("pause_for_dump()")
    assert host.run("core", "save", str(subject.pid), "core", "--kill").ok
    reap(subject.pid)
    (host.folder / "core.side").unlink()
    started = []
    for number in range(5):
        with open(host.folder / f"restarted-{number}", "w") as out:
            words = [sys.executable, "-c", RESTART, "-n", sys.executable, "core"]
            started.append(subprocess.Popen(words, cwd=host.folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out))
    for number, one in enumerate(started):
        assert one.wait(DEADLINE) == 0, (host.folder / f"restarted-{number}").read_text()


def test_the_rest_of_the_numbers_is_printed(host: Host, linklist: Callable[..., str]) -> None:
    """Stopped while it prints: what stdio had not written yet comes, nothing comes twice."""
    program = linklist('printf("%d', 501)
    done = restart(host, "-n", "-w", program, "core.linklist").splitlines()
    assert done[-2] == "4000"
    assert len([line for line in done if line.isdigit()]) >= 3500


def test_a_core_can_be_restarted_more_than_once(host: Host, linklist: Callable[..., str]) -> None:
    program = linklist("last = append", 500)
    for _ in range(2):
        assert "\n4000\n" in restart(host, "-nw", "--", program, "core.linklist")


@pytest.mark.parametrize("how", ["-no-pie", "-static", "-static-pie"])
def test_programs_that_lie_elsewhere(host: Host, linklist: Callable[..., str], how: str) -> None:
    """The heap goes on growing; without its symbols the program is the same, as its build-id says."""
    program = linklist("last = append", 500, how)
    assert "\n4000\n" in restart(host, "-n", "-w", program, "core.linklist")
    subprocess.run(["strip", "-o", "stripped", program], cwd=host.folder, check=True)
    assert "\n4000\n" in restart(host, "-n", "-w", "./stripped", "core.linklist")


def test_without_nostop_it_is_left_stopped(host: Host, compiled: Callable[..., str]) -> None:
    program = compiled("numbers")
    subject = host.start(program, "numbers", "30", "5", "20")
    gcore(host, subject.pid, program)
    end(subject.pid)
    (host.folder / "go").touch()
    (host.folder / "filedescriptors").write_text(f"1 : /dev/null : 0\n3 : {host.folder}/numbers : 0 : 01\n")
    said = restart(host, "-f", program, "core.gdb")
    pid = int(re.search(r"Sent SIGSTOP to (\d+)\. Send it a SIGCONT to resume", said)[1])  # type: ignore[index]
    wait_until(lambda: state(pid) == "T", "the process stops")
    os.kill(pid, 18)
    assert os.waitstatus_to_exitcode(reap(pid) or 0) == 0
    assert (host.folder / "numbers").read_text().split() == [str(number) for number in range(1, 31)]


def test_segments_can_be_chosen(host: Host, linklist: Callable[..., str]) -> None:
    """All but the heap: the list is not there, and the process notices."""
    program = linklist("last = append", 500)
    said = restart(host, "-n", "-w", "-s", program, "core.linklist", typed="1\n" * 40)
    assert "(0=No, 1=Yes)" in said
    assert "\n4000\n" in said
    asked = re.findall(r"Restore \[(0x[0-9a-f]+) - (0x[0-9a-f]+)\] \((...)\)\?", said)
    assert asked
    assert all(rights[1] == "w" for _, _, rights in asked)
    assert "uncaught signal" in restart(host, "-nws", program, "core.linklist", typed="0\n" * 40)


def test_threads_of_cpp_go_on_and_can_be_joined(host: Host) -> None:
    """Exceptions, thread-local storage, condition variables; joining needs what the kernel clears at a thread's end."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed: apt-get install g++")
    program = str(host.folder / "program")
    subprocess.run([compiler, "-O1", "-pthread", "-o", program, SOURCES / "turns.cpp"], check=True)
    subject = host.start(program)
    wait_until(lambda: len(os.listdir(f"/proc/{subject.pid}/task")) == 5, "all threads run")
    gcore(host, subject.pid, program)
    end(subject.pid)
    (host.folder / "go").touch()
    said = restart(host, "-n", "-w", program, "core.gdb")
    assert "begun before, caught\nsum 4900 after 200 turns, the last 1225\nRestarted process finished" in said
    assert said.endswith("exiting with value 7\n")


def test_a_thread_that_has_not_registered_its_rseq_area(host: Host, compiled: Callable[..., str]) -> None:
    """glibc ends the process where the area of a new thread is taken already."""
    program = compiled("rseq")
    subject = host.start(program)
    gcore(host, subject.pid, program)
    end(subject.pid)
    (host.folder / "go").touch()
    assert "registered 0\n" in restart(host, "-n", "-w", program, "core.gdb")


def test_it_gets_another_pid_where_its_own_is_taken(host: Host, compiled: Callable[..., str]) -> None:
    """gcore's process goes on; the other one has the rest of its numbers, too."""
    program = compiled("numbers")
    subject = host.start(program, "numbers", "30", "5", "20")
    gcore(host, subject.pid, program)
    (host.folder / "other").touch()
    (host.folder / "filedescriptors").write_text(f"3 : {host.folder}/other : 0\n")
    said = restart(host, "-f", "-n", "-V", program, "core.gdb")
    assert f"its PID, which was {subject.pid}" in said
    (host.folder / "go").touch()
    reap(subject.pid)
    pid = int(re.search(r"restarted with pid += (\d+)", said)[1])  # type: ignore[index]
    assert os.waitstatus_to_exitcode(reap(pid) or 0) == 0
    assert (host.folder / "other").read_text() == (host.folder / "numbers").read_text()


def test_python_with_threads_modules_and_a_mapped_file(host: Host) -> None:
    """What the original could not: libraries that were loaded late, mapped files, a program at another address."""
    subject = host.python(
        """
import json, mmap, sqlite3, threading
with open("mapped", "w+b") as file:
    file.write(b"content" + bytes(5000))
    file.flush()
    view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
database = sqlite3.connect(":memory:")
database.execute("create table t (n)")
def work():
    for number in range(20):
        database_lock.acquire()
        rows.append(number)
        database_lock.release()
        time.sleep(0.001)
database_lock, rows = threading.Lock(), []
pause_for_dump()
thread = threading.Thread(target=work)
thread.start()
thread.join()
database.executemany("insert into t values (?)", [(row,) for row in rows])
say(view[:7], json.dumps(database.execute("select sum(n) from t").fetchone()))
"""
    )
    gcore(host, subject.pid, sys.executable)
    end(subject.pid)
    (host.folder / "go").touch()
    said = restart(host, "-n", "-w", sys.executable, "core.gdb")
    assert "b'content' [190]" in said


def test_bash_reads_on_in_its_script(host: Host) -> None:
    bash = need("bash")
    (host.folder / "script").write_text(
        "declare -A squares\nfor i in {1..20}; do squares[$i]=$((i * i)); done\necho ready\n"
        "until [ -e go ]; do sleep 0.01; done\necho $(echo ${squares[20]}) ${#squares[@]}\necho end\n"
    )
    subject = host.start(bash, "script")
    wait_until(lambda: os.path.exists(f"/proc/{subject.pid}/fd/255"), "bash has its script open")
    os.kill(subject.pid, 19)  # it moves in its script while it runs
    wait_until(lambda: state(subject.pid) == "T", "bash stands still")
    place = Path(f"/proc/{subject.pid}/fdinfo/255").read_text().split()[1]
    gcore(host, subject.pid, bash)
    end(subject.pid)
    (host.folder / "go").touch()
    (host.folder / "list").write_text(f"255 : {host.folder}/script : {place}\n")
    said = restart(host, "--filedes=list", "-n", "-w", bash, "core.gdb")
    assert "\n400 20\nend\nRestarted process finished, exiting with value 0" in said


def test_the_heap_and_the_words_of_a_process_are_where_they_were(host: Host, compiled: Callable[..., str]) -> None:
    """What a core does not tell, and is found in its memory: as a dump of the same process has it."""
    program = compiled("numbers")
    subject = host.start(program, "numbers", "30", "5", "20", env=os.environ | {"MARK": "of the test"})
    core = gcore(host, subject.pid, program)
    there = host.folder / "dumped"
    there.mkdir()
    dumped = host.dump(subject, images=there)
    assert dumped.ok, dumped
    imported(host, core)
    from pycriu.images import store

    with store.ImagesDir(str(there)) as one, store.ImagesDir(str(host.images)) as other:
        true, found = (images.read_one(f"mm-{subject.pid}.img") for images in (one, other))
        for field in (
            "start_code", "end_code", "start_data", "end_data", "brk", "start_stack", "arg_start", "arg_end",
            "env_start", "env_end", "saved_auxv",
        ):  # fmt: skip
            assert getattr(found, f"mm_{field}") == getattr(true, f"mm_{field}"), field
        was, now = (images.read_one(f"core-{subject.pid}.img") for images in (one, other))
        assert now.thread_core.futex_rla == was.thread_core.futex_rla  # type: ignore[attr-defined]
        assert now.thread_core.rseq_entry == was.thread_core.rseq_entry  # type: ignore[attr-defined]
        spans = [[(vma.start, vma.end) for vma in mm.vmas if not vma.status & 4] for mm in (true, found)]  # type: ignore[attr-defined]
        assert spans[0] == spans[1]


def test_images_of_an_import_are_restored_by_pycriu_restore(host: Host, compiled: Callable[..., str]) -> None:
    program = compiled("numbers")
    subject = host.start(program, "numbers", "30", "5", "20")
    core = gcore(host, subject.pid, program)
    end(subject.pid)
    (host.folder / "list").write_text(f"0:/dev/null:0\n1:/dev/null:0:01\n3:{host.folder}/numbers:0:01\n")
    said = imported(host, core, "--fds", "list")
    assert "not in the core: signal handlers" in said
    assert "open files" not in said
    (host.folder / "go").touch()
    restored = host.restore("--wait-pid", "10")  # who has come by that PID meanwhile is soon gone
    assert restored.ok, restored
    reap(subject.pid)
    assert (host.folder / "numbers").read_text().split() == [str(number) for number in range(1, 31)]


@pytest.mark.parametrize("words", [(), ("--no-files",)], ids=["with files", "without files"])
def test_what_crit_core_makes_is_restarted(host: Host, compiled: Callable[..., str], words: tuple[str, ...]) -> None:
    """Images become a core, and a core becomes images."""
    program = compiled("numbers")
    subject = host.start(program, "numbers", "30", "5", "20")
    dumped = host.dump(subject)
    assert dumped.ok, dumped
    made = [sys.executable, "-m", "pycriu.crit", "core", str(host.images), "-o", str(host.folder), *words]
    subprocess.run(made, check=True, capture_output=True)
    (host.folder / "go").touch()
    (host.folder / "filedescriptors").write_text(f"3 : {host.folder}/numbers : 0\n")
    said = restart(host, "-f", "-n", "-w", "-V", program, f"core.{subject.pid}")
    assert "exiting with value 0" in said
    assert "where the kernel clears the id" not in said
    assert "AVX-512" not in said
    assert (host.folder / "numbers").read_text().split() == [str(number) for number in range(1, 31)]


def test_strict_refuses_what_has_to_be_assumed(host: Host, compiled: Callable[..., str]) -> None:
    program = compiled("numbers")
    subject = host.start(program, "numbers", "30", "5", "20")
    core = gcore(host, subject.pid, program)
    done = host.run("core", "import", str(core), "-D", str(host.images), "--strict")
    assert not done.ok
    assert "--strict" in done.errors()
    assert "open files" in done.errors()
    assert not list(host.images.iterdir())


def test_another_program_is_refused(host: Host, compiled: Callable[..., str], linklist: Callable[..., str]) -> None:
    linklist("last = append", 5)
    other = compiled("numbers")
    assert f"{other} is another build" in restart(host, "-n", other, "core.linklist", status=1)
    assert "is not an ELF core file" in restart(host, "-n", other, other, status=1)
    assert "no such program" in restart(host, "-n", "nowhere/x", "core.linklist", status=1)


@pytest.mark.parametrize(
    ("how", "status", "says"),
    [
        (">/dev/full", 1, "standard output: No space left on device"),
        (">&-", 0, ""),
        (">&- 2>&- <&-", 0, ""),
        ("| true", 0, ""),
    ],
)
def test_streams_that_are_full_or_closed(
    host: Host, compiled: Callable[..., str], how: str, status: int, says: str
) -> None:
    program = compiled("numbers")
    subject = host.start(program, "numbers", "30", "5", "20")
    gcore(host, subject.pid, program)
    end(subject.pid)
    (host.folder / "go").touch()
    (host.folder / "list").write_text(f"3 : {host.folder}/numbers : 0 : 01\n")
    command = f'set -o pipefail; "$@" {how}'
    words = [sys.executable, "-c", RESTART, "-flist", "-n", "-w", program, "core.gdb"]
    with open(host.folder / "said", "w") as said:
        done = subprocess.run(
            ["bash", "-c", command, "bash", *words], cwd=host.folder, stderr=said, timeout=DEADLINE, check=False
        )
    told = (host.folder / "said").read_text()
    assert done.returncode == status, told
    assert says in told
    assert "Traceback" not in told
    written = [str(number) for number in range(1, 31)] if status == 0 else []
    assert (host.folder / "numbers").read_text().split() == written


def test_whoever_is_interrupted_leaves_nothing(host: Host, compiled: Callable[..., str]) -> None:
    """At a question, before anything runs; while it waits, keys are for the process, which goes on."""
    program = compiled("numbers")
    subject = host.start(program, "numbers", "30", "5", "20")
    gcore(host, subject.pid, program)
    end(subject.pid)
    words = [sys.executable, "-c", RESTART, "-s", "-n", "-w", program, "core.gdb"]
    reader, writer = os.pipe()
    (host.folder / "tmp").mkdir()
    own = os.environ | {"TMPDIR": str(host.folder / "tmp")}
    with open(host.folder / "said", "w") as said:
        process = subprocess.Popen(words, cwd=host.folder, stdin=reader, stdout=said, stderr=said, env=own)
        wait_until(lambda: "(0=No, 1=Yes)" in (host.folder / "said").read_text(), "it asks")
        process.terminate()
        assert process.wait(DEADLINE) == 1
        assert "restart: interrupted; what was begun has been undone" in (host.folder / "said").read_text()
        assert not list((host.folder / "tmp").iterdir())
        (host.folder / "list").write_text(f"3 : {host.folder}/numbers : 0 : 01\n")
        process = subprocess.Popen([*words[:3], "-flist", *words[4:]], cwd=host.folder, stdout=said, stderr=said)
        wait_until(lambda: "Waiting for" in (host.folder / "said").read_text(), "it waits")
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)  # by then it does nothing but wait
        process.send_signal(signal.SIGINT)
        (host.folder / "go").touch()
        assert process.wait(DEADLINE) == 0
    assert "exiting with value 0" in (host.folder / "said").read_text()
    for fd in (reader, writer):
        os.close(fd)
