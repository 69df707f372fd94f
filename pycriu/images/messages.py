# SPDX-License-Identifier: GPL-2.0-only
"""Every message of the image format as a class of that name: `messages.core_entry(mtype=1)`.

Made on first use by `schema`; `messages.pyi`, generated from the same `.proto` files, tells type checkers the fields.
"""

from __future__ import annotations

from pycriu.images import schema


def __getattr__(name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)
    try:
        found: type = schema.message(name)
    except KeyError:
        raise AttributeError(f"the image format has no message {name!r}") from None
    globals()[name] = found  # the next look-up does not come here
    return found
