# SPDX-License-Identifier: GPL-2.0-only
"""Terminals. The rest of pycriu sees `kind`."""
