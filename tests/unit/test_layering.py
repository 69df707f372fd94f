# SPDX-License-Identifier: GPL-2.0-only
"""House rules that a machine can keep: which way imports point, how long things are, who may print, catch and name."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from pycriu.command import arguments

ROOT = Path(__file__).resolve().parents[2]

# From the ground up: a module imports only from its own floor (other files of the same floor) and from floors below.
FLOORS = (
    {"errors", "record", "options"},
    {"kernel"},
    {"arch", "images", "log", "rpc", "rpc_pb2"},
    {"command", "hooks"},
    {"tracing"},
    {"sharing"},
    {"pages"},
    {"plugins"},
    {"fds"},
    {"resources"},
    {"restoring"},
    {"dumping"},
    {"pageserver"},
    {"crit", "edits"},
    {"dump", "predump", "restore", "ownpids", "check", "probes", "stored"},
    {"dryrun", "doctor", "corefile", "warmstart"},
    {"actions", "service", "api", "bindings", "blcr"},
    {"cli", "restart_command"},
    {"__main__"},
)
# The other command lines.
CRIT = (("crit", "cli.py"), ("crit", "__main__.py"), ("blcr", "cli.py"))
NAMES_OF_CPUS = ("x86", "aarch64", "arm64", "riscv")
MAY_NAME_CPUS = {
    "pycriu/kernel/syscalls.py": "the table of system call numbers has a column per numbering",
    "pycriu/kernel/libc.py": "picks that column",
    "pycriu/probes/table.py": "says which architecture a feature exists on",
    "pycriu/crit/check/processes.py": "the fields of registers in CRIU's format",
    "pycriu/images/hints.py": "messages of CRIU's format",
    "pycriu/images/schema.py": "enumerators of CRIU's format",
    "pycriu/crit/losses.py": "messages of CRIU's format",
    "pycriu/images/messages.pyi": "the fields of CRIU's format",
}
MAY_CATCH_ALL = {
    "pycriu/warmstart/runner.py": "a warm start that fails, for whatever reason, is an ordinary one",
    "pycriu/warmstart/program.py": "a checkpoint that cannot be kept, for whatever reason, is none",
    "pycriu/actions/job.py": "says of what nobody foresaw that it is a bug, and stays with the program",
    "pycriu/hooks/fresh.py": "what a program has under the name of a module is its own: what it raises is told",
    "pycriu/hooks/registry.py": "hooks of programs: what each raises is kept, and told to whoever asked",
    "pycriu/hooks/standing.py": "what handlers of a program raise while it stands is raised when it goes on",
    "pycriu/service/listener.py": "a forked worker, which must not run on in the interpreter of its parent",
    "pycriu/service/worker.py": "says of what nobody foresaw that it is a bug",
    "pycriu/cli.py": "says of what nobody foresaw that it is a bug",
    "pycriu/ownpids/init.py": "a forked child, which must not run on in the interpreter of its parent",
    "pycriu/pages/copying.py": "a thread, whose error the one that waits for it raises",
    "pycriu/probes/subject.py": "a forked child, which must not run on in the interpreter of its parent",
}
# What several neighbours of a shelf may use: in fds/, what is no kind of file but serves several.
COMMON = {
    "fds": {
        "deleted",
        "evasive",
        "external",
        "ghost",
        "inflight",
        "kind",
        "locks",
        "opening",
        "openfile",
        "owner",
        "queues",
        "refused",
        "saving",
        "sockets",
        "table",
        "validation",
        "kmsg",
        "watched",
    }
}


def modules(package: str) -> list[Path]:
    """All modules of a package."""
    return sorted((ROOT / package).rglob("*.py"))


@cache
def parsed(path: Path) -> ast.Module:
    """The source of a module."""
    return ast.parse(path.read_text())


def floor_of(name: str) -> int | None:
    """On which floor a part of pycriu stands."""
    return next((number for number, names in enumerate(FLOORS) if name in names), None)


def part_of(path: Path) -> str:
    """`pycriu/fds/pipe.py` → fds."""
    return path.relative_to(ROOT / "pycriu").parts[0].removesuffix(".py")


@cache
def imports(path: Path) -> list[tuple[str, bool]]:
    """Dotted names that a module imports, and whether for type checkers only."""
    tree = parsed(path)
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found: list[tuple[str, bool]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in for_types) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [(f"{node.module}.{alias.name}", id(node) in for_types) for alias in node.names]
    return found


def inside(dotted: str) -> str | None:
    """pycriu.fds.pipe.TYPE → fds; None for what is not a part of pycriu."""
    parts = dotted.split(".")
    return parts[1] if parts[0] == "pycriu" and len(parts) > 1 and floor_of(parts[1]) is not None else None


def test_every_part_has_a_floor() -> None:
    parts = {part_of(path) for path in modules("pycriu")} - {"__init__"}
    assert parts - set().union(*FLOORS) == set()


@pytest.mark.parametrize("path", modules("pycriu"), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    own = part_of(path)
    if own == "__init__":
        return
    wrong = []
    for name, types_only in imports(path):
        other = inside(name)
        if other is None or types_only or other == own:
            continue
        floors = floor_of(own), floor_of(other)
        assert floors[0] is not None
        assert floors[1] is not None
        if floors[1] > floors[0]:
            wrong.append(name)
    assert not wrong, f"{path.relative_to(ROOT)} imports from above: {wrong}"


@pytest.mark.parametrize("shelf", ["resources", "fds"])
def test_neighbours_do_not_know_each_other(shelf: str) -> None:
    """A resource that is a package counts as one."""
    folder = ROOT / "pycriu" / shelf
    files = {path: path.relative_to(folder).parts[0].removesuffix(".py") for path in folder.rglob("*.py")}
    kinds = set(files.values()) - COMMON.get(shelf, set()) - {"__init__"}
    assert kinds
    for path, kind in files.items():
        if kind not in kinds:
            continue
        names = [name.removeprefix(f"pycriu.{shelf}.").split(".")[0] for name, _ in imports(path) if shelf in name]
        known = sorted(set(names) & (kinds - {kind}))
        assert not known, f"{path.relative_to(ROOT)} imports {known}"


def test_crit_reads_images_without_what_makes_them() -> None:
    """But for the layout of registers, and the rules by which a file is the one of the dump."""
    may = ("pycriu.crit", "pycriu.images", "pycriu.errors", "pycriu.record", "pycriu.log", "pycriu.__version__")
    may += ("pycriu.arch", "pycriu.fds.validation")
    guilty = [
        (str(path.relative_to(ROOT)), name)
        for path in modules("pycriu/crit")
        for name, _ in imports(path)
        if name.startswith("pycriu") and not name.startswith(may)
    ]
    assert not guilty


@pytest.mark.parametrize(("package", "other"), [("pycriu", "layer"), ("layer", "pycriu")])
def test_tool_and_build_layer_are_apart(package: str, other: str) -> None:
    guilty = [
        (str(path.relative_to(ROOT)), name)
        for path in modules(package)
        for name, _ in imports(path)
        if name.split(".")[0] == other
    ]
    assert not guilty


@cache
def words_of(path: Path) -> str:
    """Names and strings of a module's code; no comments, no docstrings."""
    tree = parsed(path)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            found.append(node.value)
        elif isinstance(node, ast.Name):
            found.append(node.id)
        elif isinstance(node, ast.Attribute):
            found.append(node.attr)
    return "\n".join(found).lower()


def test_cpus_are_named_in_one_place() -> None:
    guilty = [
        str(path.relative_to(ROOT))
        for path in modules("pycriu")
        if path.relative_to(ROOT).parts[1] != "arch" and any(name in words_of(path) for name in NAMES_OF_CPUS)
    ]
    assert [path for path in guilty if path not in MAY_NAME_CPUS] == []


def test_no_module_is_longer_than_500_lines() -> None:
    long = [
        (str(path.relative_to(ROOT)), count)
        for package in ("pycriu", "layer")
        for path in modules(package)
        if (count := len(path.read_text().splitlines())) > 500
    ]
    assert not long


def test_no_function_is_longer_than_60_lines() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for package in ("pycriu", "layer")
        for path in modules(package)
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if (node.end_lineno or 0) - node.lineno >= 60
    ]
    assert not long


@cache
def calls(path: Path) -> list[str]:
    """Names that a module calls, as written."""
    return [ast.unparse(node.func) for node in ast.walk(parsed(path)) if isinstance(node, ast.Call)]


def test_only_the_command_line_prints_and_exits() -> None:
    guilty = [
        (str(path.relative_to(ROOT)), name)
        for path in modules("pycriu")
        if part_of(path) not in ("cli", "restart_command", "actions", "__main__") and path.parts[-2:] not in CRIT
        for name in calls(path)
        if name in ("print", "sys.exit", "exit", "sys.stdout.write", "sys.stderr.write")
    ]
    assert not guilty


def test_every_action_has_a_module_and_nothing_imports_one() -> None:
    """`cli` imports the one that is asked for, by its name; so does the service, but for two whose results it tells."""
    names = {path.stem for path in modules("pycriu/actions")} - {"__init__"}
    assert names == {name.replace("-", "_") for name in arguments.ACTIONS}
    guilty = [
        (str(path.relative_to(ROOT)), name)
        for path in modules("pycriu")
        if path != ROOT / "pycriu/service/requests.py"
        for name, _ in imports(path)
        if name.startswith("pycriu.actions.") and name.split(".")[2] in names
    ]
    assert not guilty


def test_nobody_catches_everything_and_goes_on() -> None:
    """`except BaseException` that does not raise again, `except Exception`, and bare `except` hide what went wrong."""
    guilty = []
    for path in modules("pycriu"):
        if str(path.relative_to(ROOT)) in MAY_CATCH_ALL:
            continue
        for node in ast.walk(parsed(path)):
            if not isinstance(node, ast.ExceptHandler):
                continue
            broad = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
            raises = any(isinstance(inner, ast.Raise) and inner.exc is None for inner in node.body)
            if broad and not raises:
                guilty.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not guilty


def test_every_file_names_its_licence_and_says_what_it_is() -> None:
    for package in ("pycriu", "layer"):
        for path in modules(package):
            text = path.read_text()
            lines = [line for line in text.splitlines() if not line.startswith("#!")]
            assert lines[0] == "# SPDX-License-Identifier: GPL-2.0-only", path
            assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"
