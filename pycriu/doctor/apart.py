# SPDX-License-Identifier: GPL-2.0-only
"""Probes where a seccomp filter is on: it may kill who makes a call, so they are made by children."""

from __future__ import annotations

import json
import os
import signal

from pycriu.check import Miss, probe
from pycriu.probes.subject import start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pycriu.probes.table import Feature


def probe_apart(features: tuple[Feature, ...]) -> tuple[Miss, ...]:
    """As `check.probe`: what a child does not survive is missing, too, and another one goes on behind it."""
    misses: list[Miss] = []
    rest = features
    while rest:
        said, status = _tried(rest)
        misses += [Miss(feature, words) for feature, words in zip(rest, said, strict=False) if words]
        if len(said) < len(rest):
            ended = signal.Signals(-status).name if status < 0 else f"exit status {status}"
            misses.append(Miss(rest[len(said)], f"trying it ended with {ended}"))
        rest = rest[len(said) + 1 :]
    return tuple(misses)


def _tried(features: tuple[Feature, ...]) -> tuple[list[str], int]:
    """What a child has said of each, as far as it came; and how it ended."""
    reader, writer = os.pipe()

    def work() -> None:
        os.close(reader)
        for feature in features:
            said = "".join(miss.said for miss in probe((feature,)))
            os.write(writer, json.dumps(said).encode() + b"\n")

    child = start(work)
    os.close(writer)
    with open(reader) as lines:
        said = [json.loads(line) for line in lines]
    return said, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
