# SPDX-License-Identifier: GPL-2.0-only
"""Sockets of IPv4 and IPv6: TCP with and without connections, UDP, raw and ICMP. The rest of pycriu sees `kind`."""
