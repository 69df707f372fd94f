# SPDX-License-Identifier: GPL-2.0-only
"""The target in an emulator: start it, talk to its shell, notice when it dies. It builds nothing."""
