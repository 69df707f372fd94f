# SPDX-License-Identifier: GPL-2.0-only
"""Tasks under ptrace(2): one that stands still and works for us, the tree of them, and its way on."""
