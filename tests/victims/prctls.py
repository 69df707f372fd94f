# SPDX-License-Identifier: GPL-2.0-only
"""Settings of prctl(2): time stamp counter, memory errors, speculation, memory-deny-write-execute, merging by KSM,
vector lengths, keepcaps; mlockall(MCL_FUTURE), the core dump filter and the login uid.

Missing: Syscall User Dispatch (refused), PR_SET_PTRACER, which cannot be read.
"""

import ctypes
import mmap
import os
from collections.abc import Callable, Iterator

import victim

libc = ctypes.CDLL(None, use_errno=True)
MCL_FUTURE, MCL_ONFAULT = 2, 4
# getter with its arguments
GETTERS: dict[str, tuple[int, ...]] = {
    "keepcaps": (7,),
    "time stamp counter": (25,),
    "memory errors": (34,),
    "store bypass": (52, 0),
    "indirect branches": (52, 1),
    "L1D flush": (52, 2),
    "tagged addresses": (56,),
    "SVE": (51,),
    "SME": (64,),
    "deny write and execute": (66,),
    "merging": (68,),
    "dumpable": (3,),
    "THP": (42,),
    "subreaper": (37,),
    "death signal": (2,),
    "no new privileges": (39,),
}
BY_POINTER = (25, 37, 2)


def get(getter: tuple[int, ...]) -> int:
    value = ctypes.c_int(-1)
    last = [ctypes.byref(value)] if getter[0] in BY_POINTER else []
    args = [*getter, *last, 0, 0, 0, 0][:5]
    result: int = libc.prctl(*args)
    return value.value if last else result


def put(*args: int) -> None:
    padded = [*args, 0, 0, 0, 0][:5]
    if libc.prctl(*padded):
        print(f"prctl{args}: not here: {os.strerror(ctypes.get_errno())}", flush=True)


def contents(name: str) -> str:
    try:
        with open(f"/proc/self/{name}", encoding="ascii") as file:
            return file.read()
    except FileNotFoundError:
        return "none"


def lock_of_new_memory() -> list[str]:
    """VmFlags of a mapping made just now that tell of mlockall, and whether it was filled at once."""
    size = 1 << 16
    libc.mmap.restype = ctypes.c_void_p
    at = libc.mmap(None, ctypes.c_size_t(size), 1, 0x22, -1, ctypes.c_long(0))
    with open("/proc/self/smaps", encoding="utf-8", errors="replace") as smaps:
        lines = smaps.read().split("\n")
    start = next(i for i, line in enumerate(lines) if line.startswith(f"{at:x}-") or at_in(line, at))
    flags = next(line for line in lines[start + 1 :] if line.startswith("VmFlags:"))
    resident = ctypes.create_string_buffer(size // mmap.PAGESIZE)
    libc.mincore(ctypes.c_void_p(at), ctypes.c_size_t(size), resident)
    libc.munmap(ctypes.c_void_p(at), ctypes.c_size_t(size))
    return [str("lo" in flags.split()), str(bool(resident.raw[0]))]


def at_in(line: str, address: int) -> bool:
    head = line.split(" ", 1)[0]
    start, dash, end = head.partition("-")
    return bool(dash) and not line[0].isupper() and int(start, 16) <= address < int(end, 16)


def seen() -> dict[str, object]:
    found: dict[str, object] = {name: get(getter) for name, getter in GETTERS.items()}
    found |= {name: contents(name) for name in ("coredump_filter", "loginuid")}
    found["new memory"] = lock_of_new_memory()
    return found


def write_filter() -> None:
    try:
        with open("/proc/self/coredump_filter", "w", encoding="ascii") as file:
            file.write("0x7")
    except FileNotFoundError:
        print("no core dump filter here", flush=True)


def log_in() -> None:
    try:
        with open("/proc/self/loginuid", "w", encoding="ascii") as file:
            file.write("12345")
    except OSError as error:
        print(f"no login uid here: {error}", flush=True)


def vectors() -> None:
    for getter, setter in ((51, 50), (64, 63)):
        length = get((getter,))
        if length > 0:
            put(setter, 16 | 1 << 17)


WAYS: dict[str, Callable[[], object]] = {
    "keepcaps, core dump filter, no dumps": lambda: (put(8, 1), write_filter(), put(4, 0)),
    "memory errors and speculation": lambda: (put(33, 1, 1), put(53, 0, 4), put(53, 1, 4)),
    "forced speculation control": lambda: put(53, 0, 8),
    "deny write and execute": lambda: put(65, 1),
    "merging": lambda: put(67, 1),
    "I/O flusher": lambda: put(57, 1),
    "mlockall": lambda: libc.mlockall(MCL_FUTURE),
    "mlockall on fault": lambda: libc.mlockall(MCL_FUTURE | MCL_ONFAULT),
    "vector lengths": vectors,
    "login uid": log_in,
    "death signal, subreaper, THP": lambda: (put(1, 10), put(36, 1), put(41, 1)),
    "nothing": lambda: None,
}


def without_clock(hold: int, ready: int, release: int) -> None:
    """A process that may not read the time stamp counter: the interpreter must not either, so it keeps its lock."""
    os.close(release)
    bare = ctypes.PyDLL(None)
    room, value = ctypes.create_string_buffer(1), ctypes.c_int(-1)
    set_it = bare.prctl(26, 2, 0, 0, 0) == 0
    bare.prctl(25, ctypes.byref(value), 0, 0, 0)
    before = value.value
    bare.write(ready, b"x", 1)
    bare.read(hold, room, 1)
    bare.prctl(25, ctypes.byref(value), 0, 0, 0)
    bare.prctl(26, 1, 0, 0, 0)
    victim.equal(room.raw, bytes(1), "what the other children would take for damage")
    victim.equal(value.value, before, "the time stamp counter")
    victim.check(not set_it or value.value == 2, "the time stamp counter could not be forbidden")


def scenario() -> Iterator[victim.Damage]:
    hold, release = os.pipe()
    ready = os.pipe()

    def live(name: str, set_up: Callable[[], object]) -> None:
        os.close(release)
        set_up()
        before = seen()
        os.write(ready[1], b"x")
        if os.read(hold, 1):
            put(33, 1, 0)
            put(8, 1 - get((7,)))
        victim.equal(seen(), before, f"a process with {name}")

    children = {name: victim.child(lambda name=name, way=way: live(name, way)) for name, way in WAYS.items()}  # type: ignore[misc]
    children["time stamp counter"] = victim.child(lambda: without_clock(hold, ready[1], release))
    os.close(hold)
    for _ in children:
        os.read(ready[0], 1)
    yield lambda: os.write(release, b"x")
    os.close(release)
    for name, pid in children.items():
        victim.join(pid, f"the child with {name}")


victim.play(scenario)
