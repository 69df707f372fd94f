# SPDX-License-Identifier: GPL-2.0-only
"""The parts of a restore: images read, tasks with the right ids, all that they have; `pycriu.restore` is the story."""
