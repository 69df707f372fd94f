# SPDX-License-Identifier: GPL-2.0-only
"""What /proc prints of a task: pure parsers (text in, values out), and `read` for the text. See proc(5)."""

from __future__ import annotations

import os

from pycriu.errors import TraceeGone, UserError

EIO = 5
_PF_EXITING = 4  # Stat.flags, include/linux/sched.h


def read(pid: int | str, name: str) -> bytes:
    """All of /proc/`pid`/`name`; TraceeGone when the task has ended."""
    try:
        fd = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        raise TraceeGone(f"task {pid} is gone (/proc/{pid}/{name})") from None
    try:
        chunks = []
        # seq_file hands out a page at a time unless the buffer is large; mappings of one task fit in one read.
        while chunk := os.read(fd, 1 << 18):
            chunks.append(chunk)
        return b"".join(chunks)
    except (FileNotFoundError, ProcessLookupError):  # the former of fdinfo, whose descriptor has been closed meanwhile
        raise TraceeGone(f"task {pid} is gone (/proc/{pid}/{name})") from None
    finally:
        os.close(fd)


def text(pid: int | str, name: str) -> str:
    """The same as text; bytes that are not UTF-8 survive as surrogates."""
    return os.fsdecode(read(pid, name))


def is_utf8(word: str) -> bool:
    """Whether a name that came from the kernel was UTF-8; see `text`."""
    return word.isascii() or not any("\ud800" <= character <= "\udfff" for character in word)


class Stat:
    """/proc/PID/stat: the fields that matter, under proc(5)'s names; addresses are 0 without ptrace access."""

    __slots__ = (
        "arg_end", "arg_start", "comm", "end_data", "endcode", "env_end", "env_start", "exit_code", "exit_signal",
        "flags", "nice", "num_threads", "pgrp", "pid", "policy", "ppid", "rt_priority", "session", "start_brk",
        "start_data", "startcode", "startstack", "starttime", "state", "tpgid", "tty_nr",
    )  # fmt: skip

    def __init__(self, line: str) -> None:
        """comm may hold blanks and parentheses: it ends at the last one."""
        head, _, tail = line.rpartition(") ")
        pid, _, self.comm = head.partition(" (")
        self.pid = int(pid)
        f = tail.split()  # f[0] is field 3 of the manual page
        self.state = f[0]
        self.ppid, self.pgrp, self.session, self.tty_nr, self.tpgid = (int(x) for x in f[1:6])
        self.flags, self.nice, self.num_threads, self.starttime = int(f[6]), int(f[16]), int(f[17]), int(f[19])
        self.startcode, self.endcode, self.startstack = (int(x) for x in f[23:26])
        self.exit_signal, self.rt_priority, self.policy = int(f[35]), int(f[37]), int(f[38])
        (
            self.start_data, self.end_data, self.start_brk, self.arg_start, self.arg_end, self.env_start, self.env_end,
        ) = (int(x) for x in f[42:49])  # fmt: skip
        self.exit_code = int(f[49])


def stat(pid: int) -> Stat:
    """/proc/PID/stat of a live task."""
    return Stat(text(pid, "stat"))


def memory(pid: int, address: int, size: int) -> bytes:
    """Up to `size` bytes of a task that need not be stopped; what it has unmapped meanwhile is missing."""
    try:
        fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        raise TraceeGone(f"task {pid} is gone (/proc/{pid}/mem)") from None
    try:
        return os.pread(fd, size, address)
    except OSError as error:
        if error.errno == EIO:
            return b""
        raise
    finally:
        os.close(fd)


def parse_status(content: str) -> dict[str, str]:
    """/proc/PID/status: name → value, blanks trimmed."""
    out = {}
    for line in content.split("\n"):
        name, _, value = line.partition(":")
        out[name] = value.strip()
    return out


class Mapping:
    """One line of /proc/PID/maps with some fields of smaps; addresses, offset and page size in bytes."""

    __slots__ = ("dev", "end", "flags", "inode", "key", "name", "offset", "page_size", "perms", "start")

    def __init__(self, header: str) -> None:
        """`header` is the line as it stands in maps or smaps."""
        parts = header.split(None, 5)
        start, _, end = parts[0].partition("-")
        self.start, self.end, self.perms = int(start, 16), int(end, 16), parts[1]
        self.offset = int(parts[2], 16)
        major, _, minor = parts[3].partition(":")
        self.dev = (int(major, 16), int(minor, 16))
        self.inode = int(parts[4])
        self.name = parts[5] if len(parts) > 5 else ""
        self.flags: tuple[str, ...] = ()
        self.page_size = 0  # 0 where smaps was not asked
        self.key = 0  # protection key

    @property
    def prot(self) -> int:
        """PROT_READ 1, PROT_WRITE 2, PROT_EXEC 4."""
        return (self.perms[0] == "r") | (self.perms[1] == "w") << 1 | (self.perms[2] == "x") << 2

    @property
    def shared(self) -> bool:
        """MAP_SHARED."""
        return self.perms[3] == "s"

    def same_file(self, other: Mapping) -> bool:
        """Whether both map the same file under the same name."""
        return (self.dev, self.inode, self.name) == (other.dev, other.inode, other.name)

    def __repr__(self) -> str:
        return f"{self.start:x}-{self.end:x} {self.perms} {self.name or 'anonymous'}"


def parse_smaps(content: str) -> list[Mapping]:
    """/proc/PID/smaps (or maps, without flags) as mappings in address order.

    A task with ten thousand mappings has a quarter of a million lines here, and is stopped: what nobody asks for is not
    looked at. VmFlags is the last line of a mapping's; page sizes are read for huge pages only.
    """
    found: list[Mapping] = []
    keys = "\nProtectionKey:" in content
    at, size = 0, len(content)
    while at < size:
        # Nothing but "\n" ends a line: names of files hold whatever else splitlines() takes for an end.
        end = content.find("\n", at)
        end = size if end < 0 else end
        mapping = Mapping(content[at:end])
        found.append(mapping)
        at = end + 1
        if content[at : at + 1].isupper():  # fields begin with capitals, mappings with lower-case hexadecimal digits
            last = content.find("\nVmFlags:", end)
            last = size if last < 0 else last
            at = content.find("\n", last + 1) + 1 or size
            mapping.flags = tuple(content[last + 9 : at].split())
            if keys:
                mapping.key = _field(content, "\nProtectionKey:", end, last)
            if "ht" in mapping.flags:
                mapping.page_size = _field(content, "\nKernelPageSize:", end, last) << 10
    return found


def _field(content: str, name: str, start: int, end: int) -> int:
    """The number after `name` in a part of `content`; 0 where it is not there."""
    at = content.find(name, start, end)
    return int(content[at + len(name) : at + len(name) + 24].split(None, 1)[0]) if at >= 0 else 0


def parse_fdinfo(content: str) -> dict[str, str]:
    """/proc/PID/fdinfo/N: name → value of the first line of that name (`lock:` and `tfd:` lines repeat)."""
    out: dict[str, str] = {}
    for line in content.splitlines():
        name, _, value = line.partition(":")
        out.setdefault(name, value.strip())
    return out


def parse_auxv(data: bytes) -> list[int]:
    """/proc/PID/auxv as 64-bit words, keys and values in turn, without the AT_NULL that ends it."""
    words = [int.from_bytes(data[i : i + 8], "little") for i in range(0, len(data) - len(data) % 8, 8)]
    for i in range(0, len(words) - 1, 2):
        if words[i] == 0:
            return words[:i]
    return words


def children(pid: int, tids: list[int]) -> list[int]:
    """PIDs of the children of the threads `tids` of `pid`, in order of birth. Needs CONFIG_PROC_CHILDREN."""
    found = []
    for tid in tids:
        try:
            found += [int(child) for child in read(pid, f"task/{tid}/children").split()]
        except TraceeGone:
            if tid == pid:
                raise
    return found


def threads(pid: int) -> list[int]:
    """Thread ids of `pid`: the leader's, which is the PID, then the others, ascending."""
    try:
        return sorted((int(name) for name in os.listdir(f"/proc/{pid}/task")), key=lambda tid: (tid != pid, tid))
    except (FileNotFoundError, ProcessLookupError):
        raise TraceeGone(f"task {pid} is gone") from None


def uptime() -> int:
    """How long the machine has been up, in microseconds."""
    with open("/proc/uptime") as file:
        return int(float(file.read().split()[0]) * 1e6)


def boot_id() -> bytes:
    """16 bytes that no other boot has; none where the kernel does not tell."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return bytes.fromhex(file.read().strip().replace("-", ""))
    except FileNotFoundError:
        return b""


def descriptors(pid: int) -> list[int]:
    """Numbers of the open descriptors of `pid`, ascending."""
    try:
        return sorted(int(name) for name in os.listdir(f"/proc/{pid}/fd"))
    except (FileNotFoundError, ProcessLookupError):
        raise TraceeGone(f"task {pid} is gone") from None


def link(pid: int, name: str) -> str:
    """Where /proc/`pid`/`name` points."""
    try:
        return os.readlink(f"/proc/{pid}/{name}")
    except (FileNotFoundError, ProcessLookupError):
        raise TraceeGone(f"task {pid} is gone (/proc/{pid}/{name})") from None
    except PermissionError:
        # A task that is ending has no memory any more by which the kernel judges who may look (ptrace(2)).
        if not is_ending(pid):
            raise UserError(
                f"process {pid} ({stat(pid).comm}) may not be looked into (/proc/{pid}/{name})",
                "it is not of this user, or it has privileges: run pycriu as root, or with CAP_SYS_PTRACE",
            ) from None
        raise TraceeGone(f"task {pid} is ending (/proc/{pid}/{name})") from None


def target(pid: int, name: str) -> os.stat_result:
    """The status of what /proc/`pid`/`name`, a magic link, leads to; PermissionError where we may not look."""
    try:
        return os.stat(f"/proc/{pid}/{name}")
    except (FileNotFoundError, ProcessLookupError):  # the latter of a name that the kernel has cached (map_files)
        raise TraceeGone(f"task {pid} is gone (/proc/{pid}/{name})") from None
    except PermissionError:
        if not is_ending(pid):
            raise
        raise TraceeGone(f"task {pid} is ending (/proc/{pid}/{name})") from None


def is_ending(tid: int) -> bool:
    """Whether a task is on its way out, or gone: it may have lost already what it shared with others (do_exit)."""
    try:
        return bool(stat(tid).flags & _PF_EXITING)
    except TraceeGone:
        return True


def exists(pid: int) -> bool:
    """Whether any task, zombie included, holds this PID."""
    return os.path.exists(f"/proc/{pid}")
