# SPDX-License-Identifier: GPL-2.0-only
"""A machine with sudo, for tests: this one in a mount namespace of its own, with users and files of its own.

sudo is the host's, or that of Debian's package, which `tests.debian` unpacks into the cache.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import debian

USERS = {"alice": 47110, "bob": 47111}  # each with a group of that name and number
# What is new in these covers what the host has, and is gone with the namespace.
_COVERED = "etc usr/libexec usr/local/bin usr/local/sbin var/lib run"
_SETUP = f"""
mount -t tmpfs -o mode=755 none "$1"
mkdir "$1/package"
if [ -n "$2" ]; then
    mount --bind "$2" "$1/package"
fi
for place in {_COVERED}; do
    mkdir -p "$1/upper/$place" "$1/aside/$place"
    below=/$place
    if [ -d "$1/package/$place" ]; then
        below=$1/package/$place:/$place
    fi
    mount -t overlay -o "lowerdir=$below,upperdir=$1/upper/$place,workdir=$1/aside/$place" none "/$place"
done
echo ready
read end || exit 0
"""
_PAM = "".join(f"{kind} required pam_permit.so\n" for kind in ("auth", "account", "session"))


class NotHadError(Exception):
    """There is no such machine; the text says why."""


class Machine:
    """Its files as they are seen from outside, and its commands."""

    def __init__(self, holder: int, programs: str) -> None:
        self._holder, self.programs = holder, programs
        self.root = Path(f"/proc/{holder}/root")
        for name, number in USERS.items():
            self._add("etc/passwd", f"{name}:x:{number}:{number}::/nonexistent:/bin/sh\n")
            self._add("etc/group", f"{name}:x:{number}:\n")
        self.file("etc/pam.d/sudo", _PAM)
        self.file("etc/sudo.conf", "Set disable_coredump false\n")  # root here need not have CAP_SYS_RESOURCE

    def file(self, path: str, text: str, mode: int = 0o644) -> None:
        """A file of root's."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def group(self, name: str, *members: str) -> None:
        """A new group."""
        self._add("etc/group", f"{name}:x:{47000 + len(name)}:{','.join(members)}\n")

    def command(self, user: str, folder: Path, *words: str) -> list[str]:
        """What somebody types in a folder, who has no rights unless it is root; `sudo` and `visudo` are found."""
        if words[0] in ("sudo", "visudo"):
            words = (f"{self.programs}/{'bin' if words[0] == 'sudo' else 'sbin'}/{words[0]}", *words[1:])
        who = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--inh-caps=-all"]
        there = ["nsenter", f"--target={self._holder}", "--mount", f"--wdns={folder}"]
        return [*there, *(() if user == "root" else who), *words]

    def _add(self, path: str, text: str) -> None:
        with (self.root / path).open("a") as file:
            file.write(text)


@contextmanager
def machine(place: Path) -> Iterator[Machine]:
    """One that lasts as long as the scope; `place` is an empty directory. NotHadError."""
    package = debian.cache() / "sudo/root"
    if not debian.fetched(package.parent):
        if shutil.which("sudo") is None:
            raise NotHadError("there is no sudo: python3 -m tests.debian fetches it")
        package = Path()
    holder = subprocess.Popen(
        ["unshare", "--mount", "sh", "-ec", _SETUP, "sh", place, package if package.is_absolute() else ""],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout is not None
    assert holder.stderr is not None
    try:
        if holder.stdout.readline() != "ready\n":
            raise NotHadError(f"no mount namespace with overlays: {holder.stderr.read().strip()}")
        yield Machine(holder.pid, f"{place}/package/usr" if package.is_absolute() else "/usr")
    finally:
        holder.communicate()
