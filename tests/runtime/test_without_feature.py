# SPDX-License-Identifier: GPL-2.0-only
"""An image whose kernel was configured without feature/criu: everybody concerned says so, and the audit's fix mends it.

The image comes from the same layer with feature/pycriu alone, built beside the one under test (BUILD-plain). The fix is
applied by building once more with the fragment that the audit emits; the first time that compiles a kernel.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from layer.errors import InputError
from layer.target import bootfile, guest

TOP = Path(__file__).resolve().parent.parent.parent
UNMET, GOOD = 1, 0  # exit statuses of the audit and of check
BUILD_LIMIT = 3600.0  # seconds for a kernel on a slow machine
Boots = Callable[[bootfile.Boot, guest.Options], AbstractContextManager[guest.Guest]]


def layer(*words: str | Path, cwd: Path, limit: float = 300) -> subprocess.CompletedProcess[str]:
    """The layer's own command line, as a user has it."""
    environment = {**os.environ, "PYTHONPATH": str(TOP)}
    line = [sys.executable, "-m", *map(str, words)]
    return subprocess.run(
        line,
        cwd=cwd,
        env=environment,
        text=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=limit,
        check=False,
    )


def audit(image: bootfile.Boot, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Audit the image's kernel configuration against the feature. Run beside it: its path is in the fix's text."""
    asked = ("--machine", image.machine.name, "--template", "feature/criu")
    return layer("layer", "audit", image.kernel_config.name, *asked, *words, cwd=image.kernel_config.parent)


def required_symbols(report: str) -> set[str]:
    """The required symbols that a report in JSON calls unmet."""
    findings = json.loads(report)["findings"]
    return {finding["symbol"] for finding in findings if finding["required"] and finding["verdict"] != "met"}


def symbols(text: str) -> set[str]:
    """The kernel options that a text names."""
    return set(re.findall(r"CONFIG_([A-Z0-9_]+)", text))


@pytest.fixture(scope="module")
def plain(boot: bootfile.Boot, unless_possible: Callable[[str], None]) -> bootfile.Boot:
    """The image without the feature."""
    folder = boot.file.parent.parent
    try:
        return bootfile.load(folder.with_name(f"{folder.name}-plain") / "images" / "boot.json")
    except InputError as error:
        unless_possible(f"{error}\n  with --template feature/pycriu")
        raise


@dataclass(frozen=True, slots=True)
class Fixed:
    """The image built with the fix, and the fragment."""

    boot: bootfile.Boot
    fragment: Path


@pytest.fixture(scope="module")
def fixed(plain: bootfile.Boot) -> Fixed:
    """The same image, with the audit's fix on top."""
    folder = plain.file.parent.parent
    folder = folder.with_name(f"{folder.name}-fixed")
    folder.mkdir(exist_ok=True)
    fragment = folder / "fix.cfg"
    audit(plain, "--emit", fragment)
    templates = ",".join(name for name in plain.templates if name != "default")
    configure = layer(
        *("layer", "configure", "--template", templates, "--machine", plain.machine.name),
        *("--kernel-fragment", fragment, "--builddir", folder),
        cwd=TOP,
    )
    assert configure.returncode == 0, configure.stderr
    built = layer("ninja", "-C", folder, "image", cwd=TOP, limit=BUILD_LIMIT)
    assert built.returncode == 0, (built.stdout + built.stderr)[-3000:]
    return Fixed(bootfile.load(folder / "images" / "boot.json"), fragment)


def test_check_in_the_guest_names_each_missing_option(
    plain: bootfile.Boot, options: guest.Options, boots: Boots
) -> None:
    with boots(plain, replace(options, logs=options.logs / "plain", keep=False)) as target:
        result = target.shell.run("pycriu check", check=False, timeout=60)
        everything = target.shell.run("pycriu check --all", check=False, timeout=60)
        refused = target.shell.run("mkdir /tmp/c; sleep 60 & pycriu dump -D /tmp/c -t $!", check=False, timeout=60)
    assert result.status == UNMET
    assert {"CHECKPOINT_RESTORE", "KCMP", "PROC_PAGE_MONITOR"} <= symbols(result.out)
    # --all probes what only some programs need, too; the feature asks for all of it.
    missing = required_symbols(audit(plain, "--format", "json").stdout)
    assert missing <= symbols(everything.out), f"check does not name {sorted(missing - symbols(everything.out))}"
    assert refused.status == 1, "a dump is refused where it cannot be done"


def test_the_audit_of_that_kernel_fails(plain: bootfile.Boot) -> None:
    result = audit(plain)
    assert result.returncode == UNMET, result.stderr
    assert "CONFIG_CHECKPOINT_RESTORE" in result.stdout


def test_the_audit_of_the_kernel_file_itself_says_the_same(plain: bootfile.Boot) -> None:
    asked = ("--machine", plain.machine.name, "--template", "feature/criu")
    result = layer("layer", "audit", plain.kernel.name, *asked, "--format", "json", cwd=plain.kernel.parent)
    assert result.returncode == UNMET, result.stderr
    assert required_symbols(result.stdout) == required_symbols(audit(plain, "--format", "json").stdout)


def test_the_emitted_fix_makes_the_audit_pass(fixed: Fixed) -> None:
    result = audit(fixed.boot)
    assert result.returncode == GOOD, result.stdout


def test_the_emitted_fix_makes_check_pass(fixed: Fixed, options: guest.Options, boots: Boots) -> None:
    with boots(fixed.boot, replace(options, logs=options.logs / "fixed", keep=False)) as target:
        result = target.shell.run("pycriu check", check=False, timeout=60)
    assert result.status == GOOD, result.out
    assert "CONFIG_" not in result.out
