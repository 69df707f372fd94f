# SPDX-License-Identifier: GPL-2.0-only
# ruff: noqa: E501 - lines of the kernel, as they are
"""Parsers of /proc on recorded text, with the oddities that names can bring into it."""

from __future__ import annotations

import itertools
import os
import subprocess
import threading

import pytest

from pycriu.errors import TraceeGone
from pycriu.kernel import procfs
from pycriu.resources import limits

STAT = (
    "4242 ({}) S 4200 4242 4240 34816 -1 4194304 104 0 0 0 1 2 3 4 20 5 1 0 99 2490368 100 18446744073709551615 "
    "94000000000000 94000000100000 140720000000000 0 0 0 0 4096 65536 1 0 0 17 3 7 2 0 0 0 94000000200000 94000000300000 "
    "94000000400000 140720000000100 140720000000200 140720000000200 140720000000300 256\n"
)

SMAPS = """\
00400000-00401000 r-xp 00000000 fe:01 1311 /usr/bin/odd name with  blanks
Size:                  4 kB
Rss:                   4 kB
THPeligible:           0
VmFlags: rd ex mr mw me dw sd 
7f0000000000-7f0000001000 rw-s 00002000 00:2e 77 /dev/shm/x (deleted)
ProtectionKey:         0
VmFlags: rd wr sh mr mw me ms 
7f0000002000-7f0000003000 ---p 00000000 00:00 0 
VmFlags: mr mw me ac nr 
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]
VmFlags: rd wr mr mw me gd ac 
7ffd00100000-7ffd00104000 r--p 00000000 00:00 0                          [vvar]
VmFlags: rd mr pf io de dd sd 
7ffd00104000-7ffd00106000 r-xp 00000000 00:00 0                          [vdso]
VmFlags: rd ex mr mw me de sd 
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
VmFlags: ex 
"""  # noqa: W291 - the kernel leaves these blanks

LIMITS = """\
Limit                     Soft Limit           Hard Limit           Units     
Max cpu time              unlimited            unlimited            seconds   
Max file size             unlimited            unlimited            bytes     
Max data size             unlimited            unlimited            bytes     
Max stack size            8388608              unlimited            bytes     
Max core file size        0                    unlimited            bytes     
Max resident set          unlimited            unlimited            bytes     
Max processes             96365                96365                processes 
Max open files            1024                 20000                files     
Max locked memory         8388608              8388608              bytes     
Max address space         unlimited            unlimited            bytes     
Max file locks            unlimited            unlimited            locks     
Max pending signals       96365                96365                signals   
Max msgqueue size         819200               819200               bytes     
Max nice priority         0                    0                    
Max realtime priority     0                    0                    
Max realtime timeout      unlimited            unlimited            us        
"""  # noqa: W291


@pytest.mark.parametrize("comm", ["sh", "a b", "a) S 1 (b", ") ", "(", ")", "", "x\ny", "\udcff\udcfe", "((((()"])
def test_stat_whatever_the_name(comm: str) -> None:
    stat = procfs.Stat(STAT.format(comm))
    assert (stat.pid, stat.comm, stat.state) == (4242, comm, "S")
    assert (stat.ppid, stat.pgrp, stat.session, stat.tty_nr) == (4200, 4242, 4240, 34816)
    assert (stat.nice, stat.num_threads, stat.starttime) == (5, 1, 99)
    assert (stat.startcode, stat.endcode, stat.startstack) == (94000000000000, 94000000100000, 140720000000000)
    assert (stat.rt_priority, stat.policy, stat.exit_code) == (7, 2, 256)
    assert (stat.start_data, stat.end_data, stat.start_brk) == (94000000200000, 94000000300000, 94000000400000)
    assert (stat.arg_start, stat.arg_end, stat.env_start, stat.env_end) == (
        140720000000100, 140720000000200, 140720000000200, 140720000000300,
    )  # fmt: skip


def test_stat_of_this_very_process() -> None:
    stat = procfs.stat(os.getpid())
    assert (stat.pid, stat.ppid, stat.state) == (os.getpid(), os.getppid(), "R")
    assert stat.session == os.getsid(0)
    assert stat.arg_start < stat.arg_end <= stat.env_start


def test_smaps() -> None:
    found = procfs.parse_smaps(SMAPS)
    assert [one.name for one in found] == [
        "/usr/bin/odd name with  blanks", "/dev/shm/x (deleted)", "", "[stack]", "[vvar]", "[vdso]", "[vsyscall]",
    ]  # fmt: skip
    first, shared, hidden, stack, *_ = found
    assert (first.start, first.end, first.prot, first.shared, first.inode, first.dev) == (
        0x400000, 0x401000, 5, False, 1311, (0xFE, 1),
    )  # fmt: skip
    assert (shared.prot, shared.shared, shared.offset) == (3, True, 0x2000)
    assert (hidden.prot, hidden.flags) == (0, ("mr", "mw", "me", "ac", "nr"))
    assert "gd" in stack.flags
    assert found[-1].end == 0xFFFFFFFFFF601000


@pytest.mark.parametrize("odd", ["\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029", "\r", "\udcff"])
def test_smaps_with_characters_that_python_takes_for_the_end_of_a_line(odd: str) -> None:
    line = f"00400000-00401000 r--p 00000000 fe:01 13 /tmp/a{odd}VmFlags: ht{odd}b\nVmFlags: rd mr\n"
    (mapping,) = procfs.parse_smaps(line)
    assert mapping.name == f"/tmp/a{odd}VmFlags: ht{odd}b"
    assert mapping.flags == ("rd", "mr")


def test_smaps_of_this_very_process_is_ascending_and_has_a_vdso() -> None:
    found = procfs.parse_smaps(procfs.text("self", "smaps"))
    assert all(one.end <= other.start for one, other in itertools.pairwise(found))
    assert all(one.flags for one in found)
    assert "[vdso]" in [one.name for one in found]


def test_status() -> None:
    status = procfs.parse_status("Name:\ta:b\nUmask:\t0022\nUid:\t0\t1\t2\t3\nCapEff:\t00000000a80425fb\nGroups:\t \n")
    assert status["Name"] == "a:b"
    assert status["Uid"].split() == ["0", "1", "2", "3"]
    assert (status["Groups"], int(status["CapEff"], 16)) == ("", 0xA80425FB)


def test_a_name_cannot_forge_a_line_of_status() -> None:
    status = procfs.parse_status("Name:\tx\x0cSeccomp:\t0\nSeccomp:\t2\n")
    assert status["Seccomp"] == "2"
    assert list(status)[:2] == ["Name", "Seccomp"]


def test_fdinfo_keeps_the_first_of_repeated_lines() -> None:
    info = procfs.parse_fdinfo("pos:\t4\nflags:\t0102001\nmnt_id:\t29\nlock:\t1: FLOCK\nlock:\t2: POSIX\n")
    assert info == {"pos": "4", "flags": "0102001", "mnt_id": "29", "lock": "1: FLOCK"}


def test_auxv_ends_before_or_with_its_null() -> None:
    words = [3, 64, 9, 4096, 0, 0, 77, 78]
    data = b"".join(word.to_bytes(8, "little") for word in words)
    assert procfs.parse_auxv(data)[:4] == [3, 64, 9, 4096]
    assert 77 not in procfs.parse_auxv(data)


def test_limits() -> None:
    found = limits.parse(LIMITS)
    assert len(found) == limits.RLIM_NLIMITS
    assert found[3] == (8388608, limits.RLIM_INFINITY)
    assert found[7] == (1024, 20000)
    assert found[13] == (0, 0)
    assert found[15] == (limits.RLIM_INFINITY, limits.RLIM_INFINITY)


def test_limits_of_this_very_process_are_those_of_getrlimit() -> None:
    import resource

    mine = [tuple(word & limits.RLIM_INFINITY for word in resource.getrlimit(number)) for number in range(16)]
    assert list(limits.look(os.getpid())) == mine


def test_is_utf8() -> None:
    assert procfs.is_utf8("naïve \u2028 \U0001f600")
    assert not procfs.is_utf8(os.fsdecode(b"a\xffb"))


def test_task_that_is_gone() -> None:
    with pytest.raises(TraceeGone, match="4194303"):
        procfs.stat(4194303)
    with pytest.raises(TraceeGone):
        procfs.descriptors(4194303)
    with pytest.raises(TraceeGone):
        procfs.link(4194303, "cwd")


HUGE = """\
7f0000000000-7f0000400000 rw-p 00000000 00:11 234395                     /anon_hugepage (deleted)
Size:               4096 kB
KernelPageSize:     2048 kB
MMUPageSize:        2048 kB
ProtectionKey:         3
VmFlags: rd wr mr mw me de ht
7f0000400000-7f0000401000 rw-p 00000000 00:00 0                          [anon:VmFlags: no]
Size:                  4 kB
KernelPageSize:        4 kB
MMUPageSize:           4 kB
ProtectionKey:         0
VmFlags: rd wr mr mw me ac sd lo lf
"""


def test_smaps_of_huge_pages_and_keys() -> None:
    huge, small = procfs.parse_smaps(HUGE)
    assert (huge.page_size, huge.key, huge.flags[-1], huge.inode) == (2 << 20, 3, "ht", 234395)
    assert (small.page_size, small.key, small.flags[-2:], small.name) == (0, 0, ("lo", "lf"), "[anon:VmFlags: no]")


def test_smaps_without_flags_is_read_once() -> None:
    assert len(procfs.parse_smaps("1000-2000 rw-p 00000000 00:00 0 \nSize: 4 kB\nRss: 4 kB\n")) == 1


def test_a_descriptor_that_is_closed_while_it_is_looked_at_is_gone() -> None:
    number, ended = os.dup2(0, 500), threading.Event()  # a number that nobody else is given

    def open_and_close() -> None:
        while not ended.is_set():
            os.close(number)
            os.dup2(0, number)

    other = threading.Thread(target=open_and_close)
    other.start()
    seen = set()
    try:
        for _ in range(5000):
            try:
                seen.add(bool(procfs.read(os.getpid(), f"fdinfo/{number}")))
            except TraceeGone:
                seen.add(False)
    finally:
        ended.set()
        other.join()
        os.close(number)
    assert seen == {True, False}


def test_a_link_of_a_task_that_has_ended_meanwhile_is_gone() -> None:
    """The kernel finds no memory behind the cached name of a mapping (ESRCH), and no descriptor behind a number."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as task:
        assert task.stdin is not None
        assert task.stdout is not None
        task.stdin.write(b"begun")
        task.stdin.flush()
        assert task.stdout.read(5) == b"begun"  # and so has mapped what it runs
        mapped = sorted(os.listdir(f"/proc/{task.pid}/map_files"))[0]
        names = (f"map_files/{mapped}", "fd/0", "exe")
        for name in names:
            assert os.path.samestat(procfs.target(task.pid, name), os.stat(f"/proc/{task.pid}/{name}"))
        task.kill()
        os.waitid(os.P_PID, task.pid, os.WEXITED | os.WNOWAIT)
        for name in names:
            with pytest.raises(TraceeGone):
                procfs.target(task.pid, name)
