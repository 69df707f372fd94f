# SPDX-License-Identifier: GPL-2.0-only
"""The parts of a dump: what is looked at, read and written of a tree; `pycriu.dump` is the story."""
