# SPDX-License-Identifier: GPL-2.0-only
"""What a checkpoint holds that an older version of CRIU has no place for.

The table is what the descriptors in the programs of Debian's criu 3.17.1 and 4.1.1 lack, held against today's. A field
that says nothing (zero, empty) is no loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pycriu.images.values import is_repeated

if TYPE_CHECKING:
    from collections.abc import Iterator

# (message, field): what is lost when a CRIU before the version reads it.
SINCE_4 = {
    ("cg_controller_entry", "is_threaded"): "whether a cgroup is threaded",
    ("core_entry", "ti_loongarch64"): "a task of LoongArch",
    ("core_entry", "ti_riscv64"): "a task of RISC-V",
    ("creds_entry", "no_new_privs"): "that a task may gain no privileges",
    ("creds_entry", "cap_amb"): "ambient capabilities",
    ("file_entry", "pidfd"): "a pidfd",
    ("inet_sk_entry", "tcp_opts"): "options of a TCP socket",
    ("ip_opts_entry", "pktinfo"): "an option of an IP socket",
    ("ip_opts_entry", "tos"): "an option of an IP socket",
    ("ip_opts_entry", "ttl"): "an option of an IP socket",
    ("memfd_inode_entry", "mode"): "the mode of a memfd",
    ("netns_entry", "ipv4_sysctl"): "settings of IPv4",
    ("task_core_entry", "stop_signo"): "by which signal a task was stopped",
    ("task_core_entry", "membarrier_registration_mask"): "the registration for membarrier(2)",
    ("thread_core_entry", "cg_set"): "the cgroup of a thread",
    ("thread_info_aarch64", "pac_keys"): "the keys of pointer authentication",
    ("user_x86_xsave_entry", "cet"): "a shadow stack",
}
# Bits of vma_entry.status that came after 3.17: shadow stacks, guard pages, uprobes.
_NEW_STATUS = {1 << 15: "a shadow stack", 1 << 16: "guard pages", 1 << 17: "uprobes"}
# Without these the task would not go on as it was, or at all.
VITAL = {
    "a task of LoongArch",
    "a task of RISC-V",
    "a pidfd",
    "the keys of pointer authentication",
    *_NEW_STATUS.values(),
}


def _says_something(value: Any) -> bool:
    """Whether there is anything in a field but zeros."""
    if hasattr(value, "ListFields"):
        return any(_says_something(inner) for _, inner in value.ListFields())
    if isinstance(value, int | str | bytes | float):
        return bool(value)
    return any(_says_something(one) for one in value)


def losses(message: Any, where: str) -> Iterator[tuple[str, str]]:
    """Where in a message something is that CRIU 3 has no place for, and what it is. What is not vital is taken out."""
    descriptor = message.DESCRIPTOR.name
    if descriptor == "vma_entry":
        yield from ((f"{where}.status", what) for bit, what in _NEW_STATUS.items() if message.status & bit)
        return
    for field, value in message.ListFields():
        path = f"{where}.{field.name}"
        what = SINCE_4.get((descriptor, field.name))
        if what is not None:
            if _says_something(value):
                yield path, what
            if what not in VITAL:
                message.ClearField(field.name)
        elif field.message_type is not None:
            for one in value if is_repeated(field) else (value,):
                yield from losses(one, path)
