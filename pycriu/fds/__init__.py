# SPDX-License-Identifier: GPL-2.0-only
"""One file per kind of open file: recognise it, dump it, restore it."""
