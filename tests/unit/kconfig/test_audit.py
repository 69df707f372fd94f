# SPDX-License-Identifier: GPL-2.0-only
"""Each verdict, on a tree that has one symbol for it; and that a fix does what it says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from layer.kconfig import renamed
from layer.kconfig.fragments import Entry
from layer.kconfig.report import as_fragment
from layer.kconfig.verdicts import Block, Report, Verdict
from layer.kconfig.wishes import gather

if TYPE_CHECKING:
    from tests.unit.kconfig.conftest import Bench


def chain(report: Report) -> list[tuple[str, str, Block]]:
    (finding,) = report.findings
    return [(link.symbol, link.needs, link.block) for link in finding.chain]


def fixed(bench: Bench, report: Report) -> dict[str, str]:
    assert report.fix is not None
    return {symbol: value for symbol, value, _ in report.fix.lines}


def test_met(bench: Bench) -> None:
    finding = bench.finding(bench.config("CONFIG_NET=y"), "# why", "CONFIG_NET=y")
    assert (finding.verdict, finding.reason, finding.required) == (Verdict.MET, "why", True)


@pytest.mark.parametrize(
    ("wanted", "actual", "verdict"),
    [
        ("CONFIG_UNIX=m", "CONFIG_UNIX=y", Verdict.MET),
        ("CONFIG_UNIX=y", "CONFIG_UNIX=m", Verdict.MODULE),
        ("# CONFIG_UNIX is not set", "", Verdict.MET),
        ("# CONFIG_NO_SUCH is not set", "", Verdict.MET),
        ("CONFIG_LOG_SHIFT=0x0e", "CONFIG_LOG_SHIFT=14", Verdict.MET),
        ("CONFIG_LOG_SHIFT=17", "CONFIG_LOG_SHIFT=14", Verdict.DIFFERS),
        ('CONFIG_HOST_NAME="a"', 'CONFIG_HOST_NAME="b"', Verdict.DIFFERS),
        ("# CONFIG_UNIX is not set", "CONFIG_UNIX=y", Verdict.FORCED),
    ],
)
def test_values_are_compared_by_meaning(bench: Bench, wanted: str, actual: str, verdict: Verdict) -> None:
    config = bench.config("CONFIG_MODULES=y", "CONFIG_NET=y", *([actual] if actual else []))
    assert bench.finding(config, wanted).verdict is verdict


def test_a_module_is_good_enough_where_the_fragment_says_so(bench: Bench) -> None:
    config = bench.config("CONFIG_MODULES=y", "CONFIG_NET=y", "CONFIG_UNIX=m")
    assert bench.finding(config, "#: accept: m – loads itself", "CONFIG_UNIX=y").verdict is Verdict.MET


def test_a_module_says_whether_it_could_be_built_in(bench: Bench) -> None:
    free = bench.config("CONFIG_MODULES=y", "CONFIG_NET=y", "CONFIG_UNIX=m")
    assert "could be built in" in bench.finding(free, "CONFIG_UNIX=y").note
    bound = bench.config("CONFIG_MODULES=y", "CONFIG_NET=y", "CONFIG_UNIX=m", "CONFIG_UNIX_DIAG=m")
    finding = bench.finding(bound, "CONFIG_UNIX_DIAG=y")
    assert (finding.verdict, "dependency is a module" in finding.note) == (Verdict.MODULE, True)
    assert [link.needs for link in finding.chain] == ["UNIX"]


def test_off(bench: Bench) -> None:
    report = bench.audit(bench.config(), bench.fragment("CONFIG_NET=y"))
    assert report.findings[0].verdict is Verdict.OFF
    assert fixed(bench, report) == {"NET": "y"}


def test_off_by_choice_names_the_chosen(bench: Bench) -> None:
    finding = bench.finding(bench.config("CONFIG_KERNEL_GZIP=y"), "CONFIG_KERNEL_XZ=y")
    assert finding.verdict is Verdict.OFF
    assert "'Compression', KERNEL_GZIP is chosen" in finding.note


def test_lost_follows_the_chain_down_to_what_can_be_set(bench: Bench) -> None:
    report = bench.audit(bench.config(), bench.fragment("CONFIG_XT_MARK=y"))
    assert report.findings[0].verdict is Verdict.LOST
    assert chain(report) == [
        ("XT_MARK", "XTABLES", Block.DERIVED),
        ("XTABLES", "XT_MATCH", Block.LOST),
        ("XT_MATCH", "NETFILTER", Block.LOST),
        ("NETFILTER", "NET", Block.SETTABLE),
    ]
    assert report.findings[0].chain[0].by == ("XT_MATCH",)
    assert fixed(bench, report) == {"NET": "y", "NETFILTER": "y", "XT_MATCH": "y", "XT_MARK": "y"}


def test_a_hidden_prompt_is_lost_until_it_shows(bench: Bench) -> None:
    report = bench.audit(bench.config(), bench.fragment("CONFIG_HIDDEN=y"))
    assert chain(report) == [("HIDDEN", "EXPERT", Block.SETTABLE)]
    assert fixed(bench, report) == {"EXPERT": "y", "HIDDEN": "y"}


def test_a_symbol_without_prompt_is_brought_by_its_selector(bench: Bench) -> None:
    report = bench.audit(bench.config("CONFIG_PROC_FS=y"), bench.fragment("CONFIG_KCMP=y"))
    assert report.findings[0].verdict is Verdict.LOST
    assert fixed(bench, report) == {"CHECKPOINT": "y"}


def test_impossible_names_who_has_it(bench: Bench) -> None:
    config = bench.config("CONFIG_PROC_FS=y", arch="ARM64")
    report = bench.audit(
        config, bench.fragment("#: optional-on: aarch64 – no bit", "CONFIG_SOFT_DIRTY=y"), arch="aarch64"
    )
    (finding,) = report.findings
    assert (finding.verdict, finding.excuse) == (Verdict.IMPOSSIBLE, "no bit")
    assert finding.had_by == ("s390 (if BIG_PAGES)", "x86")
    assert ("SOFT_DIRTY", "HAVE_SOFT_DIRTY", Block.NOWHERE) in chain(report)
    assert report.fix is not None
    assert (report.fix.lines, report.fix.fails) == ((), ("SOFT_DIRTY",))


def test_the_same_symbol_is_only_lost_where_the_architecture_has_it(bench: Bench) -> None:
    report = bench.audit(
        bench.config("CONFIG_PROC_FS=y", "CONFIG_HAVE_SOFT_DIRTY=y"), bench.fragment("CONFIG_SOFT_DIRTY=y")
    )
    assert report.findings[0].verdict is Verdict.LOST
    assert fixed(bench, report) == {"CHECKPOINT": "y", "SOFT_DIRTY": "y"}


def test_a_symbol_of_another_architecture_is_impossible_not_unknown(bench: Bench) -> None:
    finding = bench.finding(bench.config(), "CONFIG_ARM64_SVE=y")
    assert (finding.verdict, finding.had_by) == (Verdict.IMPOSSIBLE, ("arm64",))


def test_what_the_compiler_cannot_do_is_lost_without_a_fix(bench: Bench) -> None:
    report = bench.audit(bench.config(), bench.fragment("CONFIG_MAGIC=y"))
    assert report.findings[0].verdict is Verdict.LOST
    assert chain(report) == [("MAGIC", "CC_HAS_MAGIC", Block.TOOLCHAIN)]
    assert report.fix is not None
    assert report.fix.fails == ("MAGIC",)


def test_unknown_suggests(bench: Bench) -> None:
    finding = bench.finding(bench.config(), "CONFIG_UNIX_DAIG=y")
    assert finding.verdict is Verdict.UNKNOWN
    assert "UNIX_DIAG" in finding.did_you_mean


def test_a_renamed_symbol_is_unknown_and_its_heir_is_named(bench: Bench) -> None:
    report = bench.audit(bench.config(), bench.fragment("CONFIG_OLD_NAME=y"))
    (finding,) = report.findings
    assert (finding.verdict, finding.note, finding.did_you_mean) == (Verdict.UNKNOWN, "it was renamed", ("NEW_NAME",))
    assert report.fix is not None
    assert report.fix.lines == ()


def test_a_symbol_that_later_kernels_renamed_means_its_heir_there(bench: Bench) -> None:
    table = renamed.load()
    asked = gather([Entry("PROC_SYSCTL", "y", "why", Path("f"), 1), Entry("NET", "y", "", Path("f"), 2)], None)
    assert renamed.current(asked, {"PROC_SYSCTL", "SYSCTL", "NET"}.__contains__, "6.12") == asked
    heir, net = renamed.current(asked, {"SYSCTL", "NET"}.__contains__, "7.3")
    assert (heir.symbol, heir.wanted, net.symbol) == ("SYSCTL", "y", "NET")
    assert table["PROC_SYSCTL"].why in heir.reason


def test_a_symbol_that_later_kernels_dropped_is_not_asked_of_them(bench: Bench) -> None:
    asked = gather([Entry("SCHED_DEBUG", "y", "", Path("f"), 1)], None)
    assert renamed.current(asked, set().__contains__, "6.14.2") == asked
    assert renamed.current(asked, set().__contains__, None) == asked
    assert renamed.current(asked, set().__contains__, "6.15") == ()


def test_overridden_by_a_later_fragment(bench: Bench) -> None:
    later = bench.fragment("", "# CONFIG_NET is not set", name="later.cfg")
    report = bench.audit(bench.config(), bench.fragment("CONFIG_NET=y"), later)
    first, second = report.findings
    assert (first.verdict, first.overridden_by) == (Verdict.OVERRIDDEN, f"{later}:2")
    assert second.verdict is Verdict.MET


def test_overridden_by_a_later_line_of_the_config(bench: Bench) -> None:
    config = bench.config("CONFIG_NET=y", "CONFIG_EXPERT=y", "# CONFIG_NET is not set")
    finding = bench.finding(config, "CONFIG_NET=y")
    assert (finding.verdict, finding.overridden_by) == (Verdict.OVERRIDDEN, f"{config}:8")


def test_forced_names_the_selector(bench: Bench) -> None:
    report = bench.audit(
        bench.config("CONFIG_FORCER=y", "CONFIG_FORCED=y"), bench.fragment("# CONFIG_FORCED is not set")
    )
    (finding,) = report.findings
    assert (finding.verdict, finding.forced_by) == (Verdict.FORCED, ("FORCER",))
    assert fixed(bench, report) == {"FORCER": "n", "FORCED": "n"}


def test_a_fix_that_would_undo_what_is_met_is_left_out(bench: Bench) -> None:
    config = bench.config("CONFIG_FORCER=y", "CONFIG_FORCED=y")
    report = bench.audit(config, bench.fragment("CONFIG_FORCER=y", "# CONFIG_FORCED is not set", "CONFIG_NET=y"))
    assert report.fix is not None
    assert (report.fix.meets, report.fix.fails) == (("NET",), ("FORCED",))


def test_the_fix_as_a_fragment_passes_the_audit(bench: Bench) -> None:
    wanted = bench.fragment("CONFIG_XT_MARK=y", "CONFIG_SOFT_DIRTY=y", "CONFIG_UNIX_DIAG=y", "CONFIG_LOG_SHIFT=17")
    report = bench.audit(bench.config("CONFIG_LOG_SHIFT=14"), wanted)
    assert report.fix is not None
    fix = bench.file("fix.cfg", as_fragment(report, report.fix))
    lines = [line for line in fix.read_text().splitlines() if not line.startswith("# needed")]
    again = bench.audit(bench.config(*lines), wanted)
    assert [finding.verdict for finding in again.findings] == [Verdict.MET] * 4


def test_an_entry_asked_for_twice_is_one_finding_and_required_if_either_is(bench: Bench) -> None:
    other = bench.fragment("CONFIG_NET=y", name="other.cfg")
    report = bench.audit(bench.config(), bench.fragment("#: optional: nothing", "CONFIG_NET=y"), other)
    (finding,) = report.findings
    assert finding.required
    assert len(finding.requested_by) == 2


def test_without_a_tree_it_compares_and_says_so(bench: Bench) -> None:
    config = bench.config("# CONFIG_NET is not set")
    report = bench.audit(config, bench.fragment("CONFIG_NET=y", "CONFIG_UNIX_DAIG=y"), with_tree=False)
    assert [finding.verdict for finding in report.findings] == [Verdict.OFF, Verdict.UNMET]
    assert (report.tree, report.fix) == (None, None)
    assert any("no Kconfig tree was given" in note for note in report.notes)


def test_an_incomplete_config_is_completed_first(bench: Bench) -> None:
    config = bench.config("CONFIG_NET=y", complete=False)
    report = bench.audit(config, bench.fragment("CONFIG_PROC_FS=y", "CONFIG_NET=y"))
    assert [finding.verdict for finding in report.findings] == [Verdict.MET, Verdict.MET]
    assert any("not a complete" in note for note in report.notes)


def test_a_config_that_make_would_change_is_noted(bench: Bench) -> None:
    config = bench.config("CONFIG_AAA=y")
    assert any(
        "would change" in note and "AAA" in note for note in bench.audit(config, bench.fragment("CONFIG_NET=y")).notes
    )
