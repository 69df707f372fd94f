# SPDX-License-Identifier: GPL-2.0-only
"""Checkpoint and restore of Linux process trees, from outside, in CRIU's image format."""

__version__ = "0.1.0"
