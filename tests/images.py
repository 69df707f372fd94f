# SPDX-License-Identifier: GPL-2.0-only
"""Images that need no directory: for what reads them."""

from __future__ import annotations

import io
from typing import Any

from pycriu.errors import ImageError
from pycriu.images import framing, store


class InMemory(store.Images):
    """Images by name: entries (pairs of entry and payload where there is one), or bytes as they are in the file."""

    def __init__(self, images: dict[str, Any] | None = None) -> None:
        self.path = "here"
        self.images = images or {}

    def names(self) -> list[str]:
        return sorted(self.images)

    def exists(self, name: str) -> bool:
        store.kind_of(name)
        return name in self.images

    def raw(self, name: str) -> Any:
        if name not in self.images:
            raise ImageError(f"{name}: not here")
        content = self.images[name]
        return io.BytesIO(content if isinstance(content, bytes) else framed(name, content))


def framed(name: str, entries: list[Any]) -> bytes:
    """An image file with these entries."""
    return b"".join(framing.build(store.kind_of(name), entries, name))
