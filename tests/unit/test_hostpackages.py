# SPDX-License-Identifier: GPL-2.0-only
"""What the build machine must have installed, and the launcher that needs nothing installed."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from layer import hostpackages, machine, recipes
from layer.cli import hosting, launch
from layer.errors import BuildError
from layer.recipes import TOP


@pytest.mark.parametrize(
    ("host", "target", "found"),
    [
        ("amd64", "x86_64", ("gcc", "libc6-dev")),
        ("amd64", "aarch64", ("gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross")),
        ("arm64", "aarch64", ("gcc", "libc6-dev")),
        ("arm64", "x86_64", ("gcc-x86-64-linux-gnu", "libc6-dev-amd64-cross")),
    ],
)
def test_the_compiler_is_the_cross_one_unless_the_machine_is_of_our_kind(
    monkeypatch: pytest.MonkeyPatch, host: str, target: str, found: tuple[str, ...]
) -> None:
    monkeypatch.setattr(hostpackages, "host_architecture", lambda: host)
    assert hostpackages.compiler(machine.load(target)) == found


@pytest.mark.parametrize(
    ("target", "found"),
    [("x86_64", "g++"), ("aarch64", "g++-aarch64-linux-gnu")],
)
def test_a_recipes_package_names_are_filled_in(monkeypatch: pytest.MonkeyPatch, target: str, found: str) -> None:
    monkeypatch.setattr(hostpackages, "host_architecture", lambda: "amd64")
    assert hostpackages.fill("g++-{cross}", machine.load(target)) == found
    assert hostpackages.fill("bison", machine.load(target)) == "bison"


def test_a_build_needs_what_its_recipes_need_and_the_emulator_of_its_machine() -> None:
    closed = recipes.closure(["linux-6.12"])
    found = hostpackages.needed("aarch64", closed)
    assert {"flex", "bison", "dpkg-dev", "qemu-system-arm"} <= set(found)
    assert list(found) == sorted(found)
    assert "qemu-system-arm" not in hostpackages.needed("aarch64", closed, emulator=False)


def test_only_what_dpkg_does_not_have_is_missing() -> None:
    assert hostpackages.missing(["dpkg", "no-such-package"]) == ("no-such-package",)


@pytest.mark.parametrize("failures", [0, 1, 3])
def test_packages_are_installed_although_somebody_else_is_at_apts_lists(
    failures: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An apt-get that fails so many times, as it does while a fresh machine updates them."""
    apt, told = tmp_path / "apt-get", tmp_path / "told"
    apt.write_text(
        f'#!/bin/sh\necho "$1" >>{told}\n[ "$1" = install ] && [ $(grep -c install {told}) -gt {failures} ]\n'
    )
    apt.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("LAYER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hosting.os, "geteuid", lambda: 0)
    monkeypatch.setattr(hosting.time, "sleep", lambda _: None)
    if failures == len(hosting.PAUSES):
        with pytest.raises(BuildError, match="exit status 1"):
            hosting.install(("no-such-package",))
    else:
        hosting.install(("no-such-package",))
    assert told.read_text().split() == ["update", "install"] * min(failures + 1, 3)


def test_the_launcher_runs_on_a_bare_python() -> None:
    """-I -S: no environment, no site-packages; it must get as far as reading its own needs."""
    code = f"import sys, tomllib; sys.path.insert(0, {str(TOP / 'layer/cli')!r}); import launch; print(launch.TOP)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == TOP


def test_the_launcher_asks_for_what_pyproject_says() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())
    layer = launch.requirements(project, ["layer"])
    both = launch.requirements(project, ["layer", "dev"])
    assert any(need.startswith("protobuf") for need in layer)
    assert any(need.startswith("pyyaml") for need in layer)
    assert not any(need.startswith("pytest") for need in layer)
    assert set(layer) < set(both) and any(need.startswith("pytest") for need in both)


@pytest.mark.parametrize("spelled", ["ISO-8859-1", "UTF-8"])
def test_the_launchers_python_reads_utf_8_whatever_the_locale(monkeypatch: pytest.MonkeyPatch, spelled: str) -> None:
    monkeypatch.setattr(launch.locale, "getencoding", lambda: spelled)
    assert launch.changes().get("PYTHONUTF8") == (None if spelled == "UTF-8" else "1")


def test_a_relative_cache_is_the_same_one_in_every_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAYER_CACHE", "own")
    assert launch.changes()["LAYER_CACHE"] == f"{tmp_path}/own"
    monkeypatch.delenv("LAYER_CACHE")
    assert "LAYER_CACHE" not in launch.changes()


def test_launcher_and_layer_agree_on_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    from layer import cache

    for name, value in (("LAYER_CACHE", "/some/where"), ("XDG_CACHE_HOME", "/x")):
        monkeypatch.setenv(name, value)
        assert launch.cache_root() == cache.default().root
        monkeypatch.delenv(name)
    assert launch.cache_root() == cache.default().root
