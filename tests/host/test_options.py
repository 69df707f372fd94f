# SPDX-License-Identifier: GPL-2.0-only
"""What options do that no other test is about."""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import shutil
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.host.conftest import Host


def test_statistics_are_printed_line_by_line_as_criu_does(host: Host) -> None:
    subject = host.python("pause_for_dump()\nsay('ok')")
    (host.folder / "first").mkdir()
    before = host.run("pre-dump", "-t", str(subject.pid), "-D", str(host.folder / "first"), "--display-stats")
    assert re.search(r"^Memory pages written: [1-9]\d* \(0x[0-9a-f]+\)$", before.log, re.MULTILINE), before
    dumped = host.dump(subject, "--display-stats")
    assert dumped.ok, dumped
    lines = dumped.log.splitlines()
    at = lines.index("Displaying dump stats:")
    forms = [
        r"Freezing time: \d+ us", r"Frozen time: \d+ us", r"Memory dump time: \d+ us", r"Memory write time: \d+ us",
        r"IRMAP resolve time: \d+ us", r"Memory pages scanned: (\d+) \(0x[0-9a-f]+\)",
        r"Memory pages skipped from parent: 0 \(0x0\)", r"Memory pages written: (\d+) \(0x[0-9a-f]+\)",
        r"Lazy memory pages: 0 \(0x0\)",
    ]  # fmt: skip
    for line, form in zip(lines[at + 1 :], forms, strict=False):
        assert re.fullmatch(form, line), (line, form)
    restored = host.restore("--display-stats")
    assert restored.ok, restored
    lines = restored.log.splitlines()
    at = lines.index("Displaying restore stats:")
    forms = [
        r"Pages compared: 0 \(0x0\)", r"Pages skipped COW: 0 \(0x0\)", r"Pages restored: [1-9]\d* \(0x[0-9a-f]+\)",
        r"Restore time: [1-9]\d* us", r"Forking time: \d+ us",
    ]  # fmt: skip
    for line, form in zip(lines[at + 1 :], forms, strict=False):
        assert re.fullmatch(form, line), (line, form)
    assert subject.go() == ["ok"]
    assert "Displaying" not in host.run("restore", "--no-display-stats", "-D", str(host.folder)).log


def test_a_descriptor_can_be_closed_first(host: Host, tmp_path: Path) -> None:
    """What we are not to have open, such as the end of a pipe of the tree."""
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    subject = host.python("pause_for_dump()\nsay('ok')")
    command = host.command("dump", "-t", str(subject.pid), "-D", str(host.images), "-R", "--close", str(writer))
    script = tmp_path / "fds"
    script.write_text(f"#!/bin/sh\n[ -p /proc/$PPID/fd/{writer} ] && echo open || echo closed\n")
    script.chmod(0o700)
    done = subprocess.run(
        [*command, "-o", "-", "--action-script", str(script)],
        pass_fds=(writer,), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "closed"
    again = subprocess.run([*command], capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert f"--close {writer}: Bad file descriptor" in again.stderr
    for fd in (reader, writer):
        os.close(fd)
    assert subject.go() == ["ok"]


def test_a_device_may_have_lost_its_path(host: Host, tmp_path: Path) -> None:
    node = tmp_path / "hole"
    try:
        os.mknod(node, 0o600 | 0o020000, os.makedev(1, 3))
        node.open("rb").close()
    except PermissionError:
        pytest.skip("device nodes cannot be made and opened here: a container or a mount with nodev")
    subject = host.python(
        f"f = open({str(node)!r}, 'r+b', buffering=0)\npause_for_dump()\n"
        "say(f.write(b'x'), f.read(1), os.readlink(f'/proc/self/fd/{f.fileno()}'))"
    )
    node.unlink()
    host.refused(subject, str(node), "a deleted device")
    host.round_trip(subject, "--evasive-devices")
    assert subject.go() == ["1 b'' /dev/null"]


def test_control_groups_and_the_lock_of_the_network_have_one_setting_each(host: Host) -> None:
    subject = host.python("pause_for_dump()\nsay('ok')")
    for words in (["--manage-cgroups"], ["--manage-cgroups=soft"]):
        host.refused(subject, "control groups are neither saved nor restored", options=tuple(words))
    host.refused(subject, "pycriu speaks to nf_tables itself", options=("--network-lock", "iptables"))
    assert host.dump(subject, "--manage-cgroups=ignore", "--network-lock=none").ok
    restored = host.restore("--manage-cgroups=none", "--weak-sysctls")
    assert restored.ok, restored
    assert "--weak-sysctls has no effect: no sysctls are restored" in restored.log
    assert subject.go() == ["ok"]


def test_statistics_have_the_fields_of_criu(host: Host) -> None:
    """All that CRIU fills in are there, and pages of shared memory are counted by themselves."""
    from pycriu.images import messages as m

    subject = host.python(
        "shared = mmap.mmap(-1, 1 << 20)\nshared[:] = b'x' * (1 << 20)\npause_for_dump()\nsay(shared[:2])"
    )
    work = host.folder / "work"
    work.mkdir()
    assert host.dump(subject, "-W", str(work)).ok
    assert host.run("restore", "-d", "-D", str(host.images), "-W", str(work)).ok
    dumped, restored = (
        m.stats_entry.FromString((work / name).read_bytes()[12:]) for name in ("stats-dump", "stats-restore")
    )
    names = {
        "freezing_time", "frozen_time", "memdump_time", "memwrite_time", "pages_scanned", "pages_skipped_parent",
        "pages_written", "irmap_resolve", "pages_lazy", "page_pipes", "page_pipe_bufs", "shpages_scanned",
        "shpages_skipped_parent", "shpages_written",
    }  # fmt: skip
    assert {field.name for field, _ in dumped.dump.ListFields()} == names
    assert dumped.dump.shpages_written == (1 << 20) // mmap.PAGESIZE
    private = sum(path.stat().st_size for path in host.images.glob("pages-*.img")) // mmap.PAGESIZE
    assert dumped.dump.pages_written == private - dumped.dump.shpages_written
    names = {"pages_compared", "pages_skipped_cow", "forking_time", "restore_time", "pages_restored"}
    assert {field.name for field, _ in restored.restore.ListFields()} == names
    assert subject.go() == ["b'xx'"]


def test_a_service_says_when_it_is_ready(host: Host) -> None:
    """A zero byte and the end of the file; and an action script is told."""
    reader, writer = os.pipe()
    script = host.folder / "script"
    script.write_text(f"#!/bin/sh\necho $CRTOOLS_SCRIPT_ACTION >>{host.folder}/told\n")
    script.chmod(0o700)
    service = subprocess.Popen(
        host.command("service", "--address", "socket", "--status-fd", str(writer), "--action-script", str(script)),
        cwd=host.folder, pass_fds=(writer,), stdin=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(writer)
    with open(reader, "rb") as status:
        assert status.read() == b"\0"
    assert service.poll() is None
    assert (host.folder / "socket").is_socket()
    assert (host.folder / "told").read_text() == "status-ready\n"
    service.terminate()
    assert service.wait(20) == 0


def probe(program: str) -> int:
    """perf_event_open(2) of a uprobe at the entry point of an ELF program of 64 bits; closing it ends the probe."""
    with open("/sys/bus/event_source/devices/uprobe/type") as file:
        kind = int(file.read())
    with open(program, "rb") as file:
        data = file.read()
    (entry, table), (count,) = struct.unpack_from("<QQ", data, 24), struct.unpack_from("<H", data, 56)
    for number in range(count):
        load, _, offset, address, _, size = struct.unpack_from("<IIQQQQ", data, table + 56 * number)
        if load == 1 and address <= entry < address + size:
            name = ctypes.create_string_buffer(os.path.realpath(program).encode())
            attributes = bytearray(136)  # struct perf_event_attr
            struct.pack_into("<IIQ", attributes, 0, kind, len(attributes), 0)
            struct.pack_into("<QQ", attributes, 56, ctypes.addressof(name), entry - address + offset)
            raw = (ctypes.c_char * len(attributes)).from_buffer(attributes)
            number_of_call = {"x86_64": 298, "aarch64": 241}[os.uname().machine]
            libc = ctypes.CDLL(None, use_errno=True)
            fd = libc.syscall(number_of_call, raw, -1, 0, -1, 8)
            if fd < 0:
                pytest.skip(f"perf_event_open: {os.strerror(ctypes.get_errno())}")
            return int(fd)
    raise AssertionError(f"{program} has no entry point")


def test_a_program_that_has_been_under_uprobes(host: Host) -> None:
    if not os.path.exists("/sys/bus/event_source/devices/uprobe/type"):
        pytest.skip("this kernel has no uprobes (CONFIG_UPROBE_EVENTS)")
    program = host.folder / "probed"
    shutil.copy("/bin/sh", program)
    probing = probe(str(program))
    subject = host.start(str(program), "-c", "echo ready; while [ ! -e go ]; do :; done; echo ok")
    os.close(probing)
    if "[uprobes]" not in subject.proc("maps"):
        pytest.skip("the probe was not hit")
    host.refused(subject, "is, or has been, under uprobes", "--allow-uprobes")
    dumped = host.dump(subject, "--allow-uprobes")
    assert dumped.ok, dumped
    refused = host.restore()
    assert "made with --allow-uprobes" in refused.errors()
    restored = host.restore("--allow-uprobes")
    assert restored.ok, restored
    assert "[uprobes]" not in subject.proc("maps")
    assert subject.go() == ["ok"]
