# SPDX-License-Identifier: GPL-2.0-only
"""`python -m pycriu`."""

from pycriu.cli import command

command()
