# SPDX-License-Identifier: GPL-2.0-only
"""Resolution of templates: order, requirements, and what is said of a mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from layer import machine, templates
from layer.errors import InputError


class Shelf:
    """A folder of templates, written by the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.add("default")

    def add(self, name: str, *lines: str) -> Path:
        home = self.folder / name
        home.mkdir(parents=True, exist_ok=True)
        (home / "README").write_text(f"about {name}\n")
        file = home / "template.yaml"
        file.write_text("\n".join(("summary: a template", *lines)) + "\n")
        return file

    def names(self, *requested: str, machine: str = "x86_64") -> list[str]:
        return [one.template.name for one in templates.resolve(requested, machine, self.folder)]

    def refusal(self, *requested: str, machine: str = "x86_64") -> InputError:
        with pytest.raises(InputError) as caught:
            templates.resolve(requested, machine, self.folder)
        assert caught.value.exit_code == 2
        return caught.value


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def test_default_is_first_and_requirements_come_before_their_requirer_once(shelf: Shelf) -> None:
    shelf.add("feature/base")
    shelf.add("feature/left", "requires: [feature/base]")
    shelf.add("feature/right", "requires: [feature/base, feature/left]")
    assert shelf.names("feature/right", "feature/left") == ["default", "feature/base", "feature/left", "feature/right"]


def test_default_may_be_required_or_requested_without_appearing_twice(shelf: Shelf) -> None:
    shelf.add("feature/one", "requires: [default]")
    assert shelf.names("default", "feature/one", "feature/one") == ["default", "feature/one"]


def test_who_required_what_is_kept(shelf: Shelf) -> None:
    shelf.add("a")
    shelf.add("b", "requires: [a]")
    shelf.add("c", "requires: [b]")
    chosen = {one.template.name: one.required_by for one in templates.resolve(["c"], "x86_64", shelf.folder)}
    assert chosen == {"default": (), "a": ("c", "b"), "b": ("c",), "c": ()}


def test_an_unknown_request_gets_a_suggestion(shelf: Shelf) -> None:
    shelf.add("feature/criu")
    error = shelf.refusal("feature/ciru")
    assert "unknown template 'feature/ciru'" in str(error)
    assert "did you mean feature/criu?" in str(error)


def test_an_unknown_requirement_names_file_line_requirer_and_chain(shelf: Shelf) -> None:
    file = shelf.add("inner", "requires:", "  - default", "  - feature/pyhton3")
    shelf.add("outer", "requires: [inner]")
    shelf.add("feature/python3")
    text = str(shelf.refusal("outer"))
    assert text.startswith(f"{file}:4: ")
    assert "inner requires 'feature/pyhton3', which does not exist (required by outer)" in text
    assert "did you mean feature/python3?" in text


def test_a_circle_is_shown_whole(shelf: Shelf) -> None:
    shelf.add("a", "requires: [b]")
    shelf.add("b", "requires: [c]")
    file = shelf.add("c", "requires: [a]")
    text = str(shelf.refusal("a"))
    assert text.startswith(f"{file}:2: ")
    assert "a → b → c → a" in text


def test_a_template_that_requires_itself_is_a_circle(shelf: Shelf) -> None:
    shelf.add("a", "requires: [a]")
    assert "a → a" in str(shelf.refusal("a"))


def test_a_wrong_architecture_is_refused_with_those_that_fit(shelf: Shelf) -> None:
    file = shelf.add("inner", "architectures: [aarch64]")
    shelf.add("outer", "requires: [inner]")
    assert shelf.names("outer", machine="aarch64") == ["default", "inner", "outer"]
    text = str(shelf.refusal("outer"))
    assert text.startswith(f"{file}:2: ")
    assert "inner is not for x86_64 (required by outer)" in text
    assert "it is for: aarch64" in text


def test_an_unknown_key_is_refused_with_line_and_suggestion(shelf: Shelf) -> None:
    file = shelf.add("a", "packages: [busybox]", "require: [default]")
    text = str(shelf.refusal("a"))
    assert text.startswith(f"{file}:3: unknown key 'require'")
    assert "did you mean requires?" in text


def test_a_value_of_the_wrong_kind_is_refused_with_its_line(shelf: Shelf) -> None:
    file = shelf.add("a", "packages: busybox")
    assert str(shelf.refusal("a")).startswith(f"{file}:2: packages:")


def test_a_key_given_twice_is_refused(shelf: Shelf) -> None:
    file = shelf.add("a", "packages: [x]", "packages: [y]")
    assert str(shelf.refusal("a")).startswith(f"{file}:3: 'packages' is given twice, first in line 2")


def test_what_is_not_yaml_is_refused_with_its_line(shelf: Shelf) -> None:
    file = shelf.add("a", "packages: [x")
    assert str(shelf.refusal("a")).startswith(f"{file}:")


def test_a_stray_file_in_a_template_is_refused(shelf: Shelf) -> None:
    stray = shelf.add("a").with_name("image.inc")
    stray.write_text("")
    assert str(shelf.refusal("a")).startswith(f"{stray}: ")


def test_a_template_without_readme_is_refused(shelf: Shelf) -> None:
    readme = shelf.add("a").with_name("README")
    readme.unlink()
    assert str(shelf.refusal("a")).startswith(f"{readme}: ")


@pytest.mark.parametrize("name", machine.names())
def test_every_template_of_the_repository_resolves(name: str) -> None:
    requested = [one for one in templates.names() if one != templates.DEFAULT]
    assert {one.template.name for one in templates.resolve(requested, name)} == set(templates.names())


def test_the_criu_feature_brings_python_and_the_tool_before_itself() -> None:
    order = [one.template.name for one in templates.resolve(["feature/criu"], "x86_64")]
    assert order == ["default", "feature/python3", "feature/pycriu", "feature/criu"]
