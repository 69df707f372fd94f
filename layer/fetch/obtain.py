# SPDX-License-Identifier: GPL-2.0-only
"""A recipe's source files in the download cache: verified against the lock, fetched when they are not there yet.

A version that the archive has dropped is replaced by what the archive signs today, loudly, unless the build is strict.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from layer.cache import Cache, settle
from layer.errors import BuildError, InputError
from layer.fetch import debian, lock, pypi
from layer.fetch.lock import Pin
from layer.recipes import DebianSource, HttpsSource, PypiSource, Recipe


@dataclass(frozen=True, slots=True)
class Obtained:
    """Verified files of one source, by name."""

    pin: Pin
    files: Mapping[str, Path]


def obtain(recipe: Recipe, pin: Pin, cache: Cache) -> Obtained:
    """The files of `pin`; GoneError when the archive no longer has them and neither has the cache."""
    with cache.turn(f"source-{recipe.name}"):
        if not all(cache.download(sha256, file).is_file() for file, sha256 in pin.files.items()):
            with cache.scratch() as folder:
                _download(recipe, pin, cache, folder)
                for file, sha256 in pin.files.items():
                    _accept(recipe, pin, folder / file, sha256, cache)
    return Obtained(pin, {file: cache.download(sha256, file) for file, sha256 in pin.files.items()})


def today(recipe: Recipe, cache: Cache, *, refresh: bool = True) -> Pin:
    """What the recipe's origin offers now, in the words of its own signatures or index."""
    match recipe.source:
        case DebianSource() as source:
            apt = debian.Apt(cache, source.suite)
            apt.prepare(refresh=refresh)
            return debian.newest(source, apt)
        case PypiSource() as source:
            return pypi.newest(source.package, source.version)
        case HttpsSource() as source:
            return _pin_https(source, cache)
    raise InputError(f"{recipe.name} has no source that is locked", file=recipe.file)


def substitute(recipe: Recipe, gone: Pin, cache: Cache, warn: Callable[[str], None], *, strict: bool) -> Pin:
    """The pin that stands in for one that is gone; a strict build refuses instead."""
    offered = today(recipe, cache)
    told = f"{recipe.name}: {gone.origin} no longer carries the locked {gone.version}; today it signs {offered.version}"
    move = f"`make lock RECIPE={recipe.name}` moves the lock there"
    if strict:
        raise BuildError(
            told,
            hint=f"{move}; configured without --strict-lock, the build would go on with it",
        )
    warn(f"warning: {told}, which this build takes; {move} for good")
    return replace(offered, replaces=gone.version)


def _download(recipe: Recipe, pin: Pin, cache: Cache, folder: Path) -> None:
    match recipe.source:
        case DebianSource() as source:
            _download_debian(debian.Apt(cache, source.suite), source.package, pin, folder)
        case PypiSource() as source:
            for file, sha256 in pin.files.items():
                (folder / file).write_bytes(pypi.download(source.package, file, sha256))
        case HttpsSource() as source:
            (file,) = pin.files
            (folder / file).write_bytes(pypi.read(https_url(source)))


def _download_debian(apt: debian.Apt, package: str, pin: Pin, folder: Path) -> None:
    """An index that is here already may be older than the archive: look twice before saying that a version is gone."""
    apt.prepare(refresh=False)
    try:
        apt.pin(package, pin.version)
        apt.download(package, pin.version, folder)
    except BuildError:
        apt.prepare(refresh=True)
        apt.pin(package, pin.version)
        apt.download(package, pin.version, folder)


def _accept(recipe: Recipe, pin: Pin, path: Path, sha256: str, cache: Cache) -> None:
    if not path.is_file():
        raise BuildError(
            f"{recipe.name}: {path.name} is in the lock but not among what {pin.origin} serves for {pin.version}"
        )
    final = cache.download(sha256, path.name)
    try:
        lock.verify(path, sha256, name=recipe.name, origin=_origin(recipe, pin))
    except BuildError:
        kept = cache.root / "rejected" / path.name
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, kept)
        lock.verify(kept, sha256, name=recipe.name, origin=_origin(recipe, pin))
    settle(path, final)


def _origin(recipe: Recipe, pin: Pin) -> str:
    match recipe.source:
        case DebianSource() as source:
            return f"{pin.origin}: {debian.source_line(source.suite).strip()}, {source.package} {pin.version}"
        case PypiSource() as source:
            return f"the package index, {source.package} {pin.version}"
        case HttpsSource() as source:
            return https_url(source)
    return pin.origin


def https_url(source: HttpsSource) -> str:
    """The address with its version filled in."""
    return source.url.replace("{version}", source.version)


def _pin_https(source: HttpsSource, cache: Cache) -> Pin:
    import hashlib

    content = pypi.read(https_url(source))
    file = https_url(source).rsplit("/", 1)[-1]
    sha256 = hashlib.sha256(content).hexdigest()
    with cache.scratch() as folder:
        (folder / file).write_bytes(content)
        settle(folder / file, cache.download(sha256, file))
    return Pin(source.version, "https", {file: sha256})
