# SPDX-License-Identifier: GPL-2.0-only
"""UNIX sockets. The rest of pycriu sees `kind`."""
