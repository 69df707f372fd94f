# SPDX-License-Identifier: GPL-2.0-only
"""Configuration files: options, one per line, in front of those of the command line."""

from __future__ import annotations

from pycriu import arguments
from pycriu.errors import UserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pycriu.arguments import Values


def parse(files: Iterable[str], words: Sequence[str]) -> tuple[Values, list[str]]:
    """As `arguments.parse`, with the options of the files first, so that later files and the words overrule them."""
    configured: list[str] = []
    for name in files:
        try:
            with open(name) as file:
                configured += arguments.config_words(file.read())
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"configuration file {name}: {error}") from None
    return arguments.parse([*configured, *words])
