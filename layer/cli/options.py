# SPDX-License-Identifier: GPL-2.0-only
"""What several verbs share on the command line."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]  # argparse names it no other way


def folder(parser: argparse.ArgumentParser) -> None:
    """--builddir."""
    parser.add_argument("--builddir", type=Path, default=Path(), help="a configured build folder (default: this one)")
