# SPDX-License-Identifier: GPL-2.0-only
"""Words for open files that no kind handles: what it is, and what can be done about it."""

from __future__ import annotations

import os
import stat

from pycriu.fds import sockets
from pycriu.fds.openfile import OpenFile

CLOSE = "let the task close it before the dump"
_DEVICE = "stop using the device, or let the task close it before the dump"
_BPF = "let the task close it; a program or map that is pinned in bpffs lives on without it"

# What follows anon_inode: in the link, the longest beginning first where several fit.
ANONYMOUS = {
    "[io_uring]": ("an io_uring", "run the program without it, or forbid it with sysctl kernel.io_uring_disabled=2"),
    "[userfaultfd]": ("a userfaultfd", "memory that it serves cannot be read from outside; let the task close it"),
    "bpf-map": ("a BPF map", _BPF),
    "bpf-prog": ("a BPF program", _BPF),
    "bpf_link": ("a BPF link", _BPF),
    "bpf-link": ("a BPF link", _BPF),
    "bpf": ("a BPF object", _BPF),
    "btf": ("BPF type information", _BPF),
    "[perf_event]": ("a performance counter (perf_event_open)", "stop profiling before the dump"),
    "kvm-vm": ("a KVM virtual machine", "save the machine by its own means, such as QEMU's savevm"),
    "kvm-vcpu": ("a virtual CPU of KVM", "save the machine by its own means, such as QEMU's savevm"),
    "kvm": ("a part of a KVM virtual machine", "save the machine by its own means, such as QEMU's savevm"),
    "[kvm-gmem]": ("memory of a KVM virtual machine", "save the machine by its own means"),
    "seccomp notify": (
        "a listener for a seccomp filter",
        "the tasks that it serves wait for its answers; close it first",
    ),
    "[landlock-ruleset]": ("a Landlock ruleset", CLOSE),
    "landlock-ruleset": ("a Landlock ruleset", CLOSE),
    "[fscontext]": ("a file system that is being set up (fsopen)", "let the task mount it, then close this"),
    "sync_file": ("a fence of a GPU", _DEVICE),
    "dmabuf": ("a buffer of a device (dma-buf)", _DEVICE),
    "vfio": ("a device that is passed through (VFIO)", _DEVICE),
    "[vfio": ("a device that is passed through (VFIO)", _DEVICE),
    "iommufd": ("an IOMMU address space", _DEVICE),
    "gpio": ("a line of a GPIO chip", _DEVICE),
    "iio": ("a buffer or event of an IIO sensor", _DEVICE),
    "[infinibandevent]": ("an InfiniBand event channel", _DEVICE),
    "i915": ("a part of a GPU", _DEVICE),
}

# Beginnings of those, and of paths of devices that have no fixed number.
LINKS = {
    "/dmabuf:": ANONYMOUS["dmabuf"],
    "/secretmem": ("secret memory (memfd_secret)", "nobody but the task can read it; let the task close it"),
    "/dev/rtc": ("the real-time clock", _DEVICE),
    "/dev/iommu": ("an IOMMU address space", _DEVICE),
    "/dev/vfio/": ("a device that is passed through (VFIO)", _DEVICE),
    "/dev/userfaultfd": ANONYMOUS["[userfaultfd]"],
    "/dev/hidraw": ("an input device", _DEVICE),
    "/dev/gpiochip": ("a GPIO chip", _DEVICE),
    "/dev/i2c-": ("an I2C bus", _DEVICE),
    "/dev/spidev": ("an SPI device", _DEVICE),
    "/dev/watchdog": ("a watchdog, which resets the machine when nobody feeds it", "let the task disarm and close it"),
    "/dev/udmabuf": ("the maker of dma-bufs", CLOSE),
    "/dev/dma_heap/": ("a heap of dma-bufs", _DEVICE),
    "/dev/kfd": ("a GPU", _DEVICE),
    "/dev/ntsync": ("the NT synchronisation device", CLOSE),
    "/dev/uio": ("a device driven from user space (UIO)", _DEVICE),
    "/dev/nvme": ("an NVMe disk", _DEVICE),
    "/dev/binder": ("Android's binder", CLOSE),
}

# (major, minor) of character devices, Documentation/admin-guide/devices.txt; minor None: all of a major.
DEVICES = {
    (10, 232): ("KVM", "save the machine by its own means, such as QEMU's savevm"),
    (10, 229): (
        "a FUSE file system's server",
        "unmount it first: while its server stands still, so does whoever uses it",
    ),
    (10, 203): ("a FUSE character device's server", _DEVICE),
    (10, 196): ("a device that is passed through (VFIO)", _DEVICE),
    (10, 237): ("the control of loop devices", CLOSE),
    (10, 236): ("the control of the device mapper", CLOSE),
    (10, 235): ("the control of automounts", CLOSE),
    (10, 234): ("the control of btrfs", CLOSE),
    (10, 228): ("the HPET timer", _DEVICE),
    (10, 135): ("the real-time clock", _DEVICE),
    (10, 130): LINKS["/dev/watchdog"],
    (10, 223): ("a made-up input device (uinput)", _DEVICE),
    (10, 238): ("a network back end (vhost-net)", _DEVICE),
    (10, 241): ("a socket back end (vhost-vsock)", _DEVICE),
    (10, 242): ("the switch of radios", CLOSE),
    (1, 1): ("the machine's memory", CLOSE),
    (1, 4): ("the machine's I/O ports", CLOSE),
    (13, None): ("an input device", _DEVICE),
    (14, None): ("a sound device", _DEVICE),
    (116, None): ("a sound device", _DEVICE),
    (29, None): ("a frame buffer", _DEVICE),
    (81, None): ("a video device", _DEVICE),
    (226, None): ("a GPU", _DEVICE),
    (195, None): ("a GPU", _DEVICE),
    (21, None): ("a SCSI device", _DEVICE),
    (89, None): ("an I2C bus", _DEVICE),
    (90, None): ("flash memory (MTD)", _DEVICE),
    (108, None): ("a PPP channel", "hang up first"),
    (180, None): ("a USB device", _DEVICE),
    (189, None): ("a USB device", _DEVICE),
}

_TTY_MAJORS = (4, 5, *range(136, 144), 204, 229)


def describe(file: OpenFile) -> tuple[str, str]:
    """What it is, and what to do about it."""
    mode, link = file.status.st_mode, file.link
    if link.startswith("anon_inode:"):
        return _by_beginning(ANONYMOUS, link[11:]) or (f"an anonymous inode ({link[11:]})", CLOSE)
    known = _by_beginning(LINKS, link)
    if known:
        return known
    if stat.S_ISCHR(mode):
        return _character_device(os.major(file.status.st_rdev), os.minor(file.status.st_rdev))
    if stat.S_ISBLK(mode):
        numbers = f"{os.major(file.status.st_rdev)}:{os.minor(file.status.st_rdev)}"
        return f"a block device ({numbers})", "unmount or release it, and let the task close it before the dump"
    if stat.S_ISSOCK(mode):
        found = sockets.about(file)
        return (f"a {found.words}" if found else "a socket"), CLOSE
    if stat.S_ISFIFO(mode):
        return "a named pipe", CLOSE
    return "an open file of an unknown kind", CLOSE


def _by_beginning(table: dict[str, tuple[str, str]], name: str) -> tuple[str, str] | None:
    fitting = [beginning for beginning in table if name.startswith(beginning)]
    return table[max(fitting, key=len)] if fitting else None


def _character_device(major: int, minor: int) -> tuple[str, str]:
    if major in _TTY_MAJORS:
        return "a terminal", CLOSE
    known = DEVICES.get((major, minor)) or DEVICES.get((major, None))
    if known:
        return f"{known[0]} ({major}:{minor})", known[1]
    return f"a character device ({major}:{minor})", _DEVICE
