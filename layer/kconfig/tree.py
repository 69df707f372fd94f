# SPDX-License-Identifier: GPL-2.0-only
"""A kernel's Kconfig tree, parsed: what a configuration becomes in it, without running the kernel's make.

Parsing runs commands that the tree names (`$(shell …)`, mostly questions to the compiler): only for trees that one
would also build. The compiler must be the one of the build, since its answers decide symbols.
"""

from __future__ import annotations

import gc
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import IO

import kconfiglib  # type: ignore[import-untyped]

from layer.errors import EvaluationError, InputError
from layer.kconfig import constructs
from layer.kconfig.answers import Answers, file_for
from layer.kconfig.modern import modernise
from layer.machine import Machine

VERSION_LINE = re.compile(r"^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION)[ \t]*=[ \t]*(\S*)", re.MULTILINE)
# kbuild's names of programs, and what they are called behind the cross prefix
CROSS_TOOLS = {
    "CC": "gcc",
    "LD": "ld",
    "AR": "ar",
    "NM": "nm",
    "OBJCOPY": "objcopy",
    "STRIP": "strip",
    "READELF": "readelf",
}
HOST_TOOLS = {"HOSTCC": "gcc", "HOSTCXX": "g++", "HOSTLD": "ld", "HOSTAR": "ar"}
OTHER_TOOLS = {"PAHOLE": "pahole", "RUSTC": "rustc", "BINDGEN": "bindgen", "PERL": "perl", "PYTHON3": "python3"}
# symbols that say what the compiler and its companions can do
TOOL_ANSWER = re.compile(r"(?:CC|LD|LLD|AS|AR|GCC|CLANG|RUSTC|PAHOLE|BINDGEN|TOOLCHAIN|TOOLS)_")
TRISTATE = (kconfiglib.BOOL, kconfiglib.TRISTATE)  # the types that have levels


class Tree(kconfiglib.Kconfig):  # type: ignore[misc]  # kconfiglib carries no types
    """kconfiglib's Kconfig, for kernels younger than it. `_open` opens every file there; hence the pin below 15."""

    def __init__(self, directory: Path, machine: Machine, version: str, answers: Answers) -> None:
        self.answers = answers
        self.machine = machine
        self.version = version
        self.directory = directory
        self.transitional: list[str] = []
        super().__init__("Kconfig", warn_to_stderr=False)
        self.warn = False
        modernise(self, version, self.transitional)

    def _open(self, filename: str, mode: str) -> IO[str]:
        stream: IO[str] = super()._open(filename, mode)
        if not self._parsing_kconfigs or mode != "r":
            return stream
        with stream:
            text = stream.read()
        if "transitional" in text:
            self.transitional.extend(constructs.transitional_symbols(text))
        return StringIO(constructs.rewrite(text))

    def symbol(self, name: str) -> kconfiglib.Symbol | None:
        """The symbol, when this tree defines it (a mere mention does not count)."""
        found = self.syms.get(name)
        return found if found is not None and found.nodes else None

    def value(self, name: str) -> str:
        """What the symbol would be in .config, as Kconfig writes it; n when it does not exist."""
        found = self.symbol(name)
        if found is None:
            return "n"
        text: str = found.str_value
        return '"' + str(kconfiglib.escape(text)) + '"' if found.orig_type == kconfiglib.STRING else text

    def assign(self, name: str, value: str) -> None:
        """Sets a value as a line of .config would; one that the symbol's type cannot hold is ignored, as make does."""
        found = self.symbol(name)
        if found is not None:
            found.set_value(kconfiglib.unescape(value[1:-1]) if value.startswith('"') else value)

    def configuration(self) -> dict[str, str]:
        """Every symbol that make would write to .config, with its value; n for `is not set`."""
        values: dict[str, str] = {}
        for symbol in self.unique_defined_syms:
            if symbol.config_string:
                values[symbol.name] = self.value(symbol.name)
        return values


def is_tree(path: Path) -> bool:
    """Whether `path` is the top of a kernel source tree."""
    return (path / "Kconfig").is_file() and (path / "Makefile").is_file() and (path / "arch").is_dir()


def release(directory: Path) -> str:
    """The kernel release that the tree's Makefile names."""
    with (directory / "Makefile").open() as makefile:
        found: dict[str, str] = dict(VERSION_LINE.findall(makefile.read(4096)))
    if "VERSION" not in found:
        raise InputError("this Makefile names no kernel version", file=directory / "Makefile")
    numbers = [found[key] for key in ("VERSION", "PATCHLEVEL", "SUBLEVEL") if found.get(key)]
    return ".".join(numbers) + found.get("EXTRAVERSION", "")


def load(directory: Path, machine: Machine, cross: str, cache: Path | None = None) -> Tree:
    """The tree parsed for `machine`, compiled by `<cross>gcc`; EvaluationError when it cannot be.

    In `cache` the compiler's answers are kept for the next time.
    """
    if not is_tree(directory):
        raise InputError(f"{directory} is no kernel tree", hint="it must hold Kconfig, Makefile and arch/")
    version = release(directory)
    variables = _variables(directory.resolve(), machine, cross, version)
    programs = [*_tools(cross).values(), f"{cross}as"]
    answers = Answers(file_for(cache, version, programs) if cache else None)
    with _environment(variables), _no_collection():
        try:
            tree = Tree(directory.resolve(), machine, version, answers)
        except (kconfiglib.KconfigError, OSError, RecursionError) as error:
            hint = f"Linux {version}; kconfiglib {'.'.join(map(str, kconfiglib.VERSION))} does not know something in it"
            raise EvaluationError(f"the Kconfig tree does not parse: {str(error).strip()}", hint=hint) from error
    answers.save()
    return tree


def _variables(directory: Path, machine: Machine, cross: str, version: str) -> dict[str, str]:
    tools = _tools(cross)
    return tools | {
        "KCONFIG_FUNCTIONS": "layer.kconfig.answers",
        "srctree": str(directory),
        "ARCH": machine.kernel.arch,
        "SRCARCH": machine.kernel.srcarch,
        "CROSS_COMPILE": cross,
        "KERNELVERSION": version,
        "CC_VERSION_TEXT": _first_line(tools["CC"]),
        "PAHOLE_VERSION": _output([str(directory / "scripts/pahole-version.sh"), tools["PAHOLE"]]) or "0",
        "CLANG_FLAGS": "",
        "RUSTC_VERSION_TEXT": _output([tools["RUSTC"], "--version"]),
        "CONFIG_": "CONFIG_",
        "LC_ALL": "C",
    }


def _tools(cross: str) -> dict[str, str]:
    return {name: cross + program for name, program in CROSS_TOOLS.items()} | HOST_TOOLS | OTHER_TOOLS


def _output(command: list[str]) -> str:
    """What a tool says that a kernel can do without; empty when it is not there."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def _first_line(compiler: str) -> str:
    try:
        result = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        hint = "its answers decide symbols: install it, or name another with --cross"
        raise EvaluationError(f"the compiler {compiler} does not run: {error}", hint=hint) from error
    return result.stdout.split("\n", 1)[0]


@contextmanager
def _no_collection() -> Iterator[None]:
    """A parsed tree is a million objects and no garbage; looking for some takes a fifth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """kconfiglib reads the process's environment, and so do the commands it runs."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
