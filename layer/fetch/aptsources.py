# SPDX-License-Identifier: GPL-2.0-only
"""Where this host gets Debian from, read from its own apt sources, one-line and deb822. Pure parsing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Archive:
    """One address that serves some suites."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str  # a keyring's path, or empty


def parse_list(text: str) -> Iterator[Archive]:
    """`deb [options] uri suite component…` lines, the active ones."""
    pattern = re.compile(
        r"^\s*deb(?:-src)?\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)(?P<components>[^#]*)"
    )
    for line in text.splitlines():
        if found := pattern.match(line):
            options = dict(word.split("=", 1) for word in (found["options"] or "").split() if "=" in word)
            yield Archive(
                found["uri"], (found["suite"],), tuple(found["components"].split()), options.get("signed-by", "")
            )


def parse_deb822(text: str) -> Iterator[Archive]:
    """Stanzas of `Field: value` lines, the enabled ones."""
    for stanza in re.split(r"\n\s*\n", text):
        fields = _fields(stanza)
        if "uris" not in fields or fields.get("enabled", "yes").lower() in {"no", "false", "0"}:
            continue
        signed_by = fields.get("signed-by", "")
        for uri in fields["uris"].split():
            yield Archive(
                uri,
                tuple(fields.get("suites", "").split()),
                tuple(fields.get("components", "").split()),
                signed_by if signed_by.startswith("/") else "",
            )


def debian(archives: Iterable[Archive], codename: str) -> Archive | None:
    """The archive that serves this release of Debian itself: the suite called by its codename, component main."""
    for archive in archives:
        if codename in archive.suites and "main" in archive.components:
            return archive
    return None


def _fields(stanza: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    last = ""
    for line in stanza.splitlines():
        if line.startswith("#"):
            continue
        if line[:1].isspace() and last:
            fields[last] += " " + line.strip()
        elif ":" in line:
            name, value = line.split(":", 1)
            last = name.strip().lower()
            fields[last] = value.strip()
    return fields
