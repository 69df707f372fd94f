# SPDX-License-Identifier: GPL-2.0-only
"""Dry runs: everything that a dump or a restore would be refused for, at once, and the options that would help.

report   what is found, as lines and as JSON
dump     of a tree: stopped for milliseconds, and let go
restore  of a checkpoint: images are read, nothing is made
"""
