#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Run Python with the packages that the layer needs: `launch.py [--dev] -m layer …`.

The packages live in a virtual environment in the cache, named by what pyproject.toml asks for, so that every checkout
with the same needs shares one. Runs on a bare python3: only the standard library is used here.
"""

import codecs
import fcntl
import hashlib
import locale
import os
import subprocess
import sys
import time
import tomllib
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent.parent


def main() -> None:
    """Make the environment if need be, and become its Python."""
    words = sys.argv[1:]
    extras = ["layer"]
    if words[:1] == ["--dev"]:
        extras.append("dev")
        words = words[1:]
    needs = requirements(tomllib.loads((TOP / "pyproject.toml").read_text()), extras)
    try:
        python = environment(cache_root(), needs)
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"error: {' '.join(map(str, error.cmd))}: exit status {error.returncode}") from error
    os.execve(python, [str(python), *words], {**os.environ, **changes()})


def changes() -> dict[str, str]:
    """What that Python, and whatever it starts, finds in its environment: wherever that is, and whatever the locale."""
    found = {"PYTHONPATH": os.pathsep.join(filter(None, [str(TOP), os.environ.get("PYTHONPATH")]))}
    if os.environ.get("LAYER_CACHE"):
        found["LAYER_CACHE"] = str(cache_root())  # ninja changes the folder
    if codecs.lookup(locale.getencoding()).name != "utf-8":
        found["PYTHONUTF8"] = "1"  # the files here are written so, and what we say is
    return found


def requirements(project: dict[str, dict[str, object]], extras: list[str]) -> list[str]:
    """What the project and its extras ask for."""
    described = project["project"]
    optional = described["optional-dependencies"]
    assert isinstance(described["dependencies"], list) and isinstance(optional, dict)
    return [*described["dependencies"], *(need for extra in extras for need in optional[extra])]


def environment(root: Path, needs: list[str]) -> Path:
    """The Python of a virtual environment that has `needs`."""
    key = hashlib.sha256("\n".join([sys.version, sys.executable, *sorted(needs)]).encode()).hexdigest()[:16]
    home = root / "venvs" / key
    complete = home / "complete"
    home.mkdir(parents=True, exist_ok=True)
    with (root / "venvs" / f"{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            print(f"making a Python environment in {home}", file=sys.stderr)
            have_venv()
            subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
            pip = [str(home / "bin/python"), "-m", "pip", "--disable-pip-version-check", "install", "-qq", *needs]
            subprocess.run(pip, check=True, stdin=subprocess.DEVNULL)
            complete.touch()
    return home / "bin/python"


def have_venv() -> None:
    """Debian ships the venv module apart from Python; without it `python -m venv` cannot bring pip."""
    probe = [sys.executable, "-c", "import ensurepip"]
    if subprocess.run(probe, stderr=subprocess.DEVNULL, check=False).returncode == 0:
        return
    install = [
        "apt-get",
        "install",
        "--yes",
        "--no-install-recommends",
        "-o",
        "DPkg::Lock::Timeout=300",
        "python3-venv",
    ]
    if os.geteuid() != 0:
        raise SystemExit(f"error: the Debian package python3-venv is missing; run once: sudo {' '.join(install)}")
    print("installing python3-venv", file=sys.stderr)
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for pause in (10, 30, 0):  # as in layer.cli.hosting: somebody else may be updating apt's lists
        subprocess.run(["apt-get", "update"], env=env, stdout=subprocess.DEVNULL, check=False)
        done = subprocess.run(install, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)
        if done.returncode == 0:
            return
        time.sleep(pause)
    done.check_returncode()


def cache_root() -> Path:
    """The same folder as layer.cache.default(), which cannot be imported here: it is for the Python we become."""
    named = os.environ.get("LAYER_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(named).absolute() if named else Path(base) / "pycriu-layer"


if __name__ == "__main__":
    main()
