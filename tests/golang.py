# SPDX-License-Identifier: GPL-2.0-only
"""Programs in Go, compiled by the host's compiler or the one that `tests.debian` has fetched, and kept in the cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from tests import debian


def built(source: Path, folder: Path, **environment: str) -> Path | None:
    """The program in a folder of the cache; None where there is no compiler. `environment` is the compiler's."""
    compiler = shutil.which("go", path=debian.environment().get("PATH"))
    key = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    target = folder / f"{source.stem}-{key}"
    if compiler is None or target.exists():
        return target if target.exists() else None
    made, cache = f"{target}.new-{os.getpid()}", f"{target}.cache-{os.getpid()}"
    surroundings = {"GOCACHE": cache, "GO111MODULE": "off", "CGO_ENABLED": "0", **environment}
    command = [compiler, "build", "-ldflags=-s -w", "-o", made, str(source)]
    subprocess.run(command, check=True, env=os.environ | surroundings, capture_output=True)
    Path(made).rename(target)
    shutil.rmtree(cache)
    return target
