# SPDX-License-Identifier: GPL-2.0-only
"""Run by `pycriu snapshot run` in the interpreter of the program: its imports, the checkpoint, then the program.

The imports are those with which the program begins, in their order: up to the first statement that does anything else,
or to an import that fails. A program that says itself where it wants to be saved (`pycriu.warm_start`) is left alone.
Then it runs as `__main__`, as if it had been started: a script, a directory or archive (zipapp), or a module.
"""

from __future__ import annotations

import ast
import importlib.machinery
import os
import pkgutil
import sys
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Import = ast.Import | ast.ImportFrom


def main(arguments: list[str]) -> None:
    """`arguments` is the script and its arguments, or -m, a module and its arguments."""
    _make_importable(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from pycriu.warmstart import words

    sys.orig_argv.remove(sys.argv[0])  # this file
    words.show(sys.orig_argv, os.environ)
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        _set_first_path(os.getcwd())
        _run_module(*_found(arguments[1]), alter_argv=True)
        return
    script, sys.argv = os.path.abspath(arguments[0]), arguments  # a later life may be in another directory
    if (importer := pkgutil.get_importer(script)) is not None:
        sys.path[:1] = [script, *(sys.path[:1] if sys.flags.safe_path else [])]
        _run_module("__main__", importer.find_spec("__main__"), alter_argv=False)
        return
    _set_first_path(os.path.dirname(os.path.realpath(script)))
    with open(script, "rb") as file:
        source = file.read()
    _do_imports(source)
    module = types.ModuleType("__main__")
    loader = importlib.machinery.SourceFileLoader("__main__", script)
    module.__dict__.update(__file__=script, __builtins__=sys.modules["builtins"], __loader__=loader, __cached__=None)
    sys.modules["__main__"] = module
    exec(compile(source, script, "exec", dont_inherit=True), module.__dict__)


def _found(name: str) -> tuple[str, Any]:
    """A module, for a package its `__main__`; without spec where there is none, which will be told later."""
    import runpy

    try:
        found: tuple[str, Any, Any] = runpy._get_module_details(name)  # type: ignore[attr-defined]
    except ImportError:
        return name, None
    return name, found[1]


def _run_module(name: str, spec: Any, *, alter_argv: bool) -> None:
    """As Python does it, behind its imports."""
    import runpy

    if (source := _source(spec)) is not None:
        _do_imports(source.encode(), spec.parent)
    runpy._run_module_as_main(name, alter_argv)  # type: ignore[attr-defined]


def _source(spec: Any) -> str | None:
    try:
        source: str | None = spec.loader.get_source(spec.name)
    except (ImportError, AttributeError):
        return None
    return source


def _set_first_path(folder: str) -> None:
    """Where a program finds its own modules; with -P or -I it does not look there."""
    if not sys.flags.safe_path:
        sys.path[0] = folder


def _make_importable(package: str) -> None:
    """Let `pycriu` be found, behind everything else."""
    try:
        importlib.import_module("pycriu.warmstart.program")
    except ModuleNotFoundError:
        sys.path.append(package)


def _do_imports(source: bytes, package: str = "") -> None:
    """Those with which a program begins, and the checkpoint behind them. What fails here fails again in the program,
    which knows what to do.
    """
    from pycriu import warm_start

    if b"warm_start" in source:
        return
    try:
        found = imports(ast.parse(source))
    except (SyntaxError, ValueError):
        return
    key = os.environ.pop("PYCRIU_SNAPSHOT_KEY", None)  # set where nobody has looked for a checkpoint yet
    names = {"__name__": "__main__", "__package__": package}
    with warm_start(key):
        for node in found:
            try:
                exec(compile(ast.Module([node], []), "<imports>", "exec"), names)
            except ImportError:
                break


def imports(tree: ast.Module) -> list[Import]:
    """The imports with which a program begins; definitions and strings between them do nothing."""
    found: list[Import] = []
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            found += [node] if not isinstance(node, ast.ImportFrom) or node.module != "__future__" else []
        elif not (isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef) or _is_string(node)):
            break
    return found


def _is_string(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


if __name__ == "__main__":
    main(sys.argv[1:])
