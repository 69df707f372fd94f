# SPDX-License-Identifier: GPL-2.0-only
"""Numbers in words, by python-ptrace's tables. For errors and debug output: importing them costs 20 ms."""

from __future__ import annotations


def signal(number: int) -> str:
    """SIGKILL for 9; a real-time signal by its distance from SIGRTMIN."""
    from ptrace.signames import signalName  # type: ignore[import-untyped]

    return str(signalName(number))


def syscall(number: int) -> str:
    """clock_nanosleep for 230 on x86_64: the numbering is that of the machine we run on."""
    from ptrace.syscall import SYSCALL_NAMES  # type: ignore[import-untyped]

    return str(SYSCALL_NAMES.get(number, f"system call {number}"))
