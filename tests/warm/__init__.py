# SPDX-License-Identifier: GPL-2.0-only
"""Programs that import for long before their first useful line: for tests of warm starts, and to measure them."""
