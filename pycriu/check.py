# SPDX-License-Identifier: GPL-2.0-only
"""`pycriu check`: tries on the running kernel what dump and restore will do, and names every miss with its remedy.

Says nothing about a certain task: that is for a dry run. The JSON is a promise, see probes/README.md.
"""

from __future__ import annotations

import gzip
import json
import os
from dataclasses import dataclass

from pycriu.errors import KernelError, PycriuError, UserError
from pycriu.options import CheckOptions
from pycriu.probes.subject import Absent, Subject
from pycriu.probes.table import BESIDE, EXPERIMENTAL, EXTRA, FEATURES, NAMED, REQUIRED, Feature

SCHEMA = 1

# Where a kernel's configuration may lie; the first that exists counts.
CONFIG_FILES = ("/proc/config.gz", "/boot/config-{release}")

# CRIU's words, which scripts look for.
GOOD = "Looks good."
BAD = "Does not look good."
MAYBE = (
    "Looks good but some kernel features are missing",
    "which, depending on your process tree, may cause",
    "dump or restore failure.",
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
    chosen = _chosen(options)
    if options.list_features:
        return Report((_list_as_json(),) if options.json else tuple(_listed(feature) for feature in FEATURES), 0)
    misses = probe(chosen)
    machine, configuration = os.uname().machine, running_configuration()
    counted = misses if options.feature else tuple(miss for miss in misses if possible(miss.feature, machine))
    status = 1 if counted else 0
    if options.json:
        return Report((as_json(chosen, misses, status, machine, configuration),), status)
    if options.feature and not misses:
        return Report((f"{options.feature} is supported",), 0)
    lines = [line for miss in misses for line in describe(miss, machine, configuration)]
    return Report((*lines, *(_summary(counted, options, configuration) if counted else [GOOD])), status)


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
    lines = [f"{feature.name} ({feature.weight}): missing: {miss.said}", f"    for {feature.purpose}"]
    if not possible(feature, machine):
        return [*lines, f"    {machine} cannot have it; {', '.join(feature.architectures)} can"]
    if feature.since:
        lines.append(f"    in Linux since {feature.since}; this is {os.uname().release}")
    lines += [f"    {_symbol_state(symbol, configuration)}" for symbol in feature.symbols]
    wanting = unset(feature, configuration)
    if wanting:
        lines.append(f"    {audit(wanting, configuration)}")
    elif feature.symbols or feature.since:
        lines.append("    perhaps a capability is missing, or a sandbox forbids the call: try as root outside of it")
    return lines


def unset(feature: Feature, configuration: Configuration) -> list[str]:
    """The symbols of a feature that are not as needed, or, where the configuration is not known, that may not be."""
    if configuration.file is None:
        return list(feature.symbols)
    return [symbol for symbol in feature.symbols if not _is_as_needed(symbol, configuration)]


def audit(symbols: list[str], configuration: Configuration) -> str:
    """The command, in pycriu's sources, that says what stands in the way of symbols and writes a fragment with them."""
    words = ["kernel-config/audit", *([configuration.file] if configuration.file else []), "--template feature/criu"]
    if {symbol.partition("=")[0] for symbol in symbols} & BESIDE:
        words.append("--fragment kernel-config/check.cfg")
    return " ".join([*words, "--emit fix.cfg"])


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


def as_json(
    chosen: tuple[Feature, ...], misses: tuple[Miss, ...], status: int, machine: str, configuration: Configuration
) -> str:
    """Everything that was probed, one object."""
    said = {miss.feature.name: miss.said for miss in misses}
    told = {
        "schema": SCHEMA, "good": not status, "machine": machine, "release": os.uname().release,
        "configuration": configuration.file,
        "features": [_as_dict(feature, said, machine, configuration) for feature in chosen],
    }  # fmt: skip
    return json.dumps(told, indent=2)


def _as_dict(feature: Feature, said: dict[str, str], machine: str, configuration: Configuration) -> dict[str, object]:
    missing = feature.name in said
    wanting = unset(feature, configuration) if missing and possible(feature, machine) else []
    return {
        **_about(feature), "present": not missing, "said": said.get(feature.name),
        "possible": possible(feature, machine),
        "symbols": [_symbol_as_dict(symbol, configuration) for symbol in feature.symbols],
        "audit": audit(wanting, configuration) if wanting else None,
    }  # fmt: skip


def _about(feature: Feature) -> dict[str, object]:
    return {
        "name": feature.name, "weight": feature.weight, "purpose": feature.purpose, "since": feature.since or None,
        "architectures": list(feature.architectures) or None,
    }  # fmt: skip


def _symbol_as_dict(symbol: str, configuration: Configuration) -> dict[str, object]:
    name, _, wanted = symbol.partition("=")
    known = configuration.file is not None
    return {
        "symbol": f"CONFIG_{name}", "wanted": wanted or "y",
        "value": configuration.values.get(name, "n") if known else None,
        "met": _is_as_needed(symbol, configuration) if known else None,
    }  # fmt: skip


def _list_as_json() -> str:
    listed = [{**_about(one), "symbols": [f"CONFIG_{symbol}" for symbol in one.symbols]} for one in FEATURES]
    return json.dumps({"schema": SCHEMA, "features": listed}, indent=2)


def _chosen(options: CheckOptions) -> tuple[Feature, ...]:
    if options.feature:
        chosen = tuple(feature for feature in FEATURES if feature.name == options.feature)
        if not chosen:
            raise UserError(f"Unknown feature {options.feature}", hint="pycriu check --list names them all")
        return chosen
    weights = [REQUIRED, *([EXTRA] if options.extra else []), *([EXPERIMENTAL] if options.experimental else [])]
    return tuple(feature for feature in FEATURES if feature.weight in weights)


def _listed(feature: Feature) -> str:
    weight = "by name" if feature.weight == NAMED else feature.weight
    return f"{feature.name:<25} {weight:<13} {feature.purpose}"


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
        lines.append("Kernel options to set: " + " ".join(f"CONFIG_{symbol}" for symbol in symbols))
        lines.append("What stands in the way of each, and a fragment that sets them, in pycriu's sources:")
        lines.append(f"    {audit(symbols, configuration)}")
    if options.feature:
        return [*lines, f"{options.feature} is not supported"]
    required = [miss.feature.name for miss in misses if miss.feature.weight == REQUIRED]
    if required:
        return [*lines, f"Required, and missing: {', '.join(required)}", BAD]
    return [*lines, *MAYBE]
