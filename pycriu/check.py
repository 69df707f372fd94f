# SPDX-License-Identifier: GPL-2.0-only
"""`pycriu check`: tries on the running kernel what dump and restore will do, and names every miss with its remedy.

Says nothing about a certain task: what that needs is known when it is dumped.
"""

from __future__ import annotations

import gzip
import os
from dataclasses import dataclass

from pycriu.errors import KernelError, PycriuError, UserError
from pycriu.options import CheckOptions
from pycriu.probes.subject import Absent, Subject
from pycriu.probes.table import FEATURES, Feature

AUDIT = (
    "What stands in the way of each, and a fragment that sets them: kernel-config/audit --template feature/criu "
    "--emit FILE, in pycriu's sources"
)

# Where a kernel's configuration may lie; the first that exists counts.
CONFIG_FILES = ("/proc/config.gz", "/boot/config-{release}")

MISSING_EXTRAS = (
    "Looks good but some kernel features are missing",
    "which, depending on your process tree, may cause dump or restore failure.",
)


@dataclass(frozen=True, slots=True)
class Miss:
    """A feature that this kernel, or this process, does not have."""

    feature: Feature
    said: str  # by the kernel


@dataclass(frozen=True, slots=True)
class Configuration:
    """What the running kernel was built with, as far as it can be told."""

    file: str | None  # None: it does not tell
    values: dict[str, str]  # of CONFIG_ symbols that are set, without the prefix


@dataclass(frozen=True, slots=True)
class Report:
    """What to print, and the exit status."""

    lines: tuple[str, ...]
    status: int


def check(options: CheckOptions) -> Report:
    """Probe what the options ask for."""
    if options.list_features:
        return Report(tuple(_listed(feature) for feature in FEATURES), 0)
    chosen = _chosen(options)
    misses = probe(chosen)
    if options.feature and not misses:
        return Report((f"{options.feature} is supported",), 0)
    machine, configuration = os.uname().machine, running_configuration()
    lines = [line for miss in misses for line in describe(miss, machine, configuration)]
    counted = misses if options.feature else tuple(miss for miss in misses if possible(miss.feature, machine))
    if not counted:
        return Report((*lines, "Looks good."), 0)
    return Report((*lines, *_summary(counted, options, configuration)), 1)


def possible(feature: Feature, machine: str) -> bool:
    """Whether a kernel for this machine can have the feature at all."""
    return not feature.architectures or machine in feature.architectures


def probe(features: tuple[Feature, ...]) -> tuple[Miss, ...]:
    """Try each; those that fail, with what the kernel said. Processes made for it are gone afterwards."""
    misses = []
    with Subject() as subject:
        for feature in features:
            try:
                feature.probe(subject)
            except (OSError, KernelError, Absent) as error:
                misses.append(Miss(feature, str(error)))
            except PycriuError as error:
                misses.append(Miss(feature, error.message))
    return tuple(misses)


def describe(miss: Miss, machine: str, configuration: Configuration) -> list[str]:
    """A miss in words: what, what for, and what would bring it."""
    feature = miss.feature
    weight = "required" if feature.required else "extra"
    lines = [f"{feature.name} ({weight}): missing: {miss.said}", f"    for {feature.purpose}"]
    if not possible(feature, machine):
        return [*lines, f"    {machine} cannot have it; {', '.join(feature.architectures)} can"]
    if feature.since:
        lines.append(f"    in Linux since {feature.since}; this is {os.uname().release}")
    lines += [f"    {_symbol_state(symbol, configuration)}" for symbol in feature.symbols]
    if not unset(feature, configuration):
        lines.append("    perhaps a capability is missing, or a sandbox forbids the call: try as root outside of it")
    return lines


def unset(feature: Feature, configuration: Configuration) -> list[str]:
    """The symbols of a feature that are not as needed, or, where the configuration is not known, that may not be."""
    if configuration.file is None:
        return list(feature.symbols)
    return [symbol for symbol in feature.symbols if not _is_as_needed(symbol, configuration)]


def parse_configuration(text: str) -> dict[str, str]:
    """The symbols that are set in a .config, without `CONFIG_`."""
    lines = (line.partition("=") for line in text.splitlines() if line.startswith("CONFIG_"))
    return {name.removeprefix("CONFIG_"): value for name, _, value in lines}


def running_configuration() -> Configuration:
    """The configuration of the running kernel, if it or the disk tells."""
    for template in CONFIG_FILES:
        path = template.format(release=os.uname().release)
        if os.path.exists(path):
            with gzip.open(path, "rt") if path.endswith(".gz") else open(path) as file:
                return Configuration(path, parse_configuration(file.read()))
    return Configuration(None, {})


def _chosen(options: CheckOptions) -> tuple[Feature, ...]:
    if options.feature:
        chosen = tuple(feature for feature in FEATURES if feature.name == options.feature)
        if not chosen:
            raise UserError(f"Unknown feature {options.feature}", hint="pycriu check --list names them all")
        return chosen
    return tuple(feature for feature in FEATURES if feature.required or options.extra)


def _listed(feature: Feature) -> str:
    return f"{feature.name:<22} {'required' if feature.required else 'extra':<9} {feature.purpose}"


def _is_as_needed(symbol: str, configuration: Configuration) -> bool:
    name, _, wanted = symbol.partition("=")
    value = configuration.values.get(name, "n")
    return value == wanted if wanted else value in ("y", "m")


def _symbol_state(symbol: str, configuration: Configuration) -> str:
    spelled = f"CONFIG_{symbol}" if "=" in symbol else f"CONFIG_{symbol}=y"
    if configuration.file is None:
        return f"needs {spelled}"
    state = "so it is" if _is_as_needed(symbol, configuration) else "it is not"
    return f"needs {spelled}: {state} in {configuration.file}"


def _summary(misses: tuple[Miss, ...], options: CheckOptions, configuration: Configuration) -> list[str]:
    symbols = sorted({symbol for miss in misses for symbol in unset(miss.feature, configuration)})
    lines = [""]
    if symbols:
        lines += ["Kernel options to set: " + " ".join(f"CONFIG_{symbol}" for symbol in symbols), AUDIT]
    required = [miss.feature.name for miss in misses if miss.feature.required]
    if options.feature:
        return [*lines, f"{options.feature} is not supported"]
    if required:
        return [*lines, f"Does not look good: {len(required)} required: {', '.join(required)}"]
    return [*lines, *MISSING_EXTRAS]
