# SPDX-License-Identifier: GPL-2.0-only
# ruff: noqa: E501 - the tables of small programs read better one to a line
"""One process and what it has: memory, descriptors, signals, timers, credentials, names. Each judges itself."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.host.conftest import Host

# name: (before the dump, after it – says what must be equal to `True`s)
STATES = {
    "protected content": (
        "libc.mmap.restype = ctypes.c_void_p\na = libc.mmap(None, 1 << 16, 3, 0x22, -1, 0)\n"
        "ctypes.memset(a, 0x5a, 1 << 16)\nassert libc.mprotect(ctypes.c_void_p(a), 1 << 16, 0) == 0",
        "say(libc.mprotect(ctypes.c_void_p(a), 1 << 16, 1) == 0 and ctypes.string_at(a, 1 << 16) == b'Z' * (1 << 16))",
    ),
    "a reservation of a terabyte": (
        "libc.mmap.restype = ctypes.c_void_p\na = libc.mmap(None, 1 << 40, 0, 0x22, -1, 0)\nassert a != 2**64 - 1",
        "say(libc.mprotect(ctypes.c_void_p(a + (1 << 39)), 4096, 3) == 0)\nctypes.memset(a + (1 << 39), 1, 4096)",
    ),
    "a reservation of a terabyte, used here and there": (
        "libc.mmap.restype = ctypes.c_void_p\na = libc.mmap(None, 1 << 40, 0, 0x22, -1, 0)\n"
        "libc.mprotect(ctypes.c_void_p(a), 8192, 3)\nctypes.memset(a, 7, 8192)\nlibc.mprotect(ctypes.c_void_p(a), 4096, 0)\n"
        "def there(): return [l for l in open('/proc/self/maps') if l.startswith('%x-' % a)]\nbefore = there()",
        "say(there() == before and ctypes.string_at(a + 4096, 4096) == b'\\7' * 4096)",
    ),
    "a reservation of a terabyte without reserve": (
        "libc.mmap.restype = ctypes.c_void_p\na = libc.mmap(None, 1 << 40, 3, 0x4022, -1, 0)\nassert a != 2**64 - 1\n"
        "ctypes.memset(a + (1 << 39), 7, 5)",
        "say(ctypes.string_at(a + (1 << 39), 6) == b'\\7\\7\\7\\7\\7\\0')",
    ),
    "many mappings": (
        "libc.mmap.restype = ctypes.c_void_p\na = libc.mmap(None, 5000 * 4096, 3, 0x22, -1, 0)\n"
        "for i in range(0, 5000, 2):\n    ctypes.memset(a + i * 4096, i % 251 + 1, 4096)\n"
        "    assert libc.mprotect(ctypes.c_void_p(a + i * 4096), 4096, 1) == 0\n"
        "maps = lambda: [l.split() for l in open('/proc/self/maps') if a <= int(l.split('-')[0], 16) < a + 5000 * 4096]\n"
        "before = maps()",
        "say(len(before) >= 5000 and maps() == before and all(ctypes.string_at(a + i * 4096, 4096) == bytes([i % 251 + 1]) * 4096"
        " for i in range(0, 5000, 2)))",
    ),
    "write-only and execute-only pages": (
        "libc.mmap.restype = ctypes.c_void_p\na = libc.mmap(None, 8192, 3, 0x22, -1, 0)\nctypes.memset(a, 9, 8192)\n"
        "libc.mprotect(ctypes.c_void_p(a), 4096, 2)\nlibc.mprotect(ctypes.c_void_p(a + 4096), 4096, 4)",
        "libc.mprotect(ctypes.c_void_p(a), 8192, 1)\nsay(ctypes.string_at(a, 8192) == b'\\x09' * 8192)",
    ),
    "changed program text": (
        "lines = [l for l in open('/proc/self/maps') if 'r-xp' in l and '/libc' in l]\n"
        "a = int(lines[0].split('-')[1].split()[0], 16) - 4096\nlibc.mprotect(ctypes.c_void_p(a), 4096, 7)\n"
        "old = ctypes.string_at(a, 4096)\nctypes.memset(a + 4000, 0xcc, 96)\nlibc.mprotect(ctypes.c_void_p(a), 4096, 5)",
        "say(ctypes.string_at(a, 4096) == old[:4000] + b'\\xcc' * 96)",
    ),
    "private file mapping beyond the end of the file": (
        "open('short', 'wb').write(b'abc')\nf = os.open('short', os.O_RDONLY)\nlibc.mmap.restype = ctypes.c_void_p\n"
        "a = libc.mmap(None, 16384, 3, 2, f, 0)\nctypes.memset(a + 3, 1, 5)",
        "say(ctypes.string_at(a, 9) == b'abc\\1\\1\\1\\1\\1\\0')",
    ),
    "shared file mapping": (
        "open('shared', 'wb').write(bytes(8192))\nf = open('shared', 'r+b')\nm = mmap.mmap(f.fileno(), 8192)\nm[:3] = b'xyz'",
        "m[4096:4099] = b'abc'\nsay(open('shared', 'rb').read()[4096:4099] == b'abc' and m[:3] == b'xyz')",
    ),
    "advice and locks": (
        "libc.mmap.restype = ctypes.c_void_p\na = libc.mmap(None, 7 << 16, 3, 0x22, -1, 0)\n"
        "for i, n in enumerate((10, 14, 15, 16, 18)): libc.madvise(ctypes.c_void_p(a + (i << 16)), 1 << 16, n)\n"
        "libc.mlock(ctypes.c_void_p(a + (5 << 16)), 1 << 16)\n"
        "def flags():\n    out, on = [], False\n    for l in open('/proc/self/smaps'):\n"
        "        if '-' in l.split()[0]: on = a <= int(l.split('-')[0], 16) < a + (7 << 16)\n"
        "        elif on and l.startswith('VmFlags'): out.append(sorted(set(l.split()[1:]) - {'sd'}))\n    return out\n"
        "before = flags()",
        "say(len(before) >= 5 and flags() == before)",
    ),
    "heap and stack that grow later": (
        "libc.sbrk.restype = ctypes.c_void_p\nold = libc.sbrk(0)",
        "say(libc.sbrk(0) == old)\np = libc.sbrk(1 << 22)\nctypes.memset(p, 3, 1 << 22)\nsay(p == old)\n"
        "libc.alloca = None\nimport sys\nsys.setrecursionlimit(10**6)\n"
        "F = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)\n"
        "def deep(n): return n if n > 3000 else cb(n + 1)\ncb = F(deep)\nsay(cb(0) == 3001)",
    ),
    "positions, append, flags": (
        "open('f', 'w').write('0123456789')\na = os.open('f', os.O_RDWR)\nb = os.dup(a)\nos.lseek(a, 4, 0)\n"
        "c = os.open('f', os.O_RDONLY)\nos.lseek(c, 7, 0)\n"
        "d = os.open('log', os.O_WRONLY | os.O_APPEND | os.O_CREAT)\nos.write(d, b'one')\n"
        "e = os.open('/dev/null', os.O_RDWR | os.O_NONBLOCK)\nh = os.open('/dev/zero', 0)\ng = os.open('.', os.O_PATH)\n"
        "os.set_inheritable(c, True)",
        "say(os.read(b, 2) == b'45' and os.read(a, 2) == b'67' and os.read(c, 9) == b'789')\nos.write(d, b'two')\n"
        "say(open('log').read() == 'onetwo' and fcntl.fcntl(d, 3) & os.O_APPEND == os.O_APPEND)\n"
        "say(fcntl.fcntl(e, 3) & os.O_NONBLOCK != 0, os.read(h, 3) == bytes(3), os.get_inheritable(c), not os.get_inheritable(a))\n"
        "say(os.fstat(g).st_ino == os.stat('.').st_ino)",
    ),
    "descriptors shared with a child": (
        "open('f', 'w').write('0123456789')\na = os.open('f', os.O_RDWR)\nos.lseek(a, 3, 0)\npid = os.fork()\n"
        "if pid == 0:\n    wait_for_go()\n    os.read(a, 2)\n    os._exit(0)",
        "os.waitpid(pid, 0)\nsay(os.read(a, 2) == b'56')",
    ),
    "descriptors with high numbers under a low limit": (
        "a = os.open('/dev/zero', 0)\nos.dup2(a, 900)\nos.close(a)\nresource.setrlimit(resource.RLIMIT_NOFILE, (20, 4000))",
        "say(os.read(900, 2) == bytes(2), resource.getrlimit(resource.RLIMIT_NOFILE) == (20, 4000))",
    ),
    "a full pipe": (
        "r, w = os.pipe2(os.O_NONBLOCK)\nn = 0\ntry:\n    while True: n += os.write(w, bytes([n % 251]) * 1000)\n"
        "except BlockingIOError: pass\n",
        "say(fcntl.fcntl(w, 1032) == 65536)\nd = b''\n"
        "try:\n    while True: d += os.read(r, 4096)\nexcept BlockingIOError: pass\nsay(len(d) == n)",
    ),
    "a pipe full of small pieces": (
        "r, w = os.pipe2(os.O_NONBLOCK)\nz = os.open('subject.py', 0)\nn = 0\n"
        "try:\n    while True: n += os.splice(z, w, 1, offset_src=n)\nexcept BlockingIOError: pass",
        "say(n == 16, os.read(r, 100) == open('subject.py', 'rb').read(n))",
    ),
    "a pipe of one megabyte": (
        "r, w = os.pipe2(os.O_NONBLOCK)\nfcntl.fcntl(w, 1031, 1 << 20)\nos.write(w, b'x' * 500000)",
        "say(fcntl.fcntl(r, 1032) == 1 << 20)\nd = b''\nwhile len(d) < 500000: d += os.read(r, 100000)\nsay(d == b'x' * 500000)",
    ),
    "pipes with one end closed": (
        "r, w = os.pipe()\nos.write(w, b'last')\nos.close(w)\nr2, w2 = os.pipe()\nos.close(r2)\nsignal.signal(13, signal.SIG_IGN)",
        "say(os.read(r, 9) == b'last', os.read(r, 9) == b'')\n"
        "try: os.write(w2, b'x'); say('no EPIPE')\nexcept BrokenPipeError: say(True)",
    ),
    "pending signals in order": (
        "signal.pthread_sigmask(0, [10, 12, 34, 35, 40])\n"
        "class V(ctypes.Union): _fields_ = [('i', ctypes.c_int), ('p', ctypes.c_void_p)]\n"
        "for n, v in ((35, 1), (34, 2), (35, 3), (34, 4), (40, 5)): assert libc.sigqueue(os.getpid(), n, V(i=v)) == 0\n"
        "os.kill(os.getpid(), 10)\nlibc.syscall(234, os.getpid(), os.getpid(), 12)",
        "info = ctypes.create_string_buffer(128)\nmask = struct.pack('Q', 1 << 33 | 1 << 34 | 1 << 39)\ngot = []\n"
        "for _ in range(5):\n    n = libc.sigtimedwait(mask, info, struct.pack('qq', 0, 0))\n"
        "    got.append((n, struct.unpack_from('iiiiiii', info)[6], struct.unpack_from('iiii', info)[2]))\n"
        "say(got == [(34, 2, -1), (34, 4, -1), (35, 1, -1), (35, 3, -1), (40, 5, -1)] or got)\n"
        "say(sorted(signal.sigpending()) == [10, 12])\n"
        "i = signal.sigtimedwait([12], 0)\nsay((i.si_code, i.si_pid) == (0, os.getpid()) or (i, os.getpid()))",
    ),
    "an alternate stack that disarms itself": (
        "b = ctypes.create_string_buffer(65536)\ns = struct.pack('QiiQ', ctypes.addressof(b), -2**31, 0, 65536)\n"
        "assert libc.sigaltstack(s, None) == 0",
        "o = ctypes.create_string_buffer(24)\nlibc.sigaltstack(None, o)\nsay(o.raw == s)",
    ),
    "handlers, mask, ignored": (
        "got = []\nsignal.signal(10, lambda *a: got.append(1))\nsignal.signal(12, signal.SIG_IGN)\n"
        "signal.pthread_sigmask(0, [15, 40])\nf = lambda: [l for l in open('/proc/self/status') if l[:4] in ('SigB', 'SigI', 'SigC', 'SigP', 'ShdP')]\n"
        "before = f()",
        "say(f() == before)\nos.kill(os.getpid(), 10)\nos.kill(os.getpid(), 12)\nsay(got == [1])",
    ),
    "interval timers": (
        "got = []\nsignal.signal(14, lambda *a: got.append(1))\nsignal.signal(26, lambda *a: None)\n"
        "signal.setitimer(signal.ITIMER_REAL, 100, 50)\nsignal.setitimer(signal.ITIMER_VIRTUAL, 70, 0)",
        "a, b = signal.getitimer(signal.ITIMER_REAL), signal.getitimer(signal.ITIMER_VIRTUAL)\n"
        "say(90 < a[0] <= 100 and a[1] == 50, 60 < b[0] <= 70.1 and b[1] == 0, got == [])",
    ),
    "credentials of nobody": (
        "os.chmod('.', 0o777)\nos.setgroups([5, 6, 65534])\nos.setresgid(65534, 7, 8)\nos.setresuid(65534, 65533, 65532)\n"
        "f = lambda: [l for l in open('/proc/self/status') if l[:3] in ('Uid', 'Gid', 'Cap', 'Gro', 'NoN')]\nbefore = f()",
        "say(f() == before)\nsay(os.getresuid() == (65534, 65533, 65532))",
    ),
    "some capabilities": (
        "libc.prctl(24, 21, 0, 0, 0)\nlibc.capset(struct.pack('Ii', 0x20080522, 0), struct.pack('6I', 0xc3, 0xff, 0x81, 0, 0, 0))\n"
        "libc.prctl(47, 2, 7, 0, 0)\nlibc.prctl(28, 4, 0, 0, 0)\nlibc.prctl(38, 1, 0, 0, 0)\n"
        "f = lambda: [l for l in open('/proc/self/status') if l[:3] in ('Uid', 'Gid', 'Cap', 'Gro', 'NoN')] + [libc.prctl(27, 0, 0, 0, 0)]\n"
        "before = f()",
        "say(f() == before or (f(), before))",
    ),
    "limits, nice value, policy": (
        "for n, v in ((0, 1000), (1, 1 << 40), (6, 5000), (11, 100), (3, 4 << 20)): resource.setrlimit(n, (v, v + 1))\n"
        "os.nice(7)\nos.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))\n"
        "f = lambda: ([resource.getrlimit(n) for n in range(16)], os.nice(0), os.sched_getscheduler(0))\nbefore = f()",
        "say(f() == before)",
    ),
    "no memory to spare": (
        "size = int(open('/proc/self/statm').read().split()[0]) * 4096\nresource.setrlimit(resource.RLIMIT_AS, (size + (1 << 20), -1))",
        "say(resource.getrlimit(resource.RLIMIT_AS) == (size + (1 << 20), -1))",
    ),
    "no signals to queue": (
        "signal.pthread_sigmask(0, [40])\nos.kill(os.getpid(), 40)\nos.kill(os.getpid(), 40)\nresource.setrlimit(resource.RLIMIT_SIGPENDING, (0, 0))",
        "say(signal.sigtimedwait([40], 0).si_signo == 40)\nsay(signal.sigtimedwait([40], 0).si_signo == 40)",
    ),
    "names": (
        "assert libc.prctl(15, b'a) b\\n(c:\\t1', 0, 0, 0) == 0\nbefore = open('/proc/self/comm', 'rb').read()",
        "say(open('/proc/self/comm', 'rb').read() == before, open('/proc/self/cmdline').read().split('\\0')[-2] == 'subject.py')",
    ),
    "a file with odd characters in its name": (
        "n = 'a\\x0c\\u2028\\x85 b\\\\c'\nf = open(n, 'w+')\nf.write('x' * 4096)\nf.flush()\nm = mmap.mmap(f.fileno(), 4096)",
        "f.write('y')\nf.flush()\nsay(m[0] == 120, open(n).read()[-2:] == 'xy')",
    ),
    "a file with a newline in its name": (
        "n = 'a\\nVmFlags: ht\\nb'\nf = open(n, 'w+')\nf.write('x' * 4096)\nf.flush()\nm = mmap.mmap(f.fileno(), 4096)",
        "f.write('y')\nf.flush()\nsay(m[0] == 120, open(n).read()[-2:] == 'xy')",
    ),
    "process attributes": (
        "libc.prctl(1, 18, 0, 0, 0)\nlibc.prctl(36, 1, 0, 0, 0)\nlibc.prctl(41, 1, 0, 0, 0)\nlibc.prctl(4, 0, 0, 0, 0)\nos.umask(0o153)\n"
        "open('/proc/self/oom_score_adj', 'w').write('123') if os.access('/proc/self/oom_score_adj', 2) else None\n"
        "def f():\n    i = ctypes.c_int()\n    libc.prctl(2, ctypes.byref(i), 0, 0, 0)\n    j = ctypes.c_int()\n    libc.prctl(37, ctypes.byref(j), 0, 0, 0)\n"
        "    return i.value, j.value, libc.prctl(42, 0, 0, 0, 0), libc.prctl(3, 0, 0, 0, 0)\nbefore = f()",
        "say(f() == before or (f(), before))\nsay(os.umask(0) == 0o153)",
    ),
    "personality": (
        "assert libc.personality(0x0040000 | 0x0400000) >= 0", "say(libc.personality(0xffffffff) == 0x0440000)"
    ),
    "clock without a system call": (
        "a = time.monotonic()", "b = time.monotonic()\nsay(a < b < a + 60, abs(time.time() - os.stat('go').st_mtime) < 5)"
    ),
    "registered addresses": (
        "f = lambda: libc.syscall(274, 0, p, q) or (p.raw, q.raw)\np, q = (ctypes.create_string_buffer(8) for _ in (0, 1))\nbefore = f()\n"
        "i = ctypes.c_void_p()\ng = lambda: (libc.prctl(40, ctypes.byref(i), 0, 0, 0), i.value)\nbefore2 = g()",
        "say(f() == before, g() == before2)",
    ),
    "arguments and environment": (
        "f = lambda: [open(f'/proc/self/{n}', 'rb').read() for n in ('cmdline', 'environ', 'auxv')] + [os.readlink('/proc/self/exe')]\nbefore = f()",
        "say(f() == before)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STATES)
def test_state_comes_back(host: Host, name: str) -> None:
    before, after = STATES[name]
    subject = host.python(f"{before}\npause_for_dump()\n{after}")
    host.round_trip(subject)
    if name in ("positions, append, flags", "a full pipe", "many mappings", "pending signals in order"):
        host.round_trip(subject)
    said = subject.go()
    assert said, "it died"
    assert set(" ".join(said).split()) == {"True"}, said


def pages(maps: str) -> list[tuple[str, ...]]:
    """The mappings, neighbours that continue each other taken as one: the kernel merges more than it once did."""
    merged: list[tuple[str, ...]] = []
    for line in maps.splitlines():
        span, perms, offset, *rest = line.split()
        start, end = (int(word, 16) for word in span.split("-"))
        place = int(offset, 16) - start if int(rest[1]) else 0
        if merged and merged[-1][1] == str(start) and merged[-1][2:] == (perms, str(place), *rest):
            merged[-1] = (merged[-1][0], str(end), *merged[-1][2:])
        else:
            merged.append((str(start), str(end), perms, str(place), *rest))
    return merged


def test_whole_mapping_list_is_the_same(host: Host) -> None:
    subject = host.python("pause_for_dump()\nsay('ok')")
    before = pages(subject.proc("maps"))
    for _ in range(3):
        host.round_trip(subject)
        assert pages(subject.proc("maps")) == before
    assert subject.go() == ["ok"]


def test_rseq_is_registered_again(host: Host) -> None:
    """glibc registered it at the start; a second registration must be refused as busy, so it is there."""
    subject = host.python(
        "a = libc.__rseq_offset if hasattr(libc, '__rseq_offset') else None\npause_for_dump()\n"
        "area = ctypes.create_string_buffer(96)\nat = (ctypes.addressof(area) + 31) & ~31\n"
        "r = libc.syscall(334, ctypes.c_void_p(at), 32, 0, 0x53053053)\nsay(r, ctypes.get_errno())"
    )
    fresh = host.dump(subject, "-R")
    assert fresh.ok, fresh
    host.round_trip(subject)
    assert subject.go()[0].startswith("-1 "), "rseq was free: it had not been registered again"


def test_half_a_gigabyte(host: Host) -> None:
    subject = host.python(
        "m = mmap.mmap(-1, 512 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\nimport random\n"
        "block = random.Random(5).randbytes(1 << 20)\n"
        "for i in range(512): m[i << 20 : (i + 1) << 20] = i.to_bytes(8, 'little') + block[8:]\npause_for_dump()\nimport hashlib\n"
        "say(hashlib.sha1(m).hexdigest())",
    )
    import random

    block = random.Random(5).randbytes(1 << 20)
    digest = hashlib.sha1()
    for number in range(512):
        digest.update(number.to_bytes(8, "little") + block[8:])
    host.round_trip(subject)
    assert subject.go() == [digest.hexdigest()]


def test_every_other_page(host: Host) -> None:
    subject = host.python(
        "libc.mmap.restype = ctypes.c_void_p\na = libc.mmap(None, 200 << 20, 3, 0x22, -1, 0)\nlibc.madvise(ctypes.c_void_p(a), 200 << 20, 15)\n"
        "v = (ctypes.c_ubyte * (200 << 20)).from_address(a)\nfor i in range(0, 200 << 20, 8192): v[i + 5] = i >> 13 & 255\n"
        "pause_for_dump()\nsay(all(v[i + 5] == i >> 13 & 255 and v[i + 4101] == 0 for i in range(0, 200 << 20, 8192)))"
    )
    host.round_trip(subject)
    pages = sum(os.path.getsize(host.images / name) for name in os.listdir(host.images) if name.startswith("pages-"))
    assert pages < 130 << 20, "pages without content were saved"
    assert subject.go() == ["True"]


def test_vector_and_mask_registers_in_a_busy_loop(host: Host, compiled: Callable[[str], str]) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("registers.c is written for x86_64")
    (host.folder / "word").write_bytes(bytes(4096))
    subject = host.start(compiled("registers"))
    for _ in range(3):
        assert host.dump(subject, "-R").ok
    host.round_trip(subject)
    host.round_trip(subject)
    with open(host.folder / "word", "r+b") as word:
        word.write(b"\1")
    assert subject.go() == ["0 registers differ"]
