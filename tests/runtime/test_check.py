# SPDX-License-Identifier: GPL-2.0-only
"""`pycriu check` and the dry runs on the target: whatever is missing is missing for want of a kernel option."""

from __future__ import annotations

import json
from typing import Any

from layer.target import guest

# Extra features that depend on the emulated machine or on what is installed, not on the kernel's options alone.
NOT_OF_OPTIONS = {"cap_sys_resource"}


def told(target: guest.Guest, words: str) -> dict[str, Any]:
    """A report in JSON."""
    found: dict[str, Any] = json.loads(target.shell.run(f"{words} --json", check=False, timeout=120).out)
    return found


def test_it_looks_good(target: guest.Guest) -> None:
    result = target.shell.run("pycriu check", check=False, timeout=60)
    assert (result.status, result.out.strip()) == (0, "Looks good.")


def test_what_is_missing_lacks_an_option(target: guest.Guest) -> None:
    """Every probe has been tried on this machine; none says no for a reason of its own."""
    report = told(target, "pycriu check --all")
    assert report["configuration"] == "/proc/config.gz"
    for feature in report["features"]:
        if feature["present"] or not feature["possible"] or feature["name"] in NOT_OF_OPTIONS:
            continue
        wanting = [one["symbol"] for one in feature["symbols"] if not one["met"]]
        newer = feature["since"] and tuple(map(int, feature["since"].split("."))) > release(report["release"])
        assert wanting or newer, f"{feature['name']}: {feature['said']}"
        assert not wanting or feature["audit"], feature["name"]


def release(text: str) -> tuple[int, int]:
    """6.12.107-x → (6, 12)."""
    major, minor, *_ = text.split(".")
    return int(major), int(minor)


def test_dry_runs_and_what_they_promise(target: guest.Guest) -> None:
    shell = target.shell
    shell.run("mkdir -p /root/dry && cd /root/dry && (setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $! >pid)")
    pid = int(shell.out("cat /root/dry/pid"))
    report = told(target, f"pycriu dump --dry-run -D /root/dry -t {pid}")
    assert report["passes"], report
    assert report["processes"] == 1
    shell.run(f"pycriu dump -D /root/dry -t {pid}", timeout=60)
    report = told(target, "pycriu restore --dry-run -D /root/dry")
    assert report["passes"], report
    shell.run("pycriu restore -d -D /root/dry", timeout=60)
    report = told(target, "pycriu restore --dry-run -D /root/dry")
    assert [one["problem"] for one in report["obstacles"]] == [f"PID {pid} is in use by sleep"]
    shell.run(f"kill {pid}")


def test_python_has_what_its_build_could_not_try(target: guest.Guest) -> None:
    """The programs of configure do not run where it builds for another machine; without them these would be missing."""
    words = "import multiprocessing, time; time.tzset(); print(multiprocessing.Semaphore(3).get_value())"
    assert target.shell.out(f"python3 -c '{words}'", timeout=60) == "3"
