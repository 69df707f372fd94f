# SPDX-License-Identifier: GPL-2.0-only
"""Files are synced together, every one of them, and a failure names its file."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pycriu.images.durable import WORKERS, sync_together

ROOT = Path(__file__).parents[2]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[dict[str, int]]:
    files = {}
    for number in range(3 * WORKERS):
        path = tmp_path / f"file-{number}"
        path.write_bytes(b"x" * number)
        files[path.name] = os.open(path, os.O_RDONLY)
    yield files
    for fd in files.values():
        os.close(fd)


def test_many_files_and_their_directory(opened: dict[str, int], tmp_path: Path) -> None:
    threads = len(os.listdir("/proc/self/task"))
    directory = os.open(tmp_path, os.O_RDONLY)
    sync_together(opened, directory)
    os.close(directory)
    sync_together({})
    deadline = time.monotonic() + 10  # a thread that has done its work still has to end
    while len(os.listdir("/proc/self/task")) != threads:
        assert time.monotonic() < deadline


def test_every_file_is_synced(tmp_path: Path) -> None:
    """Seen from outside: the system calls of a process that does it."""
    program = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); from pycriu.images.durable import sync_together; "
        "fds = [os.open(f'{sys.argv[2]}/{n}', os.O_CREAT | os.O_RDWR) for n in range(40)]; "
        "print(*fds, flush=True); sync_together({str(fd): fd for fd in fds}, os.open(sys.argv[2], os.O_RDONLY))"
    )
    trace = tmp_path / "trace"
    places = [str(ROOT), str(tmp_path)]
    try:
        done = subprocess.run(
            ["strace", "-f", "-e", "trace=fdatasync", "-o", trace, sys.executable, "-c", program, *places],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("strace is not installed")
    if "PTRACE" in done.stderr:
        pytest.skip(f"strace cannot trace here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    fds = {int(fd) for fd in done.stdout.split()}
    calls = [line.partition("fdatasync(")[2] for line in trace.read_text().splitlines() if "fdatasync(" in line]
    synced = {int(call.split(")")[0].split()[0]) for call in calls}
    assert len(fds) == 40
    assert fds < synced
    assert len(synced - fds) == 1  # the directory


def test_a_failure_names_its_file(opened: dict[str, int]) -> None:
    reader, writer = os.pipe()
    try:
        with pytest.raises(OSError, match="Invalid argument: 'a pipe'"):
            sync_together({**opened, "a pipe": reader, **opened})
    finally:
        os.close(reader)
        os.close(writer)


def test_without_threads_it_takes_longer(opened: dict[str, int], tmp_path: Path) -> None:
    program = (
        "import os, resource, sys; sys.path.insert(0, sys.argv[1]); from pycriu.images import durable; "
        "os.setgid(65534); os.setuid(65534); resource.setrlimit(resource.RLIMIT_NPROC, (0, 0)); "
        "fds = {str(n): os.memfd_create(str(n)) for n in range(20)}; durable.sync_together(fds); print('done')"
    )
    if os.geteuid() != 0:
        pytest.skip("only root can become another user, whom the limit holds")
    done = subprocess.run([sys.executable, "-c", program, str(ROOT)], capture_output=True, text=True, check=False)
    assert done.stdout == "done\n", done.stderr
