# SPDX-License-Identifier: GPL-2.0-only
"""A parsed tree: what a configuration becomes in it, and what happens where it cannot be parsed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from layer import machine
from layer.errors import EvaluationError, InputError
from layer.kconfig import skeleton, tree
from layer.kconfig.start import Start

if TYPE_CHECKING:
    from tests.unit.kconfig.conftest import Bench


def test_closed_turns_off_what_is_not_named_and_open_gives_it_its_default(bench: Bench) -> None:
    parsed = bench.tree()
    Start({"EXPERT": "y"}, closed=True).apply(parsed)
    assert (parsed.value("EXPERT"), parsed.value("PROC_FS")) == ("y", "n")
    Start({"EXPERT": "y"}, closed=False).apply(parsed)
    assert (parsed.value("EXPERT"), parsed.value("PROC_FS")) == ("y", "y")


def test_a_start_forgets_the_one_before(bench: Bench) -> None:
    parsed = bench.tree()
    Start({"NET": "y", "HOST_NAME": '"box"', "KERNEL_XZ": "y"}, closed=True).apply(parsed)
    assert (parsed.value("NET"), parsed.value("HOST_NAME"), parsed.value("KERNEL_XZ")) == ("y", '"box"', "y")
    Start({}, closed=True).apply(parsed)
    assert (parsed.value("NET"), parsed.value("HOST_NAME"), parsed.value("KERNEL_XZ")) == ("n", '"none"', "n")


def test_a_text_with_quotes_comes_back_as_it_was_written(bench: Bench) -> None:
    parsed = bench.tree()
    Start({"HOST_NAME": r'"a \"b\" \\c"'}, closed=False).apply(parsed)
    assert parsed.value("HOST_NAME") == r'"a \"b\" \\c"'


def test_the_compiler_is_asked(bench: Bench) -> None:
    assert bench.tree().value("CC_HAS_MAGIC") == "n"
    compiler = Path(f"{bench.cross}gcc")
    compiler.write_text("#!/bin/sh\necho every-gcc 2\n")
    assert bench.tree().value("CC_HAS_MAGIC") == "y"


def test_the_compiler_is_asked_once_until_it_changes(bench: Bench, sample_tree: Path) -> None:
    def asked() -> tuple[int, str]:
        parsed = tree.load(sample_tree, machine.load("x86_64"), bench.cross, bench.folder / "cache")
        return parsed.answers.asked, parsed.value("CC_HAS_MAGIC")

    assert [asked(), asked()] == [(1, "n"), (0, "n")]
    Path(f"{bench.cross}gcc").write_text("#!/bin/sh\necho every-gcc 2\n")
    assert [asked(), asked()] == [(1, "y"), (0, "y")]


def test_damaged_answers_are_asked_for_again(bench: Bench, sample_tree: Path) -> None:
    for damage in (None, "{", "[1]", '"text"'):
        for file in bench.folder.glob("cache/kconfig-answers/*.json"):
            file.write_text(damage or "")
        parsed = tree.load(sample_tree, machine.load("x86_64"), bench.cross, bench.folder / "cache")
        assert (parsed.answers.asked, parsed.value("CC_HAS_MAGIC")) == (1, "n")


def test_a_mentioned_symbol_is_not_a_defined_one(bench: Bench) -> None:
    assert bench.tree().symbol("BIG_PAGES") is None
    assert bench.tree().value("BIG_PAGES") == "n"


def test_the_environment_is_as_before(bench: Bench) -> None:
    before = dict(os.environ)
    bench.tree()
    assert dict(os.environ) == before


def test_transitional_symbols_are_noted(bench: Bench) -> None:
    assert bench.tree().transitional == ["OLD_NAME"]


def test_what_kconfiglib_does_not_know_cannot_be_evaluated(bench: Bench, sample_tree: Path) -> None:
    broken = bench.folder / "broken"
    shutil.copytree(sample_tree, broken)
    with (broken / "net/Kconfig").open("a") as kconfig:
        kconfig.write("config NEW\n\tbool\n\tunheard of\n")
    with pytest.raises(EvaluationError, match=r"net/Kconfig:\d+") as refused:
        bench.tree(directory=broken)
    assert "Linux 6.12.7-sample" in (refused.value.hint or "")


def test_a_folder_that_is_no_tree_is_bad_input(bench: Bench) -> None:
    with pytest.raises(InputError, match="no kernel tree"):
        bench.tree(directory=bench.folder)


def test_a_missing_compiler_is_named(bench: Bench, sample_tree: Path) -> None:
    with pytest.raises(EvaluationError, match="no-such-gcc does not run"):
        tree.load(sample_tree, machine.load("x86_64"), f"{bench.folder}/no-such-")


def test_the_skeleton_of_a_tree_says_the_same(bench: Bench, sample_tree: Path) -> None:
    source = bench.folder / "source"
    shutil.copytree(sample_tree, source)
    (source / "net/socket.c").write_text("int x;\n")
    kept = skeleton.keep(source, bench.folder)
    assert skeleton.find(bench.folder, "6.12.7-sample") == kept
    assert not (kept / "net/socket.c").exists()
    results = []
    for directory in (source, kept):
        parsed = bench.tree(directory=directory)
        Start({"NET": "y"}, closed=False).apply(parsed)
        results.append(parsed.configuration())
    assert results[0] == results[1]
    assert len(results[0]) > 10


def test_a_skeleton_is_replaced_by_a_later_one_of_its_release(bench: Bench, sample_tree: Path) -> None:
    source = bench.folder / "source"
    shutil.copytree(sample_tree, source)
    skeleton.keep(source, bench.folder)
    (source / "net/Kconfig").write_text("config NET\n\tbool 'only'\n")
    assert (skeleton.keep(source, bench.folder) / "net/Kconfig").read_text() == "config NET\n\tbool 'only'\n"
    assert skeleton.find(bench.folder, "5.0") is None


def test_a_skeleton_that_is_the_same_stays_for_whoever_reads_it(bench: Bench, sample_tree: Path) -> None:
    kept = skeleton.keep(sample_tree, bench.folder)
    before = kept.stat().st_ino
    assert skeleton.keep(sample_tree, bench.folder).stat().st_ino == before
