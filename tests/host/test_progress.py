# SPDX-License-Identifier: GPL-2.0-only
"""What somebody at a terminal sees of a dump and of a restore that take long; and that nobody else does."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.host.conftest import alive, reap

if TYPE_CHECKING:
    from tests.host.conftest import Host

BIG = "block = bytearray(os.urandom(1 << 20) * 240)\npause_for_dump()\nsay(block[:1 << 20] * 240 == block)"
# What takes a second elsewhere is long here.
HASTY = (
    "from pycriu import cli; from pycriu.command import progress; progress.FIRST = progress.AGAIN = 0.002; "
    "import sys; sys.exit(cli.main())"
)


def at_terminal(host: Host, *words: str) -> tuple[int, str]:
    """A command whose standard error is a terminal: its exit status, and what is seen there."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", HASTY, *words], cwd=host.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=slave,
    )  # fmt: skip
    os.close(slave)
    seen = b""
    while True:
        try:
            data = os.read(master, 4096)
        except OSError:  # EIO: nobody has it open any more
            break
        if not data:
            break
        seen += data
    os.close(master)
    return process.wait(), seen.decode()


def test_a_line_while_it_lasts_and_one_at_its_end(host: Host) -> None:
    subject = host.python(BIG)
    where = ("-D", str(host.images))
    status, seen = at_terminal(host, "dump", "-t", str(subject.pid), *where)
    assert status == 0, seen
    if not alive(subject.pid):
        reap(subject.pid)
    assert re.search(r"\r\x1b\[Ksaved \d+ of \d+ pages, [\d.]+ [KMG]?i?B of 2\d\d\.\d MiB, [\d.]+ [KMG]?i?B/s", seen), (
        seen
    )
    last = seen.strip().splitlines()[-1]
    form = (
        r".*pycriu: saved 2\d\d\.\d MiB in \d+ pages, 0 skipped, of 1 tasks, which stood still for \d+\.\d{3} s; "
        r"it took \d+\.\d s"
    )
    assert re.fullmatch(form, last), last
    status, seen = at_terminal(host, "restore", "-d", *where)
    assert status == 0, seen
    assert re.search(r"pycriu: restored 2\d\d\.\d MiB in \d+ pages; it took \d+\.\d s", seen), seen
    assert subject.go() == ["True"]


def test_no_line_where_the_log_is_standard_output_and_none_in_a_file(host: Host) -> None:
    subject = host.python(BIG)
    words = ("dump", "-R", "-t", str(subject.pid), "-D", str(host.images))
    assert at_terminal(host, *words, "-o", "-") == (0, "")
    done = subprocess.run(
        [sys.executable, "-c", HASTY, *words], cwd=host.folder, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert subject.go() == ["True"]
