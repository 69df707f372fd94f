# SPDX-License-Identifier: GPL-2.0-only
"""crit x: what a checkpoint of CRIU's holds, and one with sockets, timers, signals and a family."""

from __future__ import annotations

import re
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from pycriu.crit import cli
from pycriu.images import messages as m
from tests.images import framed, least

SAMPLES = Path(__file__).parent / "samples" / "criu"


def core(comm: str, state: int = 1, **task: Any) -> Any:
    tc = least("task_core_entry", comm=comm, task_state=state, exit_code=9 if state == 2 else 0, **task)
    return least("core_entry", tc=tc, thread_core=least("thread_core_entry", blk_sigset=0))


def words_of(address: str) -> int:
    return int.from_bytes(socket.inet_aton(address), "little")


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A parent with sockets and timers, a stopped child with a thread, a dead one."""
    folder = tmp_path_factory.mktemp("family")
    timers = least("task_timers_entry")
    for name in ("real", "virt", "prof"):
        getattr(timers, name).CopyFrom(m.itimer_entry(isec=0, iusec=0, vsec=0, vusec=0))
    timers.real.CopyFrom(m.itimer_entry(isec=2, iusec=0, vsec=1, vusec=500))
    timers.posix.append(least("posix_timer_entry", it_id=4, clock_id=1, si_signo=10, vsec=3, vnsec=5, isec=0, insec=0,
                              overrun=2))  # fmt: skip
    actions = [m.sa_entry(sigaction=0, flags=0, restorer=0, mask=0) for _ in range(62)]
    actions[0].sigaction = 1  # SIGHUP
    actions[14].sigaction, actions[14].mask = 0x1000, 1 << 9
    shared = m.signal_queue_entry(signals=[m.siginfo_entry(siginfo=b"\x0a\0\0\0\0\0\0\0\xff\xff\xff\xff")])
    parent = core("parent", timers=timers, sigactions=actions, signals_s=shared)
    inet = {"family": 2, "type": 1, "proto": 6, "opts": least("sk_opts_entry"), "fown": least("fown_entry"), "flags": 2}
    files = [
        m.file_entry(type=1, id=1, reg=least("reg_file_entry", id=1, name="/bin/prog")),
        m.file_entry(type=4, id=2, isk=least("inet_sk_entry", id=2, ino=0x1F, state=1, src_port=80, dst_port=4000,
                     src_addr=[words_of("127.0.0.1")], dst_addr=[words_of("10.0.0.2")], **inet)),
        m.file_entry(type=5, id=3, usk=least("unix_sk_entry", id=3, ino=77, type=1, state=10, peer=0,
                     name=b"/run/s\0")),
        m.file_entry(type=5, id=4, usk=least("unix_sk_entry", id=4, ino=78, type=2, state=7, peer=77, name=b"\0ab")),
        m.file_entry(type=17, id=5, tfd=least("timerfd_entry", id=5, clockid=7, ticks=3, vsec=9, vnsec=0, isec=0,
                     insec=0)),
        m.file_entry(type=13, id=6, nlsk=least("netlink_sk_entry", id=6, protocol=15, state=1, portid=5, dst_portid=0,
                     dst_group=0)),
        m.file_entry(type=10, id=7, psk=least("packet_sock_entry", id=7, type=3, protocol=8, ifindex=0)),
        m.file_entry(type=2, id=8, pipe=least("pipe_entry", id=8, pipe_id=55)),
    ]  # fmt: skip
    mm = least("mm_entry", exe_file_id=1, vmas=[
        m.vma_entry(start=0x1000, end=0x3000, pgoff=0x1000, shmid=1, prot=5, flags=2, status=0x41, fd=-1),
        m.vma_entry(start=0x4000, end=0x5000, pgoff=0, shmid=9, prot=3, flags=1, status=0x101, fd=-1),
        m.vma_entry(start=0x6000, end=0x7000, pgoff=0, shmid=0, prot=3, flags=2, status=0x203, fd=-1),
    ])  # fmt: skip
    pages = [m.pagemap_head(pages_id=1), m.pagemap_entry(vaddr=0x2000, compat_nr_pages=1, nr_pages=1, flags=4)]
    images: dict[str, list[Any]] = {
        "inventory.img": [m.inventory_entry(img_version=2)],
        "pstree.img": [
            m.pstree_entry(pid=10, ppid=0, pgid=10, sid=10, threads=[10]),
            m.pstree_entry(pid=11, ppid=10, pgid=10, sid=10, threads=[11, 13]),
            m.pstree_entry(pid=12, ppid=11, pgid=10, sid=10, threads=[12]),
        ],
        "core-10.img": [parent], "core-11.img": [core("child", 3)], "core-12.img": [core("ghost", 2)],
        "core-13.img": [least("core_entry", thread_core=least("thread_core_entry", comm="worker", blk_sigset=1))],
        "files.img": files,
        "tcp-stream-1f.img": [(least("tcp_stream_entry", inq_len=3, outq_len=4), b"abcdefg")],
        "sk-queues.img": [(m.sk_packet_entry(id_for=4, length=2), b"ab")],
    }  # fmt: skip
    for pid in (10, 11):
        images |= {
            f"ids-{pid}.img": [m.task_kobj_ids_entry(vm_id=pid, files_id=pid, fs_id=pid, sighand_id=pid)],
            f"fs-{pid}.img": [m.fs_entry(cwd_id=1, root_id=1, umask=0)],
            f"mm-{pid}.img": [mm],
            f"pagemap-{pid}.img": pages,
            f"fdinfo-{pid}.img": [
                m.fdinfo_entry(id=number, fd=number, flags=0, type=files[number - 1].type) for number in range(1, 9)
            ],
        }
    for name, entries in images.items():
        (folder / name).write_bytes(framed(name, entries))
    return folder


def explored(folder: Path, what: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(["x", str(folder), what]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("what", "lines"),
    [
        ("ps", ["    PID   PGID    SID   COMM", "     10     10     10   parent", "     11     10     10       child"]),
        ("tree", ["10 parent  /bin/prog", "  11 child  stopped  threads 13 worker  /bin/prog",
                  "    12 ghost  dead, status 0x9"]),
        ("fds", ["\t      1: /bin/prog", "\t      3: unix[77 (0) /run/s=00]", "\t      8: pipe[55]",
                 "\t      5: TIMERFD.5"]),
        ("mems", ["\t00001000-00003000                   r-x /bin/prog + 0x1000",
                  "\t00004000-00005000                   rw- shmem[1]",
                  "\t00006000-00007000                   rw- [stack]"]),
        ("rss", ["\t2000 / 1                00001000 / 2        /bin/prog"]),
        ("sockets", ["2   TCP          ESTABLISHED  127.0.0.1:80 > 10.0.0.2:4000    10:2,11:2  7",
                     "3   UNIX STREAM  LISTEN       /run/s                          10:3,11:3  0",
                     "4   UNIX DGRAM   CLOSE        @ab > inode 77                  10:4,11:4  2",
                     "6   NETLINK 15   CONNECTED    port 5                          10:6,11:6  0"]),
        ("timers", ["10 parent", "\titimer real: in 1.000500 s, every 2.000000 s",
                    "\ttimer 4: MONOTONIC, in 3.000000005 s, SIGUSR1, overrun 2",
                    "\ttimerfd 5: BOOTTIME, in 9.000000000 s, 3 ticks unread"]),
        ("signals", ["\tSIGHUP: ignored, flags 0x0", "\tpending: SIGUSR1, code -1", "\tthread 13 blocks SIGHUP"]),
    ],
)  # fmt: skip
def test_a_family(family: Path, capsys: pytest.CaptureFixture[str], what: str, lines: list[str]) -> None:
    text = explored(family, what, capsys).splitlines()
    for line in lines:
        assert line in [one.rstrip() for one in text], "\n".join(text)


def test_signals_are_numbered_without_those_that_have_no_action(
    family: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "\tSIGSTKFLT: handler 0x1000, flags 0x0, blocks SIGUSR1" in explored(family, "signals", capsys)


@pytest.mark.parametrize("what", ["ps", "tree", "fds", "mems", "rss", "sockets", "timers", "signals"])
def test_a_sleep_of_criu(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = explored(SAMPLES, what, capsys)
    assert re.search({"sockets": "^ID", "timers": "^$"}.get(what, "27273"), text)


def test_a_tree_that_is_none_is_refused(family: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries = [m.pstree_entry(pid=1, ppid=2, pgid=1, sid=1), m.pstree_entry(pid=2, ppid=1, pgid=1, sid=1)]
    (tmp_path / "pstree.img").write_bytes(framed("pstree.img", entries))
    assert cli.main(["x", str(tmp_path), "ps"]) == 1
    assert "not one tree" in capsys.readouterr().err
    assert cli.main(["x", str(tmp_path / "nowhere"), "ps"]) == 1


@pytest.mark.parametrize("what", ["ps", "tree", "signals", "timers"])
def test_names_do_not_reach_a_terminal(
    family: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    folder = Path(shutil.copytree(family, tmp_path / "copy"))
    for path in folder.glob("core-*.img"):
        path.write_bytes(path.read_bytes().replace(b"parent", b"p\x1b[2J\n"))
    assert cli.main(["x", str(folder), what]) == 0
    said = capsys.readouterr().out
    assert "p\\x1b[2J\\n" in said
    assert "\x1b" not in said
