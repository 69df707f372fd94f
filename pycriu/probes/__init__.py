# SPDX-License-Identifier: GPL-2.0-only
"""Probes of the running kernel: each does once, on ourselves or on a child, what dump or restore will do.

A probe returns when the kernel can, and raises what the kernel said (OSError, KernelError) or `Absent` when it cannot.
No probe looks at a version. `table` says what each is for.
"""
