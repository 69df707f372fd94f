# SPDX-License-Identifier: GPL-2.0-only
"""Event descriptors: what fdinfo says of them on recorded samples, and images that say what cannot be."""

from __future__ import annotations

import errno
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pycriu import sharing
from pycriu.dumping import entries
from pycriu.errors import ImageError, KernelError, Unsupported, UserError
from pycriu.fds import epoll, eventfd, fanotify, inotify, namespace, pidfd, refused, timerfd, watched
from pycriu.fds.openfile import no_owner
from pycriu.images import messages as m
from pycriu.kernel import procfs
from tests.images import InMemory

TIMERFD = """pos:\t0
flags:\t02
mnt_id:\t17
ino:\t26
clockid: 0
ticks: 4
settime flags: 03
it_value: (100, 128046154)
it_interval: (0, 30000000)
"""


def kind(cls: Any) -> Any:
    return cls(None, None)


def test_timerfd_of_a_recorded_fdinfo() -> None:
    state = timerfd.parse(procfs.parse_fdinfo(TIMERFD))
    assert state == timerfd.State(0, 4, 3, 100_128_046_154, 30_000_000)


def timer(**fields: int) -> Any:
    values = {"clockid": 1, "ticks": 0, "settime_flags": 0, "vsec": 0, "vnsec": 0, "isec": 0, "insec": 0} | fields
    return m.file_entry(type=17, id=5, tfd=m.timerfd_entry(id=5, flags=2, fown=no_owner(), **values))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"clockid": 2}, "clock 2"),
        ({"vnsec": 1_000_000_000}, "out of bounds"),
        ({"insec": (1 << 64) - 1}, "out of bounds"),
        ({"vsec": 1 << 63}, "out of bounds"),
        ({"ticks": (1 << 64) - 1}, "out of bounds"),
    ],
)
def test_timers_that_cannot_be(fields: dict[str, int], words: str) -> None:
    with pytest.raises(ImageError, match=words):
        kind(timerfd.Timerfd).read(InMemory(), [timer(**fields)])


def test_timer_at_rest_goes_on() -> None:
    """As CRIU writes a periodic timer that has expired and that nobody has read."""
    one = kind(timerfd.Timerfd)
    one.read(InMemory(), [timer(ticks=1, isec=2)])
    assert one._states[5].left == 2 * timerfd.SECOND


@pytest.mark.parametrize("same_boot", [True, False])
@pytest.mark.parametrize("clock", [0, 1])
def test_absolute_expiry_counts_where_its_clock_still_does(same_boot: bool, clock: int) -> None:
    boot = timerfd.boot_id() if same_boot else bytes(16)
    data = [m.pycriu_timerfd_entry(id=5, expiry=1 << 40, boot=boot)]
    one = kind(timerfd.Timerfd)
    one.read(InMemory({"pycriu-timerfd.img": data}), [timer(clockid=clock, vsec=5, settime_flags=1)])
    assert one._expiries == ({5: 1 << 40} if same_boot or clock == 0 else {})


def test_expiry_of_no_timer() -> None:
    data = [m.pycriu_timerfd_entry(id=6, expiry=1 << 40, boot=bytes(16))]
    with pytest.raises(ImageError, match="id 6"):
        kind(timerfd.Timerfd).read(InMemory({"pycriu-timerfd.img": data}), [timer()])


def test_timers_are_set_with_their_ticks() -> None:
    """One that expires while it is being set gets the tick of that on top."""
    one = kind(timerfd.Timerfd)
    entries = [timer(ticks=3, vsec=1000), timer(ticks=3, vnsec=1), timer(ticks=3), timer(ticks=2, vnsec=1, isec=1000)]
    expected = [3, 4, 3, 3]
    for entry, ticks in zip(entries, expected, strict=True):
        one.read(InMemory(), [entry])
        fd = one.open(entry, None)
        timerfd._arm(fd, one._states[5], None)
        assert int.from_bytes(os.read(fd, 8), "little") == ticks
        os.close(fd)


def test_eventfd_that_is_fuller_than_full() -> None:
    efd = m.eventfd_file_entry(id=1, flags=2, fown=no_owner(), counter=(1 << 64) - 1)
    with pytest.raises(ImageError, match="more than one can have"):
        kind(eventfd.Eventfd).read(InMemory(), [m.file_entry(type=6, id=1, efd=efd)])


@pytest.mark.parametrize("count", [0, 1, 2, 7])
@pytest.mark.parametrize("flags", [0, os.EFD_SEMAPHORE])
def test_eventfd_is_asked_without_losing_a_count(count: int, flags: int) -> None:
    fd = os.eventfd(count, flags | os.EFD_NONBLOCK)
    assert eventfd.ask_semaphore(fd) is bool(flags)
    left = 0
    while True:
        try:
            left += os.eventfd_read(fd)
        except BlockingIOError:
            break
    assert left == count
    os.close(fd)


EPOLL = """pos:\t0
flags:\t02000002
mnt_id:\t17
ino:\t26
tfd:        3 events: 80000019 data:                3  pos:0 ino:1a sdev:10
tfd:       16 events:       1c data:     7f2200000010  pos:0 ino:182b5 sdev:f
tfd:       14 events: 40000000 data: fedcba9876543210  pos:12 ino:182b5 sdev:fe00000
"""


def test_epoll_of_a_recorded_fdinfo() -> None:
    assert epoll.parse(EPOLL) == [
        epoll.Watch(3, 0x80000019, 3, 0, 0x1A, 0x10),
        epoll.Watch(16, 0x1C, 0x7F2200000010, 0, 0x182B5, 0xF),
        epoll.Watch(14, 0x40000000, 0xFEDCBA9876543210, 12, 0x182B5, 0xFE00000),
    ]
    assert epoll.parse(TIMERFD) == []


def watching(*numbers: int) -> Any:
    tfd = [m.eventpoll_tfd_entry(id=5, tfd=number, events=1, data=0) for number in numbers]
    return m.file_entry(type=7, id=5, epfd=m.eventpoll_file_entry(id=5, flags=2, fown=no_owner(), tfd=tfd))


def slot_entry(number: int, index: int, at: int, target: int) -> Any:
    return m.pycriu_epoll_entry(id=number, slot=[m.pycriu_epoll_slot(index=index, number=at, target=target)])


def test_parameters_that_cannot_be() -> None:
    one = m.pycriu_epoll_entry(id=5, params=bytes(7))
    with pytest.raises(ImageError, match="7 bytes"):
        kind(epoll.Epoll).read(InMemory({"pycriu-epoll.img": [one]}), [watching(3)])


@pytest.mark.parametrize(
    ("slot", "words"),
    [((5, 1, 3, 1), "no watch 1"), ((6, 0, 3, 1), "epoll 6"), ((5, 0, 1 << 20, 1), "out of bounds")],
)
def test_watches_that_cannot_be(slot: tuple[int, ...], words: str) -> None:
    images = InMemory({"pycriu-epoll.img": [slot_entry(*slot)]})
    with pytest.raises(ImageError, match=words):
        kind(epoll.Epoll).read(images, [watching(3)])


def test_watch_for_which_criu_has_no_number() -> None:
    with pytest.raises(ImageError, match="out of bounds"):
        kind(epoll.Epoll).read(InMemory(), [watching(epoll.NOWHERE)])


def test_watch_of_what_nobody_has() -> None:
    class Opening:
        tables: ClassVar = {1: {0: 5}, 2: {3: 5}}

    one = kind(epoll.Epoll)
    one.read(InMemory(), [watching(3)])
    with pytest.raises(ImageError, match="descriptor 3"):
        epoll._known(5, 3, [(1, 0)], Opening)  # type: ignore[arg-type]
    assert epoll._known(5, 3, [(1, 0), (2, 3)], Opening) == 5  # type: ignore[arg-type]


def test_a_number_is_lent_and_given_back() -> None:
    """A watch under a number that is ours for something else, and under one that is free."""
    set_ = select.epoll()
    counter, mine, free = os.eventfd(1), os.eventfd(7), os.dup(0)
    os.close(free)
    for number in (mine, free):
        epoll._add(set_.fileno(), counter, number, select.EPOLLIN, number)
    assert sorted(set_.poll(0)) == [(number, select.EPOLLIN) for number in sorted((mine, free))]
    assert os.eventfd_read(mine) == 7
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(free)
    for fd in (counter, mine):
        os.close(fd)
    set_.close()


def test_a_number_is_not_lent_while_threads_use_it(tmp_path: Path) -> None:
    """They see their own file, and the watches are there all the same; errors are told, too."""
    number, counter, seen, over = os.open(tmp_path, os.O_RDONLY), os.eventfd(1), set(), threading.Event()

    def use() -> None:
        while not over.is_set():
            seen.add(os.fstat(number).st_ino)

    thread, often = threading.Thread(target=use), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        for _ in range(50):
            with select.epoll() as set_:
                epoll.add([(set_.fileno(), counter, number, select.EPOLLIN, number)])
                assert set_.poll(0) == [(number, select.EPOLLIN)]
                with pytest.raises(KernelError, match=rf"epoll_ctl\(descriptor {number}\): File exists"):
                    epoll.add([(set_.fileno(), counter, number, select.EPOLLIN, number)])
    finally:
        sys.setswitchinterval(often)
        over.set()
        thread.join()
    assert seen == {os.stat(tmp_path).st_ino}
    for fd in (number, counter):
        os.close(fd)


def test_one_shot_watches_stay_disarmed() -> None:
    set_ = select.epoll()
    counter = os.eventfd(1)
    epoll._add(set_.fileno(), counter, counter, epoll.EPOLLONESHOT, 1)
    assert set_.poll(0) == []
    assert epoll.parse(procfs.text("self", f"fdinfo/{set_.fileno()}"))[0].events == epoll.EPOLLONESHOT
    os.close(counter)
    set_.close()


INOTIFY = """pos:\t0
flags:\t04000
mnt_id:\t17
ino:\t26
inotify wd:14 ino:1 sdev:1b mask:2 ignored_mask:0 fhandle-bytes:c fhandle-type:1 f_handle:d3bf7d3c0100000000000000
inotify wd:2 ino:21fd sdev:fe00000 mask:84000002 ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:fd082100276fa0dd
inotify wd:1 ino:2108fc sdev:fe00000 mask:fff ignored_mask:0
"""

FANOTIFY = """pos:\t0
flags:\t02004002
mnt_id:\t17
ino:\t26
fanotify flags:3 event-flags:8000
fanotify ino:21fd sdev:fe00000 mflags:40 mask:0 ignored_mask:20 fhandle-bytes:8 fhandle-type:1 f_handle:fd082100276fa0dd
fanotify sdev:fe00000 mflags:0 mask:20 ignored_mask:0
fanotify mnt_id:1b mflags:0 mask:20 ignored_mask:0
"""


def test_inotify_of_a_recorded_fdinfo() -> None:
    first, second, third = inotify.parse(INOTIFY)
    assert first == inotify.Watch(20, 2, watched.Target(0x1B, 1, 1, bytes.fromhex("d3bf7d3c0100000000000000")))
    assert (second.mask, second.target.inode) == (0x84000002, 0x21FD)
    assert third.target == watched.Target(0xFE00000, 0x2108FC)


def test_fanotify_of_a_recorded_fdinfo() -> None:
    assert fanotify.made_with(FANOTIFY) == (3, 0x8000)
    inode, filesystem, mount = fanotify.parse(FANOTIFY)
    assert (inode.type, inode.flags, inode.mask, inode.ignored) == (fanotify.INODE, 0x40, 0, 0x20)
    assert (filesystem.type, filesystem.target.device) == (fanotify.FILESYSTEM, 0xFE00000)
    assert (mount.type, mount.mount) == (fanotify.MOUNT, 0x1B)
    with pytest.raises(Unsupported, match="mnt_ns"):
        fanotify.parse("fanotify mnt_ns:1 mflags:0 mask:1000000 ignored_mask:0\n")


def test_handles_are_words_in_an_image() -> None:
    target = watched.Target(0x1B, 7, 1, bytes(range(1, 13)))
    entry = watched.handle_entry(target, "/x")
    assert len(entry.handle) == watched.HANDLE_WORDS
    assert watched.read_target(0x1B, 7, entry) == target


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"bytes": 9}, "9 bytes"),
        ({"bytes": 8, "path": "a"}, "not absolute"),
        ({"bytes": 8, "path": "/a\0"}, "absolute"),
    ],
)
def test_handles_that_cannot_be(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ImageError, match=words):
        watched.read_target(1, 7, m.fh_entry(type=1, handle=[1], **fields))


def test_what_is_watched_is_found_by_inode_or_path(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    there = watched.Target(0, os.stat(tmp_path / "a").st_ino)
    for target in (there, watched.Target(0, 1)):  # the second: replaced since, so the path decides
        os.close(watched.reopen(target, str(tmp_path / "a"), "it"))
    for path in (str(tmp_path / "gone"), ""):
        with pytest.raises(UserError, match="cannot be opened"):
            watched.reopen(there, path, "it")


def test_search_stays_on_its_file_system_and_within_its_budget(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_text("x")
    status = os.stat(tmp_path / "d" / "f")
    device = os.major(status.st_dev) << 20 | os.minor(status.st_dev)
    wanted = watched.Target(device, status.st_ino)
    assert watched.search(str(tmp_path), wanted, 10) == (str(tmp_path / "d" / "f"), 8)
    assert watched.search(str(tmp_path), wanted, 1) == ("", 0)
    assert watched.search("/proc", wanted, 10) == ("", 10)
    assert watched.search(str(tmp_path / "gone"), wanted, 10) == ("", 10)


CHURN = """
import os
while True:
    for number in range(50): os.mkdir(f"gone-{number}")
    for number in range(50): os.rmdir(f"gone-{number}")
"""


def test_search_among_folders_that_come_and_go(tmp_path: Path) -> None:
    status = os.stat(tmp_path)
    nowhere = watched.Target(os.major(status.st_dev) << 20 | os.minor(status.st_dev), 1 << 40)
    with subprocess.Popen([sys.executable, "-IS", "-c", CHURN], cwd=tmp_path) as churn:
        try:
            while not any(tmp_path.iterdir()):
                time.sleep(0.001)
            for _ in range(300):
                assert watched.search(str(tmp_path), nowhere, None) == ("", None)
        finally:
            churn.kill()


@pytest.mark.parametrize("numbers", [(0,), (1 << 31,), (2, 2)])
def test_watch_numbers_that_cannot_be(tmp_path: Path, numbers: tuple[int, ...]) -> None:
    handle = m.fh_entry(bytes=0, type=0, handle=[], path=str(tmp_path))
    wd = [
        m.inotify_wd_entry(id=0, i_ino=1, mask=2, ignored_mask=0, s_dev=1, wd=number, f_handle=handle)
        for number in numbers
    ]
    entry = m.file_entry(type=8, id=1, ify=m.inotify_file_entry(id=1, flags=0, fown=no_owner(), wd=wd))
    with pytest.raises(ImageError, match="out of bounds"):
        kind(inotify.Inotify).read(InMemory(), [entry])


def test_mounts_with_blanks() -> None:
    assert watched._unescaped(r"/a\040b\134c") == r"/a b\c"
    assert any(mount.point == "/" for mount in watched.mounts())


def test_namespaces_have_the_numbers_of_the_ids_images() -> None:
    assert tuple(namespace.SPACES) == entries._SPACES


@pytest.mark.parametrize(
    ("link", "name"),
    [
        ("net:[4026531833]", "net"),
        ("time:[4026531834]", "time"),
        ("pipe:[12]", None),
        ("socket:[1]", None),
        ("/x", None),
    ],
)
def test_namespaces_by_their_links(link: str, name: str | None) -> None:
    assert namespace.name_of(link) == name


@pytest.mark.parametrize(("flag", "number"), [(0x40000000, 3), (0x80000000, 2), (0, 0)])
def test_namespaces_that_are_not_the_trees(flag: int, number: int) -> None:
    class Inventory(InMemory):
        def inventory(self) -> Any:
            ids = m.task_kobj_ids_entry(vm_id=1, files_id=1, fs_id=1, sighand_id=1, net_ns_id=2)
            return m.inventory_entry(img_version=2, root_ids=ids)

    entry = m.file_entry(type=14, id=1, nsf=m.ns_file_entry(id=1, ns_id=number, ns_cflag=flag, flags=0))
    with pytest.raises(ImageError, match="not one of the tree's own"):
        kind(namespace.Namespace).read(Inventory(), [entry])


@pytest.mark.parametrize("pid", [0, -2, 1 << 23])
def test_pidfds_of_no_pid(pid: int) -> None:
    entry = m.file_entry(type=20, id=1, pidfd=m.pidfd_entry(id=1, ino=1, flags=0, nspid=pid, fown=no_owner()))
    with pytest.raises(ImageError, match=f"PID {pid}"):
        kind(pidfd.Pidfd).read(InMemory(), [entry])


@pytest.mark.parametrize("status", [19, 20, 22, 28, 0x7F, 0x137F, 0x10000, 65, 0x109, 1 << 31])
def test_ends_that_no_process_has(status: int) -> None:
    """To end so, the one that is made for it would stop, and the restore wait for it for ever."""
    images = InMemory({"pycriu-pidfd.img": [m.pycriu_pidfd_entry(ino=7, status=status & 0x7FFFFFFF or -1 << 31)]})
    with pytest.raises(ImageError, match="as none does"):
        kind(pidfd.Pidfd).read(images, [])


@pytest.mark.parametrize("status", [0, 0x100, 0xFF00, 9, 15, 6 | 0x80, 64])
def test_ends_of_processes(status: int) -> None:
    kind(pidfd.Pidfd).read(InMemory({"pycriu-pidfd.img": [m.pycriu_pidfd_entry(ino=7, status=status)]}), [])


def test_pidfds_of_one_process_that_has_ended() -> None:
    """Both are made at once, whichever is asked for first; how it ended is told where the kernel does."""
    status = [m.pycriu_pidfd_entry(ino=7, status=9)]  # killed
    dead = [
        m.file_entry(type=20, id=number, pidfd=m.pidfd_entry(id=number, ino=7, flags=0, nspid=-1, fown=no_owner()))
        for number in (1, 2)
    ]
    one = kind(pidfd.Pidfd)
    one.read(InMemory({"pycriu-pidfd.img": status}), dead)
    fds = [one.open(entry, None) for entry in dead]
    for fd in fds:
        assert procfs.parse_fdinfo(procfs.text("self", f"fdinfo/{fd}"))["Pid"] == "-1"
        os.close(fd)


def test_a_task_is_in_its_tree() -> None:
    assert pidfd.in_tree(os.getpid(), os.getppid())
    assert pidfd.in_tree(os.getpid(), os.getpid())
    assert not pidfd.in_tree(os.getppid(), os.getpid())
    assert not pidfd.in_tree(0, os.getpid())
    assert not pidfd.in_tree(1 << 22, os.getpid())


class Other:
    """What `describe` looks at."""

    def __init__(self, link: str, mode: int = 0o600, rdev: int = 0) -> None:
        self.link, self.status = link, os.stat_result((mode, 0, 0, 0, 0, 0, 0, 0, 0, 0), {"st_rdev": rdev})


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (Other("anon_inode:[io_uring]"), "an io_uring"),
        (Other("anon_inode:kvm-vcpu:0"), "a virtual CPU of KVM"),
        (Other("anon_inode:bpf-map"), "a BPF map"),
        (Other("anon_inode:[never heard of]"), "an anonymous inode ([never heard of])"),
        (Other("/dmabuf:x"), "a buffer of a device (dma-buf)"),
        (Other("/dev/rtc0", 0o020600, os.makedev(251, 0)), "the real-time clock"),
        (Other("/x", 0o020600, os.makedev(226, 128)), "a GPU (226:128)"),
        (Other("/x", 0o020600, os.makedev(10, 232)), "KVM (10:232)"),
        (Other("/x", 0o020600, os.makedev(250, 3)), "a character device (250:3)"),
        (Other("/x", 0o020600, os.makedev(4, 1)), "a terminal"),
        (Other("/x", 0o060600, os.makedev(7, 0)), "a block device (7:0)"),
        (Other("/x", 0o010600), "a named pipe"),
        (Other("/x"), "an open file of an unknown kind"),
    ],
)
def test_what_nobody_handles_is_named(other: Any, words: str) -> None:
    assert refused.describe(other)[0] == words
    assert refused.describe(other)[1]


def test_a_file_is_found_by_the_kernels_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever kcmp compares it with, and without asking about every file."""
    order = {fd: place for place, fd in enumerate([5, 3, 9, 7, 1])}

    def compare(fd1: int, fd2: int) -> int:
        return 0 if fd1 == fd2 else 1 if order[fd1] < order[fd2] else 2

    class File:
        def __init__(self, fd: int) -> None:
            self.pid, self.fd, self.identity = 1, fd, (0, 26, 0)

    monkeypatch.setattr(sharing.libc, "kcmp", lambda _pid1, _pid2, _kind, fd1, fd2: compare(fd1, fd2))
    ids = sharing.FileIds()
    numbers = {fd: ids.of(File(fd))[0] for fd in (1, 3, 5, 7)}  # type: ignore[arg-type]
    for fd, number in numbers.items():
        assert ids.find(26, lambda other, fd=fd: compare(other.fd, fd)) == number  # type: ignore[misc]
    assert ids.find(26, lambda other: compare(other.fd, 9)) is None
    assert ids.find(27, lambda other: compare(other.fd, 1)) is None


def test_a_number_beyond_our_limit_and_full_limits_say_which(monkeypatch: pytest.MonkeyPatch) -> None:
    set_, counter = select.epoll(), os.eventfd(1)
    with pytest.raises(KernelError, match="dup2") as caught:
        epoll._add(set_.fileno(), counter, (1 << 31) - 2, select.EPOLLIN, 1)
    assert "ulimit" in str(caught.value.hint)

    def full(name: str, *_: int, what: str) -> int:
        raise KernelError(name, errno.EMFILE if name == "inotify_init1" else errno.ENOSPC, what)

    monkeypatch.setattr(epoll.libc, "call", full)
    with pytest.raises(KernelError) as caught:
        epoll._control(set_.fileno(), 1, counter, 1, 1)
    assert "max_user_watches" in str(caught.value.hint)
    with pytest.raises(KernelError) as caught:
        watched.limited("inotify_init1", 0, what="it")
    assert "max_user_instances" in str(caught.value.hint)
    os.close(counter)
    set_.close()
