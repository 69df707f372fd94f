# SPDX-License-Identifier: GPL-2.0-only
"""The grammar of fragments: what is read, and what is refused, where."""

from __future__ import annotations

from pathlib import Path

import pytest

from layer.errors import InputError
from layer.kconfig.assemble import merge
from layer.kconfig.fragments import Fragment, parse

FILE = Path("some.cfg")


def test_a_fragment_gives_its_symbols_with_reasons_and_lines() -> None:
    text = (
        '# the heading\n\n# first why\n# and more\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=0x10\nCONFIG_D="a b"\n'
    )
    entries = parse(text, FILE).entries
    assert [(entry.symbol, entry.value, entry.reason, entry.line) for entry in entries] == [
        ("A", "y", "first why and more", 5),
        ("B", "n", "", 6),
        ("C", "0x10", "", 7),
        ("D", '"a b"', "", 8),
    ]


def test_terms_stand_above_the_symbol() -> None:
    text = (
        "# why\n#: optional: slower\n#: optional-on: aarch64 – no page bit\n#: optional-on: arm - none either\n"
        "#: accept: m – loads by itself\nCONFIG_A=y\n"
    )
    (entry,) = parse(text, FILE).entries
    assert (entry.optional, entry.accept) == ("slower", ("m",))
    assert entry.optional_on == (("aarch64", "no page bit"), ("arm", "none either"))
    assert entry.excuse("aarch64") == "no page bit"
    assert entry.excuse("x86_64") == "slower"


def test_a_required_symbol_has_no_excuse_elsewhere() -> None:
    (entry,) = parse("#: optional-on: aarch64 – why\nCONFIG_A=y\n", FILE).entries
    assert entry.excuse("x86_64") is None
    assert entry.excuse(None) is None


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("CONFIG_A=y\nCONFIG_B=y", 2, "does not end"),
        ("CONFIG_A=y\r\n", 1, "Windows"),
        ("CONFIG_A=yes\n", 1, "'yes'"),
        ("CONFIG_A=\n", 1, "''"),
        ("CONFIG_A=text\n", 1, "'text'"),
        ("CONFIG_A=y # why\n", 1, "'y # why'"),
        ("CONFIG_A = y\n", 1, "neither"),
        ("A=y\n", 1, "neither"),
        ("\n#CONFIG_A is not set\n", 2, "sets nothing"),
        ("# CONFIG_A is not set.\n", 1, "sets nothing"),
        ("# CONFIG_A=y is not set\n", 1, "sets nothing"),
        ("CONFIG_A=y\n\nCONFIG_A=n\n", 3, "twice"),
        ("#: optinal: x\nCONFIG_A=y\n", 1, "unknown term 'optinal'"),
        ("#: optional\nCONFIG_A=y\n", 1, "no term"),
        ("#: optional-on: aarch64\nCONFIG_A=y\n", 1, "gives no reason"),
        ("#: optional: x\n\nCONFIG_A=y\n", 1, "belongs to no symbol"),
        ("CONFIG_A=y\n#: optional: x\n", 2, "belongs to no symbol"),
    ],
)
def test_what_the_kernel_would_misread_is_refused_with_its_line(text: str, line: int, message: str) -> None:
    with pytest.raises(InputError) as refused:
        parse(text, FILE)
    assert (refused.value.line, refused.value.exit_code) == (line, 2)
    assert message in refused.value.message


def test_an_unknown_term_is_met_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="did you mean optional-on"):
        parse("#: optional-in: aarch64 – x\nCONFIG_A=y\n", FILE)


def fragment(name: str, text: str) -> Fragment:
    return parse(text, Path("/some/where") / name)


def test_the_later_fragment_counts_and_the_override_is_told() -> None:
    merged = merge([fragment("one.cfg", "CONFIG_A=y\nCONFIG_B=y\n"), fragment("two.cfg", "# CONFIG_A is not set\n")])
    assert merged.text == "# one.cfg\nCONFIG_B=y\n# two.cfg\n# CONFIG_A is not set\n"
    (overridden,) = merged.overridden
    assert str(overridden) == "/some/where/one.cfg:1: CONFIG_A=y is overridden by =n in /some/where/two.cfg:1"


def test_the_same_value_twice_or_a_better_one_overrides_nothing() -> None:
    assert (
        merge(
            [fragment("one.cfg", "CONFIG_A=m\nCONFIG_B=16\n"), fragment("two.cfg", "CONFIG_A=y\nCONFIG_B=0x10\n")]
        ).overridden
        == ()
    )
