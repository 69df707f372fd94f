# SPDX-License-Identifier: GPL-2.0-only
"""Source distributions from the package index that pip itself is configured with (or has compiled in).

pip's own `download` would run a package's build backend to learn its metadata; only the file is wanted here, so the
index is read directly, in either of its two formats.
"""

from __future__ import annotations

import html
import http.client
import itertools
import json
import re
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass

from layer import process
from layer.errors import BuildError
from layer.fetch.lock import GoneError, Pin

ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"
# What pip falls back to when nothing is configured. Asked of pip, so that no address stands here.
PIP_DEFAULT = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"

_ATTEMPTS = 4
_BUSY = (429, 500, 502, 503, 504)  # a server says these of the moment


@dataclass(frozen=True, slots=True)
class Sdist:
    """One file an index offers."""

    file: str
    url: str
    sha256: str

    @property
    def version(self) -> str:
        """The version in its name: name-version.tar.gz."""
        return self.file.removesuffix(".tar.gz").rsplit("-", 1)[-1]


def parse(text: str, base: str) -> tuple[Sdist, ...]:
    """The sdists with a sha256 on an index page, JSON or HTML."""
    if text.lstrip().startswith("{"):
        listed = json.loads(text)["files"]
        found = [(item["filename"], item["url"], item.get("hashes", {}).get("sha256", "")) for item in listed]
    else:
        links = re.findall(r'<a\b[^>]*\bhref="([^"#]+)#sha256=(\w{64})"[^>]*>([^<]+)</a>', text)
        found = [(html.unescape(name.strip()), html.unescape(url), sha256) for url, sha256, name in links]
    return tuple(
        Sdist(name, urllib.parse.urljoin(base, url), sha)
        for name, url, sha in found
        if name.endswith(".tar.gz") and sha
    )


def newest(package: str, requirement: str) -> Pin:
    """The newest released sdist that fits `requirement` (such as ==6.*)."""
    from packaging.specifiers import SpecifierSet
    from packaging.version import InvalidVersion, Version

    wanted = SpecifierSet(requirement)
    candidates: list[tuple[Version, Sdist]] = []
    for sdist in offered(package):
        try:
            version = Version(sdist.version)
        except InvalidVersion:
            continue  # older than the rules for versions; never the newest
        if not version.is_prerelease and version in wanted:
            candidates.append((version, sdist))
    if not candidates:
        raise BuildError(f"the package index offers no sdist of {package} {requirement}")
    best = max(candidates, key=lambda candidate: candidate[0])[1]
    return Pin(best.version, "pypi", {best.file: best.sha256})


def offered(package: str) -> tuple[Sdist, ...]:
    """Every sdist of `package` on the configured indexes."""
    found: list[Sdist] = []
    failures: list[str] = []
    for index in _indexes():
        url = f"{index.rstrip('/')}/{re.sub(r'[-_.]+', '-', package).lower()}/"
        try:
            found += parse(read(url, accept=ACCEPT).decode(), url)
        except OSError as error:  # includes urllib's; another index may have it
            failures.append(f"{url}: {error}")
    if not found:
        raise BuildError(f"no sdist of {package} found", hint="\n  ".join(failures) or "pip has no index configured")
    return tuple(found)


def download(package: str, file: str, sha256: str) -> bytes:
    """The content of one file of the index."""
    for sdist in offered(package):
        if sdist.file == file and sdist.sha256 == sha256:
            return read(sdist.url)
    raise GoneError(f"the package index no longer offers {file} with sha256 {sha256}")


def read(url: str, *, accept: str = "*/*") -> bytes:
    """What an address serves; asked again where it may yet be had: the connection fails or is cut, the server is busy.

    OSError in the end.
    """
    request = urllib.request.Request(url, headers={"Accept": accept})
    context = ssl.create_default_context(cafile=_setting("cert") or None)
    for failures in itertools.count(1):
        try:
            with urllib.request.urlopen(request, timeout=60, context=context) as reply:
                content: bytes = reply.read()
                break
        except (OSError, http.client.HTTPException) as error:
            lasting = isinstance(error, urllib.error.HTTPError) and error.code not in _BUSY
            if lasting or failures == _ATTEMPTS or not url.startswith("http"):
                raise error if isinstance(error, OSError) else OSError(f"{url}: {error}") from error
            time.sleep(failures)
    return content


def _indexes() -> tuple[str, ...]:
    first = _setting("index-url") or process.output([sys.executable, "-c", PIP_DEFAULT]).strip()
    return (first, *_setting("extra-index-url").split())


def _setting(name: str) -> str:
    """pip's configured value, from its files and environment alike; the environment wins, as it does in pip."""
    lines = process.output([sys.executable, "-m", "pip", "config", "list"]).splitlines()
    found = {key: value.strip("'\"") for key, _, value in (line.partition("=") for line in lines)}
    return found.get(f":env:.{name}") or found.get(f"install.{name}") or found.get(f"global.{name}", "")
