# SPDX-License-Identifier: GPL-2.0-only
"""One recipe built for real, with the host's compiler, into a cache of the test's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from layer import build, machine, recipes, why
from layer.cache import Cache
from layer.configuration import BuildFolder, Configuration
from layer.errors import BuildError, InputError
from layer.plan import Plan

HELLO = """\
name: hello
summary: prints a word
licence: MIT
licence_files: [LICENCE]
native: true
source: {path: [hello.c, LICENCE]}
steps:
  - name: compile
    run: [gcc, -g, -o, hello, "{source}/hello.c"]
  - name: install
    run: [install, -D, hello, "{dest}/usr/bin/hello"]
  - name: environment
    run: [sh, -c, 'env | cut -d= -f1 | sort > "$0/names"; umask > "$0/umask"', "{dest}"]
"""
USER = """\
name: user
summary: runs hello
licence: MIT
native: true
depends: [hello]
steps:
  - {name: run, run: [sh, -c, 'hello > "$0/said"', "{dest}"]}
"""


class Place:
    """A repository, a cache and a build folder of the test's own."""

    def __init__(self, root: Path) -> None:
        self.top, self.cache, self.folder = root / "repo", Cache(root / "cache"), BuildFolder(root / "build")
        self.top.mkdir()
        (self.top / "LICENCE").write_text("do as you like\n")
        self.say("hello")

    def say(self, word: str) -> None:
        (self.top / "hello.c").write_text(f'#include <stdio.h>\nint main(void) {{ puts("{word}"); return 0; }}\n')

    def plan(self, texts: Mapping[str, str]) -> Plan:
        found = {name: recipes.parse(text, self.top / f"{name}.yaml") for name, text in texts.items()}
        chosen = Configuration("x86_64", next(iter(found)), (), (), tuple(found), (), strict_lock=False, command=())
        return Plan(self.folder, chosen, machine.load("x86_64"), found, {}, self.cache, self.top)

    def build(self, text: str = HELLO) -> build.Built:
        return build.build(self.plan({"hello": text}), "hello")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_build_leaves_its_tree_licences_and_key_and_no_work_folder(place: Place) -> None:
    built = place.build()
    assert built.seconds > 0
    assert (built.output / "dest/usr/bin/hello").is_file()
    assert (built.output / "licences/LICENCE").read_text() == "do as you like\n"
    assert (built.output / "key.json").is_file()
    assert not list((place.cache.root / "work").glob("*"))


def test_a_second_folder_takes_it_from_the_cache(place: Place, tmp_path: Path) -> None:
    first = place.build()
    place.folder = BuildFolder(tmp_path / "second")
    second = place.build()
    assert second.seconds == 0.0 and second.output == first.output


def test_no_path_of_the_build_stays_in_the_result_and_it_is_stripped(place: Place) -> None:
    content = (place.build().output / "dest/usr/bin/hello").read_bytes()
    assert str(place.cache.root).encode() not in content
    assert b".debug_info" not in content


def test_the_same_recipe_in_another_cache_gives_the_same_bytes(place: Place, tmp_path: Path) -> None:
    first = place.build()
    place.cache = Cache(tmp_path / "a longer name for another cache")
    second = place.build()
    assert first.output != second.output and first.key == second.key
    program = "dest/usr/bin/hello"
    assert (first.output / program).read_bytes() == (second.output / program).read_bytes()


def test_a_step_sees_only_its_own_environment(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CFLAGS", "-DLEAKED")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/nowhere")
    names = (place.build().output / "dest/names").read_text().split()
    allowed = {
        "PATH",
        "HOME",
        "TMPDIR",
        "LC_ALL",
        "TZ",
        "SOURCE_DATE_EPOCH",
        "PYTHONDONTWRITEBYTECODE",
        "PWD",
        "_",
        "SHLVL",
        "OLDPWD",
    }
    assert set(names) <= allowed
    assert {"PATH", "HOME", "LC_ALL", "TZ", "SOURCE_DATE_EPOCH"} <= set(names)


def test_a_native_tool_is_in_the_path_of_who_depends_on_it(place: Place) -> None:
    plan = place.plan({"hello": HELLO, "user": USER})
    assert not plan.output("hello").exists(), "it is built on the way"
    assert (build.build(plan, "user").output / "dest/said").read_text() == "hello\n"


def test_why_names_the_field_that_changed(place: Place) -> None:
    assert why.why(place.plan({"hello": HELLO}), "hello")[0].startswith("hello: never built in this folder")
    place.build()
    assert why.why(place.plan({"hello": HELLO}), "hello")[0].startswith("hello: nothing changed")
    place.say("good day")
    changed = why.why(place.plan({"hello": HELLO.replace("-g", "-g1")}), "hello")
    assert "the cache does not have it" in changed[0]
    assert any(line.strip().startswith("source.hello.c: ") for line in changed)
    assert "  steps[0].run[1]: -g → -g1" in changed


def test_a_failing_step_shows_the_end_of_its_log_where_it_is_and_how_to_repeat_it(place: Place) -> None:
    text = HELLO.replace('[gcc, -g, -o, hello, "{source}/hello.c"]', "[sh, -c, 'echo so far; echo broken >&2; exit 7']")
    with pytest.raises(BuildError) as caught:
        place.build(text)
    told = str(caught.value)
    assert "step 'compile' failed: exit status 7" in told
    assert "so far\nbroken" in told
    assert str(place.folder.log("hello")) in told
    script = Path(told.rsplit("repeat just this step: ", 1)[1].strip())
    assert "exit 7" in script.read_text()
    assert not list((place.cache.root / "outputs").glob("*/*")), "a failure leaves no output"


def test_after_a_failure_the_next_try_starts_clean(place: Place) -> None:
    broken = HELLO.replace('run: [install, -D, hello, "{dest}/usr/bin/hello"]', 'run: ["false"]')
    for _ in range(2):
        with pytest.raises(BuildError, match="step 'install'"):
            place.build(broken)
    assert place.build().seconds > 0


def test_an_edit_during_the_build_does_not_get_the_old_name(place: Place) -> None:
    edit = f'echo "/* later */" >> {place.top}/hello.c'
    text = HELLO.replace('run: [install, -D, hello, "{dest}/usr/bin/hello"]', f"run: [sh, -c, '{edit}']")
    with pytest.raises(BuildError, match="edited while it was being built"):
        place.build(text)
    assert not list((place.cache.root / "outputs").glob("*/*"))


def test_a_missing_program_is_named(place: Place) -> None:
    with pytest.raises(BuildError, match="no-such-compiler is not installed"):
        place.build(HELLO.replace("[gcc,", "[no-such-compiler,"))


def test_a_missing_licence_text_is_an_error(place: Place) -> None:
    with pytest.raises(BuildError, match="its source has no COPYING"):
        place.build(HELLO.replace("licence_files: [LICENCE]", "licence_files: [COPYING]"))


def test_an_unknown_placeholder_gets_a_suggestion(place: Place) -> None:
    with pytest.raises(InputError, match=r"unknown placeholder \{sorce\}(.|\n)*did you mean \{source\}\?"):
        place.build(HELLO.replace("{source}/hello.c", "{sorce}/hello.c"))
