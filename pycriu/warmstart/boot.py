# SPDX-License-Identifier: GPL-2.0-only
"""Run by `pycriu snapshot run` in the interpreter of the program: its imports, the checkpoint, then the program.

The imports are those with which the script begins, in their order: up to the first statement that does anything else,
or to an import that fails. A script that says itself where it wants to be saved (`pycriu.warm_start`) is left alone.
Then the script runs as `__main__`, as if it had been started.
"""

from __future__ import annotations

import ast
import importlib
import os
import sys
import types


def main(words: list[str]) -> None:
    """`words` is the script and its arguments, or -m, a module and its arguments."""
    sys.orig_argv[:] = [word for word in sys.orig_argv if os.path.abspath(word) != os.path.abspath(__file__)]
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    _make_importable(package)
    from pycriu import warm_start

    if words[0] == "-m":
        sys.argv = words[1:]
        _set_first_path(os.getcwd())
        if (names := _imports_of_module(words[1])) is not None:
            with warm_start():
                _import(names)
        import runpy

        runpy._run_module_as_main(words[1])  # type: ignore[attr-defined]
        return
    script, sys.argv = os.path.abspath(words[0]), words  # a later life may be in another directory
    _set_first_path(os.path.dirname(os.path.realpath(script)))
    if (names := _imports_of_file(script)) is not None:
        with warm_start():
            _import(names)
    with open(script, "rb") as file:
        code = compile(file.read(), script, "exec", dont_inherit=True)
    module = types.ModuleType("__main__")
    module.__dict__.update(__file__=script, __builtins__=sys.modules["builtins"])
    sys.modules["__main__"] = module
    exec(code, module.__dict__)


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


def imports(tree: ast.Module) -> list[str]:
    """The modules with whose import a script begins; definitions and strings between them do nothing."""
    found = []
    for node in tree.body:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found += [node.module] if node.module != "__future__" else []
        elif not (isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef) or _is_string(node)):
            break
    return found


def _is_string(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _imports_of_module(name: str) -> list[str] | None:
    """Those of a module, or of the `__main__` of a package, which itself must not run yet; None: it saves itself."""
    import importlib.util

    spec = importlib.util.find_spec(name)
    if spec is not None and spec.submodule_search_locations is not None:
        spec = importlib.util.find_spec(f"{name}.__main__")
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return []
    return _imports_of_file(spec.origin)


def _imports_of_file(path: str) -> list[str] | None:
    with open(path, "rb") as file:
        source = file.read()
    return None if b"warm_start" in source else imports(ast.parse(source, path))


def _import(names: list[str]) -> None:
    """As far as that goes: what fails here fails again in the program, which knows what to do."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:
            return


if __name__ == "__main__":
    main(sys.argv[1:])
