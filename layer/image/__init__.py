# SPDX-License-Identifier: GPL-2.0-only
"""From finished recipes to what boots: file tree, archive, data disk, and what is to be known about them."""
