# SPDX-License-Identifier: GPL-2.0-only
"""Kconfig of current kernels: what is rewritten for kconfiglib, and that it then means what the kernel means."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from layer.kconfig.constructs import is_n, rewrite, transitional_symbols
from layer.kconfig.start import Start

if TYPE_CHECKING:
    from tests.unit.kconfig.conftest import Bench


@pytest.mark.parametrize(
    ("young", "old"),
    [
        ("config M\n\tbool\n\tmodules\n", "config M\n\tbool\n\toption modules\n"),
        ("config M\n\tmodules # why\n", "config M\n\toption modules\n"),
        ("config O\n\tbool\n\ttransitional\n\nconfig N\n", "config O\n\tbool\n\n\nconfig N\n"),
        ("\tdepends on A if B\n", "\t(A) || (B = n)\n"),
        ("\tdepends on A || C if B # why\n", "\t(A || C) || (B = n)# why\n"),
        ("\tdepends on A if B && \\\n\t\tC\n\tbool\n", "\t(A) || ((B = n) || (C = n))\\\n\n\tbool\n"),
        ("\tdepends on A # not if B\n", "\tdepends on A # not if B\n"),
        ("\tselect A if B\n\tdefault y if C\n", "\tselect A if B\n\tdefault y if C\n"),
    ],
)
def test_young_constructs_get_their_old_spelling(young: str, old: str) -> None:
    result = rewrite(young)
    assert result == old.replace("\t(A", "\tdepends on (A")
    assert result.count("\n") == young.count("\n")


@pytest.mark.parametrize(
    ("condition", "comparison"),
    [
        ("B", "(B = n)"),
        ("!B", "(B != n)"),
        ("B && C", "((B = n) || (C = n))"),
        ("B || C", "((B = n) && (C = n))"),
        ("!(B || C)", "((B != n) || (C != n))"),
        ("(B && C) || D", "(((B = n) || (C = n)) && (D = n))"),
        ("B = m", "!(B = m)"),
        ("!(B = m)", "(B = m)"),
        ('"$(CC)" != "x"', '!("$(CC)" != "x")'),
    ],
)
def test_a_condition_becomes_its_comparison_with_n(condition: str, comparison: str) -> None:
    assert is_n(condition) == comparison


@pytest.mark.parametrize("prose", ["you want this, always", "(B", "B &&", "&& B", "B C"])
def test_prose_is_no_condition(prose: str) -> None:
    with pytest.raises(ValueError):
        is_n(prose)
    text = f"\thelp\n\t  This depends on luck if {prose}\n"
    assert rewrite(text) == text


def test_transitional_symbols_are_listed() -> None:
    assert transitional_symbols("config A\n\tbool\nconfig B\n\tbool\n\ttransitional\nconfig C\n") == ("B",)


@pytest.mark.parametrize(
    ("where", "base", "guarded"),
    [
        ("n", "n", "y"),
        ("m", "n", "n"),
        ("y", "n", "n"),
        ("m", "m", "m"),
        ("y", "m", "m"),
        ("m", "y", "y"),
        ("n", "m", "y"),
    ],
)
def test_depends_if_means_what_the_kernel_means(bench: Bench, where: str, base: str, guarded: str) -> None:
    tree = bench.tree()
    Start({"MODULES": "y", "WHERE": where, "BASE": base, "GUARDED": "y"}, closed=True).apply(tree)
    assert tree.value("GUARDED") == guarded


@pytest.mark.parametrize(
    ("base", "asked", "wished"),
    [("y", None, "y"), ("y", "m", "m"), ("y", "n", "n"), ("m", None, "m"), ("m", "y", "m"), ("n", None, "n")],
)
def test_imply_is_a_bounded_hint(bench: Bench, base: str, asked: str | None, wished: str) -> None:
    tree = bench.tree()
    values = {"MODULES": "y", "WISH": "y", "BASE": base} | ({} if asked is None else {"WISHED": asked})
    Start(values, closed=False).apply(tree)
    assert tree.value("WISHED") == wished
    assert "WISHED" in tree.configuration(), "make writes an implied symbol even where it cannot be"


def test_a_transitional_symbol_hands_its_value_on(bench: Bench) -> None:
    tree = bench.tree()
    Start({"OLD_NAME": "y"}, closed=False).apply(tree)
    assert tree.value("NEW_NAME") == "y"
    assert "OLD_NAME" not in tree.configuration()
    Start({"OLD_NAME": "y", "NEW_NAME": "n"}, closed=False).apply(tree)
    assert tree.value("NEW_NAME") == "n"


def test_a_number_that_nobody_set_is_zero(bench: Bench) -> None:
    tree = bench.tree()
    Start({}, closed=False).apply(tree)
    assert tree.value("UNORDERED") == "y"
    assert "ORDER" not in tree.configuration()


def test_a_choice_passes_over_a_refused_default(bench: Bench) -> None:
    tree = bench.tree()
    Start({"KERNEL_GZIP": "n"}, closed=False).apply(tree)
    assert (tree.value("KERNEL_GZIP"), tree.value("KERNEL_XZ")) == ("n", "y")
