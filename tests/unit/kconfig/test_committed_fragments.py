# SPDX-License-Identifier: GPL-2.0-only
"""The fragments of this repository: each symbol has its reason, and the feature's symbols are the feature's."""

from __future__ import annotations

from pathlib import Path

import pytest

from layer import machine, templates
from layer.kconfig.assemble import assemble, fragment_file, names
from layer.kconfig.fragments import Entry, load
from pycriu.probes.table import FEATURES

# Without these, `pycriu check` and the audit have something to say of an image that lacks the feature.
OF_THE_FEATURE = (
    "CHECKPOINT_RESTORE",
    "KCMP",
    "PROC_PAGE_MONITOR",
    "PROC_CHILDREN",
    "UNIX_DIAG",
    "PID_NS",
    "EPOLL",
    "EVENTFD",
)
ARCHITECTURES = {*machine.names(), "arm", "riscv64"}


def entries(name: str) -> tuple[Entry, ...]:
    return load(fragment_file(name)).entries


def asked_for(*chosen: str, arch: str) -> list[Path]:
    order = templates.resolve(chosen, arch)
    return [fragment_file(word.format(machine=arch)) for item in order for word in item.template.kernel]


@pytest.mark.parametrize("name", names())
def test_every_symbol_says_why(name: str) -> None:
    assert [entry.where for entry in entries(name) if not entry.reason] == []


@pytest.mark.parametrize("name", names())
def test_every_excuse_names_an_architecture(name: str) -> None:
    assert {arch for entry in entries(name) for arch, _ in entry.optional_on} <= ARCHITECTURES


@pytest.mark.parametrize("arch", machine.names())
def test_the_fragments_of_the_feature_agree(arch: str) -> None:
    assert assemble(asked_for("feature/criu", "feature/debug", arch=arch)).overridden == ()


@pytest.mark.parametrize("arch", machine.names())
def test_an_image_without_the_feature_lacks_what_the_feature_brings(arch: str) -> None:
    plain = {entry.symbol for entry in assemble(asked_for("feature/python3", arch=arch)).entries}
    assert plain.isdisjoint(OF_THE_FEATURE)


def test_soft_dirty_is_excused_where_it_cannot_be() -> None:
    (soft_dirty,) = entries("soft-dirty")
    assert "HAVE_ARCH_SOFT_DIRTY" in (soft_dirty.excuse("aarch64") or "")
    assert soft_dirty.excuse("x86_64") is None


def test_what_pycriu_check_names_is_asked_for() -> None:
    asked = {
        entry.symbol
        for name in ("criu", "namespaces", "soft-dirty", "diag-sockets", "check")
        for entry in entries(name)
    }
    probed = {symbol.partition("=")[0] for feature in FEATURES for symbol in feature.symbols}
    assert probed - asked == set()
