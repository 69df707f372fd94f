# SPDX-License-Identifier: GPL-2.0-only
"""Checkpoints as things that lie about on disks: which there are (`sets`), and which may go (`collect`)."""
