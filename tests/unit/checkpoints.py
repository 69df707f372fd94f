# SPDX-License-Identifier: GPL-2.0-only
"""Checkpoints made by hand, for tests of what reads them: a tree of two processes, the first with two threads.

Memory of the first, by address:

    100000  private file mapping of three pages, the second changed by the process
    200000  anonymous: page 0 `A`, page 2 `C`, 13 pages in all
    300000  anonymous shared memory, object 77: page 1 `S`; the other process has it from its second page on
    400000  a reservation of 4 GiB that nobody may read
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pycriu.arch import x86_64
from pycriu.images import messages as m
from pycriu.images import store

PAGE = 4096
FIRST, THREAD, SECOND = 100, 101, 102
FILE, ANON, SHARED, RESERVED = 0x100000, 0x200000, 0x300000, 0x400000
CONTENT = b"f" * PAGE + b"g" * PAGE + b"h" * 100
AUXV = [6, PAGE, 0, 0]


def fown() -> Any:
    """Nobody is signalled."""
    return m.fown_entry(uid=0, euid=0, signum=0, pid_type=0, pid=0)


def vma(start: int, pages: int, status: int, *, shmid: int = 0, pgoff: int = 0, flags: int = 2, prot: int = 3) -> Any:
    """A mapping."""
    return m.vma_entry(
        start=start, end=start + pages * PAGE, pgoff=pgoff, shmid=shmid, prot=prot, flags=flags, status=status, fd=-1
    )


def mm(vmas: list[Any], auxv: list[int] | None = None) -> Any:
    """The memory of a process."""
    names = (
        "start_code", "end_code", "start_data", "end_data", "start_stack", "start_brk", "brk", "arg_start", "arg_end",
        "env_start", "env_end",
    )  # fmt: skip
    fields = {f"mm_{name}": 0 for name in names} | {"mm_arg_start": ANON, "mm_arg_end": ANON + 8}
    return m.mm_entry(**fields, exe_file_id=1, mm_saved_auxv=AUXV if auxv is None else auxv, vmas=vmas)


def creds(uid: int = 1000) -> Any:
    """Credentials of a user."""
    names = ("uid", "gid", "euid", "egid", "suid", "sgid", "fsuid", "fsgid")
    return m.creds_entry(**dict.fromkeys(names, uid), secbits=0, groups=[uid], cap_eff=[0, 0])


def core(comm: str, *, leader: bool, seed: int = 0) -> Any:
    """A thread of x86_64, whose registers are `seed` and the numbers behind it."""
    registers = {name: seed + number for number, name in enumerate(x86_64.NAMES)}
    info = m.thread_info_x86(
        clear_tid_addr=0,
        gpregs=m.user_x86_regs_entry(mode=1, **registers),
        fpregs=m.user_x86_fpregs_entry(
            cwd=0x37F, swd=0, twd=0, fop=0, rip=0, rdp=0, mxcsr=0x1F80, mxcsr_mask=0xFFFF, st_space=[0] * 32,
            xmm_space=range(64), xsave=m.user_x86_xsave_entry(xstate_bv=7, ymmh_space=range(100, 164)),
        ),
    )  # fmt: skip
    thread = m.thread_core_entry(futex_rla=0, futex_rla_len=0, creds=creds(), blk_sigset=2, comm=comm)
    entry = m.core_entry(mtype=1, thread_info=info, thread_core=thread)
    if leader:
        entry.tc.CopyFrom(task(comm))
        entry.ids.CopyFrom(ids(seed))
    return entry


def task(comm: str) -> Any:
    """What the threads of a process have in common."""
    timers = m.task_timers_entry(
        **{name: m.itimer_entry(isec=0, iusec=0, vsec=0, vusec=0) for name in ("real", "virt", "prof")}
    )
    return m.task_core_entry(
        task_state=1, exit_code=0, personality=0, flags=0, blk_sigset=2, comm=comm, timers=timers,
        rlimits=m.task_rlimits_entry(rlimits=[m.rlimit_entry(cur=1024 + n, max=4096) for n in range(16)]),
    )  # fmt: skip


def ids(number: int) -> Any:
    """Nothing is shared with the other process."""
    return m.task_kobj_ids_entry(vm_id=number, files_id=number, fs_id=number, sighand_id=number)


def pagemap(pages_id: int, runs: list[tuple[int, int, int]]) -> list[Any]:
    """A pagemap image: address, pages, flags of each run."""
    return [m.pagemap_head(pages_id=pages_id)] + [
        m.pagemap_entry(vaddr=at, compat_nr_pages=pages & 0xFFFFFFFF, nr_pages=pages, flags=flags)
        for at, pages, flags in runs
    ]


def files(mapped: Path) -> list[Any]:
    """A file that is mapped, a socket of IPv4, and one of UNIX."""
    reg = m.reg_file_entry(id=1, flags=0, pos=0, fown=fown(), name=str(mapped), size=len(CONTENT), mode=0o100644)
    options = m.sk_opts_entry(
        so_sndbuf=1, so_rcvbuf=1, so_snd_tmo_sec=0, so_snd_tmo_usec=0, so_rcv_tmo_sec=0, so_rcv_tmo_usec=0
    )
    inet = m.inet_sk_entry(
        id=2, ino=5, family=2, type=1, proto=6, state=10, src_port=80, dst_port=0, flags=2, backlog=5,
        src_addr=[0x0100007F], dst_addr=[0], fown=fown(), opts=options,
    )  # fmt: skip
    unix = m.unix_sk_entry(
        id=3, ino=6, type=1, state=10, flags=2, uflags=0, backlog=5, peer=0, fown=fown(), opts=options,
        name=b"/run/socket\0",
    )  # fmt: skip
    return [
        m.file_entry(type=1, id=1, reg=reg),
        m.file_entry(type=4, id=2, isk=inet),
        m.file_entry(type=5, id=3, usk=unix),
    ]


def write(where: Path, change: Callable[[dict[str, Any]], None] | None = None, *, version: int = 2) -> Path:
    """Write the checkpoint to `where`/images; `change` may edit what goes into it: image → entries, or bytes."""
    directory = where / "images"
    directory.mkdir(parents=True, exist_ok=True)
    images = parts(where / "mapped")
    if change is not None:
        change(images)
    with store.NewCheckpoint(str(directory)) as new:
        for name, content in images.items():
            if isinstance(content, bytes):
                new.write_raw(name, content)
            elif name != "inventory.img":
                new.write(name, content)
        new.write("inventory.img", [m.inventory_entry(img_version=version, fdinfo_per_id=True)])
        new.commit()
    return directory


def parts(mapped: Path) -> dict[str, Any]:
    """Every image but the inventory. The file that is mapped is made, too."""
    mapped.write_bytes(CONTENT)
    fds = [m.fdinfo_entry(id=n, flags=0, type=kind, fd=2 + n) for n, kind in ((1, 1), (2, 4), (3, 5))]
    first = [
        vma(FILE, 3, 1 | 1 << 6, shmid=1, prot=5),
        vma(ANON, 13, 1 | 1 << 9),
        vma(SHARED, 4, 1 | 1 << 8, shmid=77, flags=1),
        vma(RESERVED, 1 << 20, 1 | 1 << 9, prot=0),
    ]
    second = [vma(SHARED, 3, 1 | 1 << 8, shmid=77, pgoff=PAGE, flags=1)]
    return {
        "pstree.img": [
            m.pstree_entry(pid=FIRST, ppid=0, pgid=FIRST, sid=FIRST, threads=[FIRST, THREAD]),
            m.pstree_entry(pid=SECOND, ppid=FIRST, pgid=FIRST, sid=FIRST, threads=[SECOND]),
        ],
        f"core-{FIRST}.img": [core("first", leader=True, seed=1000)],
        f"core-{THREAD}.img": [core("worker", leader=False, seed=2000)],
        f"core-{SECOND}.img": [core("second", leader=True, seed=3000)],
        f"mm-{FIRST}.img": [mm(first)],
        f"mm-{SECOND}.img": [mm(second)],
        f"fs-{FIRST}.img": [m.fs_entry(cwd_id=1, root_id=1, umask=0o22)],
        f"fs-{SECOND}.img": [m.fs_entry(cwd_id=1, root_id=1, umask=0o22)],
        "fdinfo-1000.img": fds,
        "fdinfo-3000.img": [],
        "files.img": files(mapped),
        f"pagemap-{FIRST}.img": pagemap(1, [(FILE + PAGE, 1, 4), (ANON, 1, 4), (ANON + 2 * PAGE, 1, 4)]),
        "pages-1.img": b"x" * PAGE + b"argv\0one" + b"A" * (PAGE - 8) + b"C" * PAGE,
        f"pagemap-{SECOND}.img": pagemap(2, []),
        "pages-2.img": b"",
        "pagemap-shmem-77.img": pagemap(3, [(PAGE, 1, 4)]),
        "pages-3.img": b"S" * PAGE,
    }
