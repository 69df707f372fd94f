# SPDX-License-Identifier: GPL-2.0-only
"""`pycriu check`: every probe runs, every miss names its remedy, nothing is left behind."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pycriu.check as check
from layer.kconfig import fragments
from pycriu.errors import KernelError, UserError
from pycriu.options import CheckOptions
from pycriu.probes.subject import Absent, Subject, in_child
from pycriu.probes.table import BESIDE, EXTRA, FEATURES, NAMED, REQUIRED, WEIGHTS, Feature

ROOT = Path(__file__).parents[2]

CONFIG = check.Configuration("/boot/config", {"KCMP": "y", "TUN": "m", "PROC_MEM_NO_FORCE": "y"})
UNKNOWN = check.Configuration(None, {})


def missing(_subject: Subject) -> None:
    raise KernelError("kcmp", errno.ENOSYS, "1, 2")


def feature(*symbols: str, architectures: tuple[str, ...] = (), since: str = "") -> Feature:
    return Feature("thing", missing, "things", symbols, since, architectures)


def test_every_probe_answers_and_leaves_nothing_behind() -> None:
    def state() -> tuple[list[str], str]:
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
        return os.listdir("/proc/self/fd"), children

    before = state()
    misses = check.probe(FEATURES)
    assert state() == before
    for miss in misses:  # whatever this kernel lacks, the reason is the kernel's or a sandbox's, not a mistake of ours
        assert miss.said
        assert "the child ended with 255" not in miss.said


def test_names_are_unique_and_every_feature_has_a_purpose() -> None:
    assert len({feature.name for feature in FEATURES}) == len(FEATURES)
    assert all(feature.purpose for feature in FEATURES)
    assert {feature.weight for feature in FEATURES} == set(WEIGHTS)


def test_a_miss_is_reported_not_raised() -> None:
    [miss] = check.probe((feature("KCMP"),))
    assert miss.said == "kcmp(1, 2): Function not implemented"


@pytest.mark.parametrize(
    ("made", "machine", "configuration", "words"),
    [
        (feature("NOPE"), "x", CONFIG, "needs CONFIG_NOPE=y: it is not in /boot/config"),
        (feature("KCMP"), "x", CONFIG, "needs CONFIG_KCMP=y: so it is in /boot/config"),
        (feature("TUN"), "x", CONFIG, "so it is in /boot/config"),
        (feature("PROC_MEM_NO_FORCE=n"), "x", CONFIG, "needs CONFIG_PROC_MEM_NO_FORCE=n: it is not in"),
        (feature("OTHER=n"), "x", CONFIG, "needs CONFIG_OTHER=n: so it is in"),
        (feature("KCMP"), "x", UNKNOWN, "needs CONFIG_KCMP=y"),
        (feature("KCMP"), "x", CONFIG, "perhaps a capability is missing"),
        (feature(since="3.5"), "x", CONFIG, "in Linux since 3.5; this is " + os.uname().release),
        (feature("X", architectures=("pdp11",)), "vax", CONFIG, "vax cannot have it; pdp11 can"),
    ],
)
def test_remedies(made: Feature, machine: str, configuration: check.Configuration, words: str) -> None:
    lines = check.describe(check.Miss(made, "said"), machine, configuration)
    assert lines[0] == "thing (required): missing: said"
    assert words in "\n".join(lines)


def test_what_no_kernel_of_this_machine_has_is_told_but_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Feature("thing", missing, "things", ("KCMP",), "", ("pdp11",), EXTRA)
    monkeypatch.setattr(check, "FEATURES", (other,))
    report = check.check(CheckOptions(extra=True))
    assert report.status == 0
    assert report.lines[-1] == "Looks good."
    assert any("pdp11 can" in line for line in report.lines)
    assert check.check(CheckOptions(feature="thing")).status == 1


def test_the_audit_is_told_where_symbols_stand() -> None:
    assert check.audit(["KCMP"], UNKNOWN) == "kernel-config/audit --template feature/criu --emit fix.cfg"
    assert check.audit(["KCMP", "IPV6"], CONFIG) == (
        "kernel-config/audit /boot/config --template feature/criu --fragment kernel-config/check.cfg --emit fix.cfg"
    )
    lines = check.describe(check.Miss(feature("NOPE"), "said"), "x", CONFIG)
    assert lines[-1] == f"    {check.audit(['NOPE'], CONFIG)}"


def test_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """One object with everything that was probed; names of fields are a promise."""
    there = Feature("there", lambda _subject: None, "things", ("KCMP",), "3.5", ("pdp11", os.uname().machine))
    monkeypatch.setattr(check, "FEATURES", (there, feature("NOPE", since="6.7")))
    monkeypatch.setattr(check, "running_configuration", lambda: CONFIG)
    report = check.check(CheckOptions(json=True))
    told = json.loads("\n".join(report.lines))
    assert report.status == 1
    features = told.pop("features")
    assert told == {
        "schema": 1, "good": False, "machine": os.uname().machine, "release": os.uname().release,
        "configuration": "/boot/config",
    }  # fmt: skip
    kcmp = {"symbol": "CONFIG_KCMP", "wanted": "y", "value": "y", "met": True}
    nope = {"symbol": "CONFIG_NOPE", "wanted": "y", "value": "n", "met": False}
    assert features == [
        {
            "name": "there", "weight": "required", "purpose": "things", "since": "3.5",
            "architectures": ["pdp11", os.uname().machine], "present": True, "said": None, "possible": True,
            "symbols": [kcmp], "audit": None,
        },
        {
            "name": "thing", "weight": "required", "purpose": "things", "since": "6.7", "architectures": None,
            "present": False, "said": "kcmp(1, 2): Function not implemented", "possible": True, "symbols": [nope],
            "audit": "kernel-config/audit /boot/config --template feature/criu --emit fix.cfg",
        },
    ]  # fmt: skip
    listed = json.loads(check.check(CheckOptions(list_features=True, json=True)).lines[0])
    assert [(one["name"], one["symbols"]) for one in listed["features"]] == [
        ("there", ["CONFIG_KCMP"]), ("thing", ["CONFIG_NOPE"]),
    ]  # fmt: skip


def test_what_is_probed_by_name_only_is_no_part_of_all() -> None:
    named = {feature.name for feature in FEATURES if feature.weight == NAMED}
    everything = json.loads(check.check(CheckOptions(extra=True, experimental=True, json=True)).lines[0])["features"]
    assert {one["name"] for one in everything} == {feature.name for feature in FEATURES} - named


def test_a_symbol_that_is_wanting_is_blamed_alone() -> None:
    lines = check.describe(check.Miss(feature("NOPE"), "said"), "x", CONFIG)
    assert not any("capability" in line for line in lines)


def test_configurations() -> None:
    text = '# CONFIG_A is not set\nCONFIG_B=y\nCONFIG_C=m\nCONFIG_D="a=b"\n\n#\n'
    assert check.parse_configuration(text) == {"B": "y", "C": "m", "D": '"a=b"'}


def test_features_by_name() -> None:
    assert check.check(CheckOptions(feature="proc_sys")) == check.Report(("proc_sys is supported",), 0)
    with pytest.raises(UserError, match="Unknown feature nonsense"):
        check.check(CheckOptions(feature="nonsense"))


def test_the_list_names_all() -> None:
    report = check.check(CheckOptions(list_features=True))
    assert report.status == 0
    assert [line.split()[0] for line in report.lines] == [feature.name for feature in FEATURES]


def test_what_is_missing_decides_the_exit_status() -> None:
    required = check.probe(tuple(feature for feature in FEATURES if feature.weight == REQUIRED))
    report = check.check(CheckOptions())
    if required:
        assert report.status == 1
        assert report.lines[-1] == "Does not look good."
        assert all(any(line.startswith(miss.feature.name) for line in report.lines) for miss in required)
    else:
        assert report == check.Report(("Looks good.",), 0)


def test_a_process_without_capabilities_is_told_so() -> None:
    program = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); "
        "import pycriu.check as check; from pycriu.options import CheckOptions; "
        "os.setgroups([]); os.setgid(65534); os.setuid(65534); report = check.check(CheckOptions()); "
        "print(*report.lines, sep='\\n'); sys.exit(report.status)"
    )
    if os.geteuid() != 0:
        pytest.skip("only root can give up its capabilities")
    done = subprocess.run([sys.executable, "-c", program, str(ROOT)], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "cap_sys_admin (required): missing" in done.stdout
    assert "clone3_set_tid (required): missing: clone3" in done.stdout
    assert "Operation not permitted" in done.stdout


def test_what_a_child_raises_is_raised_here() -> None:
    def fail() -> None:
        raise OSError(errno.EXDEV, "x")

    def bug() -> None:
        raise ZeroDivisionError

    in_child(lambda: None, "nothing")
    with pytest.raises(KernelError, match="work: Invalid cross-device link"):
        in_child(fail, "work")

    def lacking() -> None:
        raise Absent("it does not do what it should")

    with pytest.raises(Absent, match="it does not do what it should"):
        in_child(lacking, "work")
    with pytest.raises(Absent, match="ended with 255"):
        in_child(bug, "work")
    with pytest.raises(Absent, match="ended with -9"):
        in_child(lambda: os.kill(os.getpid(), 9), "work")


def fragment(name: str) -> dict[str, bool]:
    """The symbols that a fragment switches on, and whether it can do without."""
    file = ROOT / "kernel-config" / f"{name}.cfg"
    entries = fragments.parse(file.read_text(), file).entries
    return {entry.symbol: bool(entry.optional) for entry in entries if entry.value in ("y", "m")}


def test_the_probes_and_the_kernel_fragments_ask_for_the_same() -> None:
    asked = {
        name: optional
        for part in ("criu", "namespaces", "soft-dirty", "diag-sockets")
        for name, optional in fragment(part).items()
    }
    assert set(fragment("check")) == BESIDE
    assert all(fragment("check").values()), "required by nobody"
    probed = {symbol for feature in FEATURES for symbol in feature.symbols if "=" not in symbol} - BESIDE
    required = {symbol for feature in FEATURES if feature.weight == REQUIRED for symbol in feature.symbols}
    assert probed <= set(asked), "a kernel of ours would not have them"
    assert not {symbol for symbol in required if asked[symbol]}, "optional in a fragment, yet required by check"
    unseen = {symbol for symbol, optional in asked.items() if not optional and symbol not in probed}
    unseen -= {"TRANSPARENT_HUGEPAGE_MADVISE"}  # a policy, not a feature: a task can be restored under any
    assert unseen == set(), "asked for, but no probe would notice that they are missing"
