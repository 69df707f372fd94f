# SPDX-License-Identifier: GPL-2.0-only
"""configure and ninja together: the graph's edges, idempotence, and noticing what changed, came or went."""

from __future__ import annotations

import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from layer import configure, graph, plan
from layer.cli.main import main
from layer.configure import Request
from layer.errors import InputError
from layer.recipes import TOP


def request(folder: Path, *templates: str, machine: str = "x86_64", extra: tuple[Path, ...] = ()) -> Request:
    return Request(templates, machine, configure.kernels()[0], folder, extra)


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def ninja(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ninja", "-C", str(folder), *words], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_graph_has_an_edge_for_all_that_can_be_asked(tmp_path: Path, machine: str) -> None:
    configure.configure(request(tmp_path, "feature/criu", machine=machine))
    told = ninja(tmp_path, "-t", "targets", "all").stdout
    found = {line.split(":")[0] for line in told.splitlines()}
    assert {"image", "kernel", "audit", "boot", "runtime", "sbom", "reproduce", "images/boot.json"} <= found
    for recipe in plan.load(tmp_path).recipes:
        assert {f"why-{recipe}", f"clean-{recipe}", f"recipes/{recipe}.json"} <= found


def test_an_edge_waits_for_the_source_and_for_all_it_is_built_with(tmp_path: Path) -> None:
    configure.configure(request(tmp_path, "feature/criu"))
    asked = ninja(tmp_path, "-t", "query", "recipes/python3.json").stdout
    for needed in (
        "recipes/python3.fetched",
        "recipes/zlib.json",
        "recipes/libffi.json",
        "recipes/python3-native.json",
    ):
        assert needed in asked


def test_only_the_kernel_reads_the_fragments_and_only_pycriu_its_sources(tmp_path: Path) -> None:
    configure.configure(request(tmp_path, "feature/criu"))
    for name in plan.load(tmp_path).recipes:
        asked = ninja(tmp_path, "-t", "query", f"recipes/{name}.json").stdout.split("outputs:")[0]
        assert ("kernel-config/criu.cfg" in asked) == name.startswith("linux-")
        assert (str(TOP / "pycriu/cli.py") in asked) == (name == "pycriu")


def test_configuring_again_changes_nothing_not_even_a_time(tmp_path: Path) -> None:
    assert configure.configure(request(tmp_path, "feature/criu")).changed
    before = times(tmp_path)
    assert not configure.configure(request(tmp_path, "feature/criu")).changed
    assert times(tmp_path) == before


def test_naming_the_default_folder_is_the_same_as_naming_none() -> None:
    asked = request(TOP / "build/x86_64", "feature/criu")
    assert configure.command(asked) == configure.command(replace(asked, builddir=None))
    assert f"--builddir={TOP}/elsewhere" in configure.command(replace(asked, builddir=TOP / "elsewhere"))


def test_another_choice_changes_what_it_must(tmp_path: Path) -> None:
    configure.configure(request(tmp_path, "feature/criu"))
    done = configure.configure(request(tmp_path, "feature/pycriu"))
    assert done.changed
    fragments = [Path(name).stem for name in done.configuration.fragments]
    assert fragments == ["base", "x86_64"], "the tool without the feature leaves the kernel alone"
    assert "pycriu" in done.configuration.packages


def test_ninja_configures_again_with_the_same_words_and_then_has_peace(tmp_path: Path) -> None:
    configure.configure(request(tmp_path, "feature/criu"))
    before = times(tmp_path)["build.ninja"]
    depfile = (tmp_path / "build.ninja.d").read_text()
    vanished = tmp_path / "a template that is gone"
    (tmp_path / "build.ninja.d").write_text(depfile.rstrip() + f" {str(vanished).replace(' ', chr(92) + ' ')}\n")
    first = ninja(tmp_path, "-n", "why-zlib")
    assert "] configure" in first.stdout, first.stdout + first.stderr
    real = ninja(tmp_path, "why-zlib")
    assert real.returncode == 0, real.stdout + real.stderr
    assert times(tmp_path)["build.ninja"] == before
    told = [ninja(tmp_path, "why-zlib").stdout for _ in range(3)]  # someone may be editing the tree meanwhile
    assert any("] configure" not in one for one in told)


def test_what_configure_reads_is_all_in_the_depfile(tmp_path: Path) -> None:
    configure.configure(request(tmp_path, "feature/criu"))
    named = set((tmp_path / "build.ninja.d").read_text().split())
    home = "templates/feature/criu"
    files = (f"{home}/template.yaml", f"{home}/README", "recipes/zlib.yaml", "qemu/x86_64.yaml")
    for path in ("templates", "templates/feature", home, "recipes", "kernel-config", *files):
        assert str(TOP / path) in named


def test_the_readmes_of_the_chosen_templates_are_collected_in_order(tmp_path: Path) -> None:
    configure.configure(request(tmp_path, "feature/criu"))
    text = (tmp_path / "README_templates").read_text()
    positions = [text.index(f"\n{name}: ") if name != "default" else text.index("default: ") for name in
                 ("default", "feature/python3", "feature/pycriu", "feature/criu")]  # fmt: skip
    assert positions == sorted(positions)
    assert "(required by feature/pycriu)" in text


def test_an_extra_fragment_comes_last_and_must_exist(tmp_path: Path) -> None:
    fix = tmp_path / "fix.cfg"
    with pytest.raises(InputError, match="no such kernel fragment"):
        configure.configure(request(tmp_path / "build", extra=(fix,)))
    fix.write_text("CONFIG_KCMP=y\n")
    done = configure.configure(request(tmp_path / "build", extra=(fix,)))
    assert done.configuration.fragments[-1] == str(fix)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--template", "feature/ciru"], "did you mean feature/criu?"),
        (["--machine", "aarch46"], "did you mean aarch64?"),
        (["--kernel", "linux-6.13"], "did you mean linux-6.1"),
    ],
)
def test_a_wrong_name_ends_with_2_and_a_suggestion(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert main(["configure", "--builddir", str(tmp_path / "b"), *words]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_templates_may_be_named_by_comma_or_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--template", "feature/criu,feature/debug", "--templates", "feature/victims", "--builddir", str(tmp_path)]
    assert main(["configure", *words]) == 0
    assert "feature/criu, feature/debug, feature/victims" in capsys.readouterr().out


def test_explain_names_packages_symbols_reasons_and_who_required_what(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configure", "--explain", "feature/criu"]) == 0
    told = capsys.readouterr().out
    for part in (
        "feature/python3  required by feature/pycriu ← feature/criu",
        "CONFIG_CHECKPOINT_RESTORE=y",
        "python3",
        "zlib",
    ):
        assert part in told
    lines = told.splitlines()
    reason = lines[lines.index("    CONFIG_CHECKPOINT_RESTORE=y") + 1]
    assert reason.startswith("        ") and reason.strip()


def test_the_lists_have_a_line_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configure", "--list-templates"]) == 0
    assert main(["configure", "--list-machines"]) == 0
    told = capsys.readouterr().out
    for name in ("default", "feature/criu", "feature/python3", "feature/debug", "feature/victims", "x86_64", "aarch64"):
        assert any(line.startswith(name) for line in told.splitlines())


def test_paths_with_blanks_and_dollars_reach_the_shell_whole(tmp_path: Path) -> None:
    """Of the build folder, which configure is told again when something has changed; and of the checkout."""
    folder, fragment = tmp_path / "a $folder", tmp_path / "own words.cfg"
    fragment.write_text("CONFIG_FOO=y\n")
    configure.configure(request(folder, "feature/criu", extra=(fragment,)))
    (folder / "build.ninja.d").write_text(f"build.ninja: {tmp_path}/gone\n")  # so that ninja has to ask
    again = ninja(folder, "build.ninja")
    assert again.returncode == 0, again.stdout
    elsewhere = replace(plan.load(folder), top=Path("/a $checkout"))
    (folder / "build.ninja").write_text(graph.render(elsewhere))
    (told, *_) = ninja(folder, "-t", "commands", "audit").stdout.splitlines()
    assert shlex.split(told)[:2] == ["PYTHONPATH=/a $checkout", sys.executable]


def test_where_nothing_can_be_written_that_is_said_and_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configure", "--builddir", "/sys/no-place/for-a-build"]) == 1
    assert capsys.readouterr().err.startswith("error: /sys/no-place: ")
