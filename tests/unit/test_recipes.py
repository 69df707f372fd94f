# SPDX-License-Identifier: GPL-2.0-only
"""Recipes: the grammar, what is said of mistakes, and the order they are built in."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from layer import recipes
from layer.errors import InputError
from layer.fetch import lock
from layer.plan import LOCK

MINIMAL = "name: {name}\nsummary: s\nlicence: MIT\nsteps: []\n"


def write(folder: Path, name: str, *lines: str) -> Path:
    file = folder / f"{name}.yaml"
    file.write_text(MINIMAL.format(name=name) + "".join(f"{line}\n" for line in lines))
    return file


def refusal(text: str) -> str:
    with pytest.raises(InputError) as caught:
        recipes.parse(text, Path("r.yaml"))
    return str(caught.value)


def test_the_defaults_of_a_minimal_recipe() -> None:
    recipe = recipes.parse(MINIMAL.format(name="r"), Path("r.yaml"))
    assert (recipe.native, recipe.kernel, recipe.strip, recipe.source, recipe.depends) == (False, False, True, None, ())
    assert recipe.package == recipes.Package(include=("**",), exclude=())


def test_sources_of_each_kind() -> None:
    def source(line: str) -> recipes.Source | None:
        return recipes.parse(MINIMAL.format(name="r") + f"source: {line}\n", Path("r.yaml")).source

    assert source("{debian: zlib, suite: trixie, patched: true}") == recipes.DebianSource("zlib", "trixie", "", True)
    assert source("{pypi: protobuf, version: ==6.*}") == recipes.PypiSource("protobuf", "==6.*")
    assert source("{path: [pycriu]}") == recipes.PathSource(("pycriu",))
    assert source("{https: 'https://host/a-{version}.tar.gz', version: 1.0.1}") == recipes.HttpsSource(
        "https://host/a-{version}.tar.gz", "1.0.1"
    )


def test_steps_are_argument_lists_and_null_removes_a_variable() -> None:
    text = MINIMAL.replace("steps: []", "steps: [{{name: make, run: [make, -j, 2], env: {{CC: null, X: 1}}}}]")
    (step,) = recipes.parse(text.format(name="r"), Path("r.yaml")).steps
    assert step == recipes.Step("make", ("make", "-j", "2"), "{build}", (("CC", None), ("X", "1")))


def test_an_unknown_key_names_file_line_and_the_likely_one() -> None:
    text = refusal(MINIMAL.format(name="r") + "dependss: [zlib]\n")
    assert text.startswith("r.yaml:5: unknown key 'dependss'")
    assert "did you mean depends?" in text


def test_an_unknown_key_inside_a_source_is_judged_by_the_kind_it_names() -> None:
    text = refusal(MINIMAL.format(name="r") + "source:\n  debian: zlib\n  siute: trixie\n")
    assert "siute" in text and text.startswith("r.yaml:")
    assert "did you mean suite?" in text


def test_a_source_of_no_kind_lists_the_kinds() -> None:
    assert "debian, pypi, path, https" in refusal(MINIMAL.format(name="r") + "source: {git: x}\n")


def test_a_step_without_a_command_is_refused() -> None:
    assert refusal(MINIMAL.format(name="r").replace("[]", "[{name: x}]")).startswith("r.yaml:4: steps.0:")


def test_the_name_must_be_the_files(tmp_path: Path) -> None:
    write(tmp_path, "one").rename(tmp_path / "two.yaml")
    with pytest.raises(InputError, match=r"two\.yaml:1: name is 'one'"):
        recipes.load("two", tmp_path)


def test_closure_puts_dependencies_first_each_once(tmp_path: Path) -> None:
    write(tmp_path, "a")
    write(tmp_path, "b", "depends: [a]")
    write(tmp_path, "c", "depends: [b, a]")
    write(tmp_path, "unused")
    assert [recipe.name for recipe in recipes.closure(["c"], tmp_path)] == ["a", "b", "c"]


def test_a_native_tool_hides_what_it_was_made_from(tmp_path: Path) -> None:
    write(tmp_path, "lib")
    write(tmp_path, "tool", "native: true", "depends: [lib]")
    write(tmp_path, "user", "depends: [tool]")
    among = {recipe.name: recipe for recipe in recipes.closure(["user"], tmp_path)}
    assert [recipe.name for recipe in recipes.dependencies(among["user"], among)] == ["tool"]
    assert [recipe.name for recipe in recipes.dependencies(among["tool"], among)] == ["lib"]


def test_an_unknown_dependency_names_file_line_and_the_likely_one(tmp_path: Path) -> None:
    write(tmp_path, "zlib")
    file = write(tmp_path, "b", "depends:", "  - zlb")
    with pytest.raises(InputError) as caught:
        recipes.closure(["b"], tmp_path)
    assert str(caught.value).startswith(f"{file}:6: b depends on 'zlb'")
    assert "did you mean zlib?" in str(caught.value)


def test_a_circle_is_shown_whole(tmp_path: Path) -> None:
    for name, needed in (("a", "b"), ("b", "c"), ("c", "a")):
        write(tmp_path, name, f"depends: [{needed}]")
    with pytest.raises(InputError) as caught:
        recipes.closure(["a"], tmp_path)
    shown = caught.value.message.split(": ")[1].split(" → ")
    assert len(shown) == 4 and shown[0] == shown[-1]
    assert all(
        f"depends: [{needed}]" in (tmp_path / f"{name}.yaml").read_text() for name, needed in itertools.pairwise(shown)
    )


def test_an_input_that_matches_nothing_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, "a", "inputs: [recipes/no-such-folder]")
    with pytest.raises(InputError) as caught:
        recipes.closure(["a"], tmp_path)
    assert str(caught.value).startswith(f"{file}:5: ")


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_of_the_repository_reads_and_its_dependencies_exist(name: str) -> None:
    assert recipes.closure([name])[-1].name == name


def test_every_remote_source_is_locked_with_sha256_and_nothing_else_is() -> None:
    pins = lock.read(LOCK)
    locked = {name for name in recipes.names() if recipes.load(name).locked}
    assert set(pins) == locked
    for pin in pins.values():
        assert pin.files and all(len(sha256) == 64 for sha256 in pin.files.values())
        assert not pin.replaces
