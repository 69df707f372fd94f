# SPDX-License-Identifier: GPL-2.0-only
"""What we are on: the kernel's features, the filter of a container, PIDs, who reaps orphans."""

from __future__ import annotations

import os

from pycriu.check import describe, possible, probe, running_configuration
from pycriu.doctor import BAD, GOOD, NOTE, Finding, person
from pycriu.doctor.apart import probe_apart
from pycriu.errors import TraceeGone
from pycriu.kernel import procfs
from pycriu.probes.table import EXTRA, FEATURES, REQUIRED

FEW = 1 << 16  # PIDs that come round again soon
ROOMY = 1 << 22


def findings() -> list[Finding]:
    """All of it."""
    return [*seccomp(), *features(), pids(), *orphans()]


def seccomp() -> list[Finding]:
    """A filter is no fault as such: what it forbids shows in the features."""
    if not filtered():
        return []
    return [
        Finding(
            "seccomp", NOTE, "a filter is on this process, as containers have it, and on all that it starts",
            ("what it forbids shows below; docker and podman: --security-opt seccomp=unconfined takes it away",),
        )
    ]  # fmt: skip


def filtered() -> bool:
    """Whether there is one."""
    return person.status().get("Seccomp", "0") != "0"


def features() -> list[Finding]:
    """Required ones that fail are bad for root. Others may not need what fails: the trial tells."""
    if not person.capable():
        return [Finding("kernel", NOTE, "not tried: without the capability most things fail")]
    machine, configuration = os.uname().machine, running_configuration()
    chosen = [one for one in FEATURES if one.weight in (REQUIRED, EXTRA) and not one.name.startswith("cap_")]
    chosen = [one for one in chosen if possible(one, machine)]
    misses = probe_apart(tuple(chosen)) if filtered() else probe(tuple(chosen))
    required = [one for one in misses if one.feature.weight == REQUIRED]
    found = []
    if required:
        lines = [line.strip() for one in required for line in describe(one, machine, configuration)]
        state = NOTE if os.geteuid() else BAD
        found.append(Finding("kernel", state, f"{len(required)} of the things that all trees need fail", tuple(lines)))
    else:
        found.append(Finding("kernel", GOOD, f"{os.uname().release} has what every tree needs"))
    if extra := [one.feature for one in misses if one.feature.weight == EXTRA and "CRIU: " not in one.feature.purpose]:
        said = "not to be had: " + "; ".join(f"{one.name} ({one.purpose})" for one in extra)
        found.append(Finding("for some trees", NOTE, said, ("pycriu check --extra says what is missing for each",)))
    return found


def pids() -> Finding:
    """A tree comes back under its PIDs: the fewer there are, the sooner others have them."""
    with open("/proc/sys/kernel/pid_max") as file:
        limit = int(file.read())
    if limit > FEW:
        return Finding("PIDs", GOOD, f"up to {limit}")
    advice = (
        f"sysctl kernel.pid_max={ROOMY}",
        "pycriu restore --wait-pid SECONDS waits for a PID, --new-pid takes those of another namespace",
    )
    return Finding("PIDs", NOTE, f"only {limit}: those of a checkpoint are soon somebody else's", advice)


def orphans() -> list[Finding]:
    """Zombies that PID 1 leaves: each keeps its PID."""
    left = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                stat = procfs.stat(int(name))
            except (TraceeGone, PermissionError):  # of others, where /proc hides them
                continue
            if stat.state == "Z" and stat.ppid == 1:
                left.append(stat.pid)
    if not left:
        return []
    zombies = "a zombie" if len(left) == 1 else f"{len(left)} zombies, such as"
    said = f"PID 1{_name_of_first()} does not reap {zombies} {left[0]}"
    return [Finding("orphans", NOTE, said, ("start the container with an init: docker run --init",))]


def _name_of_first() -> str:
    """Of PID 1, in brackets; nothing where /proc hides it."""
    try:
        return f" ({procfs.stat(1).comm})"
    except (TraceeGone, PermissionError):
        return ""
