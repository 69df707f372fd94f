# SPDX-License-Identifier: GPL-2.0-only
"""The audit's command line: what goes in, what comes out, and the exit status."""

from __future__ import annotations

import io
import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from layer.kconfig import skeleton
from layer.kconfig.cli import main

if TYPE_CHECKING:
    from tests.unit.kconfig.conftest import Bench

TOP = Path(__file__).resolve().parent.parent.parent.parent


def words(bench: Bench, tree: Path, config: Path, *more: str) -> list[str]:
    return [str(config), f"--kernel-tree={tree}", f"--cross={bench.cross}", *more]


def test_met_is_0(bench: Bench, sample_tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fragment = bench.fragment("CONFIG_NET=y")
    assert main(words(bench, sample_tree, bench.config("CONFIG_NET=y"), f"--fragment={fragment}", "--all")) == 0
    out = capsys.readouterr().out
    assert "CONFIG_NET=y" in out
    assert "met: 1 symbols as wanted" in out


def test_a_required_miss_is_1_and_its_fix_makes_it_0(
    bench: Bench, sample_tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fragment, fix = bench.fragment("# for marks", "CONFIG_XT_MARK=y"), bench.folder / "fix.cfg"
    config = bench.config()
    asked = f"--fragment={fragment}"
    assert main(words(bench, sample_tree, config, asked, f"--emit={fix}")) == 1
    assert "XT_MARK needs XTABLES, which is n" in capsys.readouterr().out
    with config.open("a") as end:
        end.write(fix.read_text())
    assert main(words(bench, sample_tree, config, asked)) == 0
    assert (
        main(
            [
                str(sample_tree),
                f"--cross={bench.cross}",
                "--arch=x86_64",
                asked,
                f"--fragment={fix}",
                "--template=default",
            ]
        )
        == 1
    )
    assert "CONFIG_XT_MARK" not in capsys.readouterr().out.split("not met")[1], (
        "the fix holds as one more fragment, too"
    )


def test_an_optional_miss_is_0_and_1_when_strict(bench: Bench, sample_tree: Path) -> None:
    asked = f"--fragment={bench.fragment('#: optional: less', 'CONFIG_NET=y')}"
    assert main(words(bench, sample_tree, bench.config(), asked)) == 0
    assert main(words(bench, sample_tree, bench.config(), asked, "--strict")) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/no/such/config"], "/no/such/config does not exist"),
        (["{folder}"], "neither a kernel tree nor a build folder"),
        (["{config}", "--template", "feature/crui"], "did you mean feature/criu"),
        (["{config}", "--fragment", "/no/such.cfg"], "cannot read the fragment"),
        (["{config}", "--arch", "aarch64"], "configures x86_64, not aarch64"),
        (["{config}", "--kernel-tree", "{folder}"], "no kernel tree"),
    ],
)
def test_bad_input_is_2(bench: Bench, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    config = bench.config()
    assert main([word.format(folder=bench.folder, config=config) for word in arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_tree_that_does_not_parse_is_3_and_still_compared(
    bench: Bench, sample_tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = bench.folder / "broken"
    shutil.copytree(sample_tree, broken)
    (broken / "net/Kconfig").write_text("config NET\n\tunheard of\n")
    assert main(words(bench, broken, bench.config(), f"--fragment={bench.fragment('CONFIG_NET=y')}")) == 3
    out = capsys.readouterr().out
    assert "could not evaluate: the Kconfig tree does not parse" in out
    assert "CONFIG_NET=y" in out


def test_a_kernel_without_configuration_is_3(bench: Bench) -> None:
    kernel = bench.folder / "vmlinux"
    kernel.write_bytes(b"\x7fELF" + bytes(100))
    assert main([str(kernel)]) == 3


def test_json_is_versioned_and_says_everything(
    bench: Bench, sample_tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fragment = bench.fragment("# why", "CONFIG_UNIX_DIAG=y")
    assert main(words(bench, sample_tree, bench.config(), f"--fragment={fragment}", "--format=json")) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["version"], report["exit_code"], report["counts"]) == (1, 1, {"lost": 1})
    (finding,) = report["findings"]
    assert (finding["symbol"], finding["verdict"], finding["required"], finding["reason"]) == (
        "UNIX_DIAG",
        "lost",
        True,
        "why",
    )
    assert [link["needs"] for link in finding["chain"]] == ["UNIX", "NET"]
    assert [line[:2] for line in report["fix"]["lines"]] == [["NET", "y"], ["UNIX", "y"], ["UNIX_DIAG", "y"]]


def test_standard_input_is_read(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(bench.config("CONFIG_NET=y").read_bytes())))
    assert main(["-", f"--fragment={bench.fragment('CONFIG_NET=y')}"]) == 0
    assert "standard input: Linux 6.12.7-sample, x86_64" in capsys.readouterr().out


def test_a_build_folder_is_recognised(bench: Bench) -> None:
    folder = bench.folder / "build/images"
    folder.mkdir(parents=True)
    bench.config("CONFIG_NET=y").rename(folder / "kernel.config")
    assert main([str(folder.parent), f"--fragment={bench.fragment('CONFIG_NET=y')}"]) == 0


def test_the_tree_of_an_earlier_build_is_found_by_its_release(
    bench: Bench, sample_tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [str(bench.config()), f"--fragment={bench.fragment('CONFIG_XT_MARK=y')}", f"--cross={bench.cross}"]
    assert main(asked) == 1
    assert "no Kconfig tree" in capsys.readouterr().out
    kept = skeleton.keep(sample_tree, bench.folder / "cache")
    assert main(asked) == 1
    assert f"judged with: {kept}" in capsys.readouterr().out
    assert main([*asked, "--plain"]) == 1
    assert "no Kconfig tree" in capsys.readouterr().out


def test_the_default_is_the_feature(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(bench.config()), "--plain"]) == 1
    out = capsys.readouterr().out
    assert "asked for: feature/criu (criu)" in out
    assert "CONFIG_CHECKPOINT_RESTORE=y" in out
    assert "kernel-config/criu.cfg:" in out


def test_emit_without_a_tree_says_that_it_cannot(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    fix = bench.folder / "fix.cfg"
    assert main([str(bench.config()), "--plain", f"--emit={fix}"]) == 1
    assert "it takes a Kconfig tree" in capsys.readouterr().err
    assert not fix.exists()


@pytest.mark.parametrize(("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colour_is_for_terminals_only(bench: Bench, environment: dict[str, str], coloured: bool) -> None:
    clean = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | environment
    ours, theirs = pty.openpty()
    arguments = [sys.executable, "-m", "layer", "audit", str(bench.config()), "--plain"]
    result = subprocess.run(arguments, stdout=theirs, env=clean, cwd=TOP, check=False)
    os.close(theirs)
    shown = os.read(ours, 65536)
    os.close(ours)
    assert result.returncode == 1
    assert (b"\x1b[31m" in shown) is coloured


def test_the_launcher_runs_from_anywhere(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAYER_CACHE", str(bench.real_cache))
    arguments = [str(TOP / "kernel-config/audit"), str(bench.config()), "--plain"]
    result = subprocess.run(arguments, capture_output=True, text=True, cwd="/", check=False)
    assert result.returncode == 1, result.stderr
    assert "CONFIG_CHECKPOINT_RESTORE" in result.stdout
    assert "\x1b[" not in result.stdout
