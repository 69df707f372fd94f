# SPDX-License-Identifier: GPL-2.0-only
"""Open files of which a plugin takes care (pycriu/plugins)."""

from __future__ import annotations

from pycriu.errors import About, UserError
from pycriu.fds.kind import Kind
from pycriu.fds.openfile import OpenFile, no_owner
from pycriu.images import messages as m

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pycriu.fds.opening import Opening
    from pycriu.fds.saving import Saving
    from pycriu.images.store import ImagesDir


class Plugged(Kind):
    """A file for which some plugin answers."""

    TYPE = 16  # fd_types.EXT
    NAME = "plugin"

    def matches(self, file: OpenFile) -> bool:
        """Whether there is such a plugin."""
        return self.plugins is not None and self.plugins.of_fd(file) is not None

    def gather(self, files: list[OpenFile], saving: Saving) -> None:
        """Have it saved."""
        for file in files:
            with About(file):
                number = saving.number_of(file.pid, file.fd)
                if number is not None:
                    self.plugins.save(number, file)

    def dump(self, file: OpenFile, number: int, saving: Saving) -> Any:
        """Its message, which says nothing."""
        return m.file_entry(type=self.TYPE, id=number, ext=m.ext_file_entry(id=number, fown=no_owner()))

    def read(self, images: ImagesDir, entries: list[Any]) -> None:
        """UserError where there is no plugin to open them."""
        if entries and self.plugins is None:
            raise UserError(f"file {entries[0].id} of the images is a plugin's", "--libdir names where plugins are")
        for entry in entries:
            self.plugins.check_file(entry.id)

    def open(self, entry: Any, opening: Opening) -> int:
        """Have it opened."""
        fd: int = self.plugins.open(entry.id)
        return fd
