# SPDX-License-Identifier: GPL-2.0-only
"""What would fail at boot is found before: real programs of this machine in trees that lack something."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sysconfig
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from layer import machine
from layer.errors import BuildError
from layer.image import elf
from layer.image.tree import Node, Tree
from layer.machine import ElfNames

TRUE = Path(shutil.which("true") or "/bin/true").resolve()
OF_TRUE = elf.read(TRUE)
HERE = ElfNames(OF_TRUE.machine, OF_TRUE.interpreter, f"lib/{sysconfig.get_config_var('MULTIARCH')}")


def place(tree: Tree, path: str, content: Path) -> None:
    tree.add(Node(path.lstrip("/"), stat.S_IFREG | 0o755, content=content, package="p"))


def whole() -> Tree:
    tree = Tree()
    place(tree, "bin/true", TRUE)
    place(tree, HERE.interpreter, Path(HERE.interpreter).resolve())
    for library in OF_TRUE.needed:
        place(tree, f"{HERE.libdir}/{library}", Path("/", HERE.libdir, library).resolve())
    return tree


def without(path: str) -> Tree:
    tree = Tree()
    for node in whole().nodes():
        if not node.is_dir and node.path != path.lstrip("/"):
            tree.add(node)
    return tree


def test_a_sound_tree_passes_and_is_counted() -> None:
    assert elf.check(whole(), HERE, ()) == 2 + len(OF_TRUE.needed)


def test_a_missing_library_is_named_with_file_and_package() -> None:
    with pytest.raises(BuildError, match=rf"/bin/true \(p\): needs {OF_TRUE.needed[0]}, which is not in the image"):
        elf.check(without(f"{HERE.libdir}/{OF_TRUE.needed[0]}"), HERE, ())


def test_a_missing_interpreter_is_named() -> None:
    with pytest.raises(BuildError, match=f"/bin/true .*its interpreter {HERE.interpreter} is not in the image"):
        elf.check(without(HERE.interpreter), HERE, ())


def test_a_program_of_another_machine_is_named() -> None:
    other = next(one for one in map(machine.load, machine.names()) if one.elf.machine != HERE.machine)
    with pytest.raises(BuildError, match=f"/bin/true .*is for {HERE.machine}, not {other.elf.machine}"):
        elf.check(whole(), replace(HERE, machine=other.elf.machine), ())


def test_a_path_of_the_build_is_found_in_any_file(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/home/somebody/work/python3\n")
    tree = whole()
    place(tree, "usr/bin/script", script)
    with pytest.raises(BuildError, match=r"/usr/bin/script \(p\): holds the build's path /home/somebody/"):
        elf.check(tree, HERE, ("/home/somebody/",))
    assert elf.check(tree, HERE, ("/home/nobody/",))


@pytest.mark.parametrize(("text", "sound"), [("at /usr/src/x.c", True), ("at /src/x.c", False), ("/src/x.c", False)])
def test_a_short_path_of_the_build_is_not_found_inside_another(tmp_path: Path, text: str, sound: bool) -> None:
    (tmp_path / "file").write_text(text)
    tree = Tree()
    place(tree, "usr/share/file", tmp_path / "file")
    with nullcontext() if sound else pytest.raises(BuildError, match="holds the build's path /src/"):
        elf.check(tree, HERE, ("/src/",))


def test_a_run_path_is_refused(tmp_path: Path) -> None:
    program = tmp_path / "program"
    command = ["gcc", "-x", "c", "-", "-o", str(program), "-Wl,-rpath,/opt/there"]
    subprocess.run(command, input=b"int main(void) { return 0; }", check=True, env={"PATH": os.environ["PATH"]})
    tree = whole()
    place(tree, "bin/program", program)
    with pytest.raises(BuildError, match=r"/bin/program .*looks for libraries in /opt/there"):
        elf.check(tree, HERE, ())
