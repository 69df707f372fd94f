# SPDX-License-Identifier: GPL-2.0-only
"""Which starts of a program are the same: the key, known before anything runs, and the manifest, known afterwards.

The key has the interpreter and its options, the script, the part of the environment that decides what is imported or
how libraries set themselves up, the user with groups and capabilities, the kernel and this boot of the machine. The
manifest has size and time of every file that was imported, of the interpreter, of its virtual environment, and of the
directories in which distributions are installed; of directories with sources of one's own, and of packages there, the
names that could be imported. Files that a program reads while it imports are its own business: `key=` and `--key` are
for such.
"""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

_PREFIXES = (
    "PYTHON", "LD_", "LC_", "MALLOC_", "GLIBC_TUNABLES", "VIRTUAL_ENV", "CONDA_PREFIX", "DJANGO_",
    "OMP_", "KMP_", "GOMP_", "MKL_", "OPENBLAS_", "GOTO_", "BLIS_", "TBB_", "RAYON_", "DNNL_", "ONEDNN_", "CUDA_",
    "NPY_", "NUMEXPR_", "NUMBA_", "ARROW_", "POLARS_", "TORCH", "PYTORCH_", "ATEN_", "TF_", "XLA_", "JAX_", "HF_",
)  # fmt: skip
_NAMES = ("LANG", "LANGUAGE", "TZ", "HOME", "PYCRIU_HOOKS_SIGNAL")
_RIGHTS = ("Uid:", "Gid:", "Groups:", "Cap", "NoNewPrivs:", "Seccomp:")  # of /proc/self/status
_WITH_VALUE = ("-W", "-X", "--check-hash-based-pycs")
_NOT_OURS = set("cihVm?")  # letters of options after which no script is run, or not only that
_VERSIONS = set("0123456789.dt")
_INSTALLED = ("site-packages", "dist-packages")
_LIBRARY = (f"{sys.base_prefix}/lib", f"{sys.base_exec_prefix}/lib")
_VERSION = "pycriu-snapshot 2"


class Command:
    """A command line of Python's: interpreter, its options, what it runs (a path, or a module), arguments."""

    __slots__ = ("arguments", "module", "options", "python", "target")

    def __init__(self, python: str, options: list[str], target: str, arguments: list[str], *, module: bool) -> None:
        self.python, self.options, self.target, self.arguments = python, options, target, arguments
        self.module = module  # behind -m


def parsed(words: list[str], path: str | None = None) -> Command | None:
    """The command, None where it is none that runs a script or module; `path` is what to look for the program in."""
    python = found(words[0], path)
    rest, options = list(words[1:]), []
    if python is None or not _is_python(os.path.basename(python)):
        return None
    while rest and rest[0].startswith("-") and rest[0] not in ("-", "-m"):
        word = rest.pop(0)
        if word in ("--version", "--help") or not _NOT_OURS.isdisjoint(_letters(word)):
            return None
        options.append(word)
        if word in _WITH_VALUE and rest:
            options.append(rest.pop(0))
    module = rest[:1] == ["-m"]
    if module:
        rest.pop(0)
    if not rest or rest[0] == "-":
        return None
    return Command(python, options, rest[0], rest[1:], module=module)


def _is_python(name: str) -> bool:
    """python, python3.13t, pypy3; but not python3-config."""
    version = name.removeprefix("python") if name.startswith("python") else name.removeprefix("pypy")
    return version != name and _VERSIONS.issuperset(version)


def _letters(word: str) -> str:
    return "" if word.startswith(("--", "-W", "-X")) else word


def found(program: str, path: str | None = None) -> str | None:
    """Where a program is, as a shell would find it."""
    if "/" in program:
        return os.path.abspath(program)
    for folder in (path if path is not None else os.environ.get("PATH", os.defpath)).split(os.pathsep):
        candidate = os.path.join(folder, program)
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return os.path.abspath(candidate)
    return None


def key(command: Command, more: object, environment: Mapping[str, str]) -> str:
    """A name for all starts that are like this one; `more` is what the program adds."""
    system = os.uname()
    facts = [
        _VERSION, command.python, *command.options, "-m" if command.module else "",
        command.target if command.module else os.path.abspath(command.target),
        repr(more), *_rights(), system.release, system.version, system.machine, *machine(),
        *(f"{name}={value}" for name, value in sorted(environment.items()) if _matters(name)),
    ]  # fmt: skip
    return digest(facts)


def _matters(name: str) -> bool:
    return name in _NAMES or name.startswith(_PREFIXES)


def _rights() -> list[str]:
    """What this process is allowed: a restored one has that of the first start."""
    with open("/proc/self/status") as file:
        return [line for line in file if line.startswith(_RIGHTS)]


def machine() -> tuple[str, str]:
    """This machine, and its boot, as words."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return digest([os.uname().nodename]), file.read().strip()
    except FileNotFoundError:
        return digest([os.uname().nodename]), "-"


def digest(words: Iterable[str]) -> str:
    """Of a list of words, as 32 hexadecimal digits."""
    from _blake2 import blake2b  # what hashlib would take, without the rest of it

    return str(blake2b("\0".join(words).encode(errors="surrogateescape"), digest_size=16).hexdigest())


# ------------------------------------------------------------------------------------------------------------ manifest


def manifest(command: Command) -> str:
    """What this process has imported, and where it has looked for it."""
    files = {command.python, os.path.realpath(command.python)}
    files.update(os.path.join(folder, "pyvenv.cfg") for folder in (os.path.dirname(command.python), sys.prefix))
    if not command.module and not os.path.isdir(command.target):  # of one Python writes its bytecode into, see below
        files.add(os.path.abspath(command.target))
    folders = dict.fromkeys(os.path.abspath(one) for one in sys.path)
    for module in list(sys.modules.values()):
        known = _attributes(module)
        if isinstance(file := known.get("__file__"), str) and "\0" not in file:
            files.add(file)
            if "__path__" in known and not _is_installed(file):
                folders[os.path.abspath(os.path.dirname(file))] = None
    lines = [_VERSION, *(_line(os.path.abspath(file)) for file in sorted(files))]
    for folder in folders:
        lines.append(_folder_line(folder))
        if folder.endswith(_INSTALLED) and os.path.isdir(folder):
            lines += [_line(os.path.join(folder, name)) for name in sorted(os.listdir(folder)) if name.endswith(".pth")]
    return "\0".join(lines)


def _attributes(module: object) -> dict[str, Any]:
    """Those that are there: to ask for one makes some modules import more, or fail."""
    try:
        found: dict[str, Any] = object.__getattribute__(module, "__dict__")
    except AttributeError:
        return {}
    return found


def _is_installed(path: str) -> bool:
    return any(f"/{name}/" in path for name in _INSTALLED) or path.startswith(_LIBRARY)


def is_older(content: str, moment: int) -> bool:
    """Whether no file of a manifest has been changed since a moment, in ns: what has been imported is what is there."""
    now = time.time_ns()
    changed = (line.partition(" ")[0] for line in content.split("\0")[1:])
    return not any(moment < int(one) <= now for one in changed if one.isdecimal())


def holds(content: str) -> bool:
    """Whether everything is as the manifest says."""
    version, *lines = content.split("\0")
    return version == _VERSION and all(_is_so(line) for line in lines)


def _is_so(line: str) -> bool:
    first, _, rest = line.partition(" ")
    second, _, path = rest.partition(" ")
    if first != "names":
        return line == _line(path)
    changed, _, names = second.partition("/")
    return changed == _changed(path) != "-" or names == _names(path)


def _line(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:
        return f"- - {path}"
    return f"{status.st_mtime_ns} {status.st_size} {path}"


def _folder_line(folder: str) -> str:
    """Of one that holds distributions, or the library, its time: whatever is added or taken away changes that. Of
    others, the names: programs write into their directories what they like.
    """
    if folder.endswith(_INSTALLED) or folder.startswith(_LIBRARY):
        return _line(folder)
    return f"names {_changed(folder)}/{_names(folder)} {folder}"


def _changed(folder: str) -> str:
    return _line(folder).partition(" ")[0]


def _names(folder: str) -> str:
    try:
        with os.scandir(folder) as entries:
            return digest(sorted(one.name for one in entries if _can_be_imported(one)))
    except OSError:
        return "-"


def _can_be_imported(entry: os.DirEntry[str]) -> bool:
    return entry.name.endswith((".py", ".so")) or os.path.exists(os.path.join(entry.path, "__init__.py"))
