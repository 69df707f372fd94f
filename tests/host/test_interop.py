# SPDX-License-Identifier: GPL-2.0-only
"""Every victim, dumped by CRIU and restored by pycriu, and the other way round: what docs/interop.md says, holds.

A trip that does not work is a limit of CRIU only where CRIU fails with images of its own, too, in the same run. One
that works at the second try is none; the warning says what the first was.
"""

from __future__ import annotations

import warnings

import pytest

from tests import interop, peer


@pytest.fixture(scope="module")
def criu() -> interop.Tool:
    """The newest CRIU that the cache has and that works here."""
    reasons = []
    for suite in reversed(peer.SUITES):
        try:
            return interop.fetched(suite)
        except peer.NoPeerError as reason:
            reasons.append(str(reason))
    pytest.skip(f"no CRIU: {'; '.join(reasons)}")


@pytest.mark.parametrize("from_criu", [True, False], ids=["criu-pycriu", "pycriu-criu"])
@pytest.mark.parametrize("name", interop.VICTIMS)
def test_victim_between_both(criu: interop.Tool, name: str, *, from_criu: bool) -> None:
    found = interop.cell(name, criu, from_criu=from_criu)
    if found.verdict == interop.NONE:
        pytest.skip(f"{name}: {found.why}")
    if found.verdict == interop.NO:
        pytest.skip(f"{criu.name} fails with its own images: {found.why}")
    assert found.verdict == interop.YES, found.why
    if found.why:
        warnings.warn(f"{name} at a second try; the first: {found.why}", stacklevel=1)
