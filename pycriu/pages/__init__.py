# SPDX-License-Identifier: GPL-2.0-only
"""Pages of memory: copied, compared with those of earlier images, and the images that hold them."""
