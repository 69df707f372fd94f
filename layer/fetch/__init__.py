# SPDX-License-Identifier: GPL-2.0-only
"""Sources: where they come from, the lock that pins them, and how they are unpacked."""
