# SPDX-License-Identifier: GPL-2.0-only
"""Keys: what changes them, what must not, and how a change is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from layer import configure, keys, plan, recipes
from layer.keys import Ingredients

TEXT = """\
name: r
summary: a summary
licence: MIT
source: {path: [src]}
patches: [fix.patch]
inputs: ["data/**"]
steps: [{name: make, run: [make]}]
"""
INGREDIENTS = Ingredients(
    machine="x86_64",
    source={"a.tar": "1" * 64},
    version="1.0",
    toolchain={"gcc": "12"},
    depends={"zlib": "k1"},
    fragments=(),
)


def repository(folder: Path) -> Path:
    (folder / "src").mkdir()
    (folder / "src/a.py").write_text("a")
    (folder / "data").mkdir()
    (folder / "data/x").write_text("x")
    (folder / "fix.patch").write_text("p")
    return folder


def key(top: Path, text: str = TEXT, ingredients: Ingredients = INGREDIENTS) -> str:
    recipe = recipes.parse(text, Path("r.yaml"))
    return keys.digest(keys.fields(recipe, ingredients, top))


def test_a_key_does_not_depend_on_where_or_when(tmp_path: Path) -> None:
    first, second = tmp_path / "one", tmp_path / "elsewhere/two"
    for folder in (first, second):
        folder.mkdir(parents=True)
        repository(folder)
    assert key(first) == key(second)


def test_words_that_cannot_change_a_result_do_not_count(tmp_path: Path) -> None:
    top = repository(tmp_path)
    same = TEXT.replace("a summary", "another").replace("MIT", "Zlib") + "homepage: h\n# a comment\n"
    assert key(top, same + "package: {include: [usr/lib/*]}\nhost_packages: [bc]\n") == key(top)


def test_every_ingredient_counts(tmp_path: Path) -> None:
    top = repository(tmp_path)
    changed = [
        replace(INGREDIENTS, machine="aarch64"),
        replace(INGREDIENTS, source={"a.tar": "2" * 64}),
        replace(INGREDIENTS, version="1.1"),
        replace(INGREDIENTS, toolchain={"gcc": "13"}),
        replace(INGREDIENTS, depends={"zlib": "k2"}),
        replace(INGREDIENTS, fragments=(("criu.cfg", "0"),)),
    ]
    found = {key(top), *(key(top, ingredients=one) for one in changed)}
    assert len(found) == len(changed) + 1


def test_every_build_relevant_word_of_a_recipe_counts(tmp_path: Path) -> None:
    top = repository(tmp_path)
    changed = [TEXT + "env: {A: b}\n", TEXT + "strip: false\n", TEXT.replace("[make]", "[make, all]")]
    assert len({key(top), *(key(top, text) for text in changed)}) == len(changed) + 1


def test_the_order_of_fragments_counts(tmp_path: Path) -> None:
    top = repository(tmp_path)
    one = replace(INGREDIENTS, fragments=(("a.cfg", "1"), ("b.cfg", "2")))
    other = replace(INGREDIENTS, fragments=(("b.cfg", "2"), ("a.cfg", "1")))
    assert key(top, ingredients=one) != key(top, ingredients=other)


def test_patches_and_inputs_count_by_content_name_and_executable_bit(tmp_path: Path) -> None:
    top = repository(tmp_path)
    seen = {key(top)}
    for change in (
        lambda: (top / "fix.patch").write_text("other"),
        lambda: (top / "data/x").write_text("y"),
        lambda: (top / "data/x").chmod(0o755),
        lambda: (top / "data/new").write_text(""),
        lambda: (top / "data/x").rename(top / "data/z"),
    ):
        change()
        seen.add(key(top))
    assert len(seen) == 6


def test_a_path_source_is_its_files_without_the_debris_of_tools(tmp_path: Path) -> None:
    top = repository(tmp_path)
    recipe = recipes.parse(TEXT, Path("r.yaml"))
    before = keys.path_source(recipe, top)
    assert list(before) == ["src/a.py"]
    (top / "src/__pycache__").mkdir()
    (top / "src/__pycache__/a.pyc").write_text("")
    (top / "src/b.pyc").write_text("")
    assert keys.path_source(recipe, top) == before
    (top / "src/a.py").write_text("changed")
    assert keys.path_source(recipe, top) != before


def test_a_difference_is_named_field_by_field() -> None:
    before = {"toolchain": {"gcc": "12"}, "steps": [{"name": "a"}], "same": 1}
    after = {"toolchain": {"gcc": "13"}, "steps": [{"name": "b"}], "same": 1, "inputs": {"x": "1"}}
    assert keys.difference(before, after) == (
        'inputs: (absent) → {"x": "1"}',
        "steps[0].name: a → b",
        "toolchain.gcc: 12 → 13",
    )
    assert keys.difference(before, before) == ()
    longer = {"fragments": [["base.cfg", "1"], ["debug.cfg", "2"]]}
    assert keys.difference({"fragments": [["base.cfg", "1"]]}, longer) == ('fragments: with ["debug.cfg", "2"]',)
    assert keys.difference(longer, {"fragments": []})[0] == 'fragments: without ["base.cfg", "1"]'


def test_two_fragments_of_one_name_both_count(tmp_path: Path) -> None:
    """Each is read: a change of the first must build the kernel again."""
    files = tuple(tmp_path / folder / "own.cfg" for folder in ("a", "b"))
    for file in files:
        file.parent.mkdir()
        file.write_text(f"CONFIG_{file.parent.name.upper()}=y\n")
    asked = configure.Request(("feature/pycriu",), "x86_64", configure.kernels()[0], tmp_path / "build", files)
    configure.configure(asked)
    before = plan.load(tmp_path / "build").fields(asked.kernel)["fragments"]
    files[0].write_text("CONFIG_OTHER=y\n")
    assert plan.load(tmp_path / "build").fields(asked.kernel)["fragments"] != before
