# SPDX-License-Identifier: GPL-2.0-only
"""The words of the layer's command line; the only place of it that prints and chooses exit codes."""
