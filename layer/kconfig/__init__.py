# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's configuration: fragments, what becomes of them in a tree, and the audit that says so."""
