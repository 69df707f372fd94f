# SPDX-License-Identifier: GPL-2.0-only
"""Every victim between CRIU and pycriu: one dumps, the other restores, the victim judges. See docs/interop.md.

    python3 -m tests.peer                Debian's CRIU of each release into the cache
    python3 -m tests.interop --write     try all of them with all victims, and write the page (some minutes)

Where a trip between the two does not work, CRIU is tried with images of its own. Only where that does not work either
is it CRIU's limit; else it is a defect of pycriu. As CRIU now and then fails at what it can do, the word is given only
when each has been tried twice.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pycriu.crit.source import open_source
from pycriu.errors import ImageError
from pycriu.kernel import nftables
from tests import manifest, peer, rules

PAGE = manifest.TOP / "docs" / "interop.md"
VICTIMS = {entry.name: entry for entry in manifest.entries()}
SECONDS = 30.0
TRIES = 2
PR_SET_CHILD_SUBREAPER = 36
YES, NO, OURS, NONE = "yes", "no", "**defect**", "–"


class WrongError(Exception):
    """Something did not work; the text says what, and whose fault it is."""


@dataclass(frozen=True, slots=True)
class Tool:
    """Something that dumps and restores."""

    name: str
    command: tuple[str, ...]
    to_restore: tuple[str, ...] = ()  # options beside the victim's

    def dump(self, folder: Path, pid: int, *options: str) -> None:
        """End the tree at `pid`."""
        self._run(folder, "dump", "-t", str(pid), *options)

    def restore(self, folder: Path, *options: str) -> None:
        """Bring it back."""
        self._run(folder, "restore", "-d", *self.to_restore, *options)

    def _run(self, folder: Path, action: str, *words: str) -> None:
        log = f"{action}.log"
        command = [*self.command, action, "-D", "images", "-v4", "-o", log, *words]
        try:
            done = subprocess.run(
                command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise WrongError(f"{self.name} {action}: not within {SECONDS:.0f} s") from None
        if done.returncode:
            raise WrongError(f"{self.name} {action}: {_errors(folder / 'images' / log)}")


def _errors(log: Path) -> str:
    """The first line of a log that tells of an error."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    # Without CAP_SYS_RESOURCE CRIU begins with a complaint of that, which does not stop it.
    errors = [
        line.partition("Error ")[2] for line in lines if "Error (" in line and "RLIMIT_NOFILE for self" not in line
    ]
    return errors[0].strip() if errors else "it does not say why"


PYCRIU = Tool("pycriu", (sys.executable, "-m", "pycriu"))


def fetched(suite: str) -> Tool:
    """Debian's CRIU of a suite, as far as the cache has it; NoPeerError where it has not, or cannot work here."""
    found = peer.working(peer.of_suite(suite))
    return Tool(f"CRIU {found.version}", found.command)


def trip(
    folder: Path, name: str, dumper: Tool, restorer: Tool, between: Callable[[Path], object] = lambda images: None
) -> str:
    """What the victim says in the end: PASS or FAIL and why, SKIP and why; WrongError when it does not come so far.

    `between` is done with the images before the restore.
    """
    (folder / "images").mkdir()
    options = (*VICTIMS[name].options, "--network-lock", _lock(name))
    try:
        pid = started(folder, name)
        if pid is None:
            return _last(folder)
        dumper.dump(folder, pid, *options)
        _until(lambda: not _session(pid), "all of its session is gone", 20)
        between(folder / "images")
        restorer.restore(folder, *options)
        (folder / "go").touch()
        _until(lambda: not _session(pid), f"a verdict, but {_last(folder)}", SECONDS)
        return _last(folder)
    finally:
        clean_up()
        _let_go(folder / "images")
        if (folder / "undo").exists():
            subprocess.run(["sh", "undo"], cwd=folder, check=False)


def _lock(name: str) -> str:
    """How connections are held. Whose packets are not held sends on its own while it is dumped, and is lost at times.

    A socket that waits for room at its peer asks for it, with data, whenever its timer says so.
    """
    return "nftables" if "--tcp-established" in VICTIMS[name].options and not nftables.available() else "skip"


def _let_go(images: Path) -> None:
    """What a trip that did not come to its end has left of that: by CRIU, the name is cut after 21 characters."""
    with contextlib.suppress(ImageError), open_source(str(images)) as source:
        identity = source.inventory().dump_criu_run_id
        if identity:
            rules.let_go(rules.tables(f"CRIU-{identity[:21]}"))


def started(folder: Path, name: str) -> int | None:
    """Its PID, when it is ready; None when it will not be."""
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-u", str(manifest.FOLDER / f"{name}.py")], cwd=folder, stdin=subprocess.DEVNULL,
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    _until(lambda: _last(folder) == "READY" or process.poll() is not None, "READY", SECONDS)
    return process.pid if process.returncode is None else None


def _last(folder: Path) -> str:
    lines = (folder / "log").read_text(errors="replace").splitlines()
    return lines[-1] if lines else ""


def _until(condition: Callable[[], bool], what: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise WrongError(f"waited {seconds:.0f} s in vain: {what}")
        time.sleep(0.005)


def _session(session: int) -> list[int]:
    """Who is left of a session, once those who have ended are reaped: PID 1 may not do so, and PIDs are needed."""
    _reap()
    left = []
    for pid in _below(os.getpid()):
        with contextlib.suppress(ProcessLookupError):
            if pid == session or os.getsid(pid) == session:
                left.append(pid)
    return left


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _below(pid: int) -> Iterator[int]:
    """Everybody below a process."""
    for child in _children(pid):
        yield child
        yield from _below(child)


def _children(pid: int) -> list[int]:
    """Those of all its threads; of a thread that ends just now they are another's."""
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for tid in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found += map(int, Path(f"/proc/{pid}/task/{tid}/children").read_text().split())
    return found


def clean_up() -> None:
    """Nobody is left."""
    end = time.monotonic() + 20
    while pids := list(_below(os.getpid())):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _reap()
        if time.monotonic() > end:
            raise WrongError(f"tasks that cannot be killed: {pids}")
        time.sleep(0.001)


@dataclass(frozen=True, slots=True)
class Cell:
    """One victim, one CRIU, one direction: YES, NO for a limit of CRIU, OURS, or NONE where it cannot be tried; why.

    With YES the reason is that of a first try, which failed.
    """

    verdict: str
    why: str = ""


def cell(name: str, criu: Tool, *, from_criu: bool) -> Cell:
    """Try it; and where it does not work, CRIU with images of its own."""
    ways = (criu, PYCRIU) if from_criu else (PYCRIU, criu)
    return judged(lambda: tried(name, *ways), lambda: tried(name, criu, criu))


def judged(between: Callable[[], str], own: Callable[[], str]) -> Cell:
    """What is to be said of trips between the two, and of CRIU's own: each is tried again before it is a defect."""
    reason = ""
    for _ in range(TRIES):
        said = between()
        if said == "PASS":
            return Cell(YES, reason)
        if said.startswith("SKIP"):
            return Cell(NONE, said[5:])
        reason = reason or said
        limit = own()
        if limit != "PASS":
            return Cell(NO, limit)
    return Cell(OURS, reason)


def tried(name: str, dumper: Tool, restorer: Tool, between: Callable[[Path], object] = lambda images: None) -> str:
    """The same in a folder that is gone afterwards, and what went wrong in words."""
    with tempfile.TemporaryDirectory(prefix="interop-") as folder:
        try:
            return trip(Path(folder), name, dumper, restorer, between)
        except WrongError as error:
            return str(error)


def become_subreaper() -> None:
    """Orphans come to us."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


HEAD = """# Between CRIU and pycriu

Each victim of `tests/victims`, dumped by one and restored by the other, judges whether it has what it had. "no" is a
limit of CRIU: it fails with images of its own, too, by the words of the last column (of the newest version). Most
victims hold the plain and the exotic of their resource, so one detail that CRIU lacks makes a "no"; what both can do
of such a resource is tried piece by piece in `tests/host/test_peer*.py`. Made by `python3 -m tests.interop --write`
on Linux {linux}, {machine}; tried again by `tests/host/test_interop.py`. CRIU 3.17, 4.1.1 and 4.2.1 in guests, which
some victims try (`tests/runtime/test_criu.py`): both ways on both CPUs. On aarch64 with pointer authentication, CRIU
4.1 as Debian builds it hangs with any image, its own included; 4.2 does not.

"""


def page(rows: dict[str, list[Cell]], versions: list[str]) -> str:
    """The page, of a row of cells for each victim: for each version from CRIU, then to CRIU."""
    ways = [f"{version} {way}" for version in versions for way in ("→ pycriu", "← pycriu")]
    lines = ["| victim | " + " | ".join(ways) + " | what CRIU says |", "|---" * (len(ways) + 2) + "|"]
    for name, cells in rows.items():
        why = next((one.why for one in reversed(cells) if one.why and one.verdict != YES), "")
        lines.append("| " + " | ".join([f"`{name}`", *(one.verdict for one in cells), plain(why)]) + " |")
    count = sum(one.verdict == YES for cells in rows.values() for one in cells)
    total = sum(one.verdict != NONE for cells in rows.values() for one in cells)
    system = os.uname()
    head = HEAD.format(linux=".".join(system.release.split(".")[:2]), machine=system.machine)
    return head + "\n".join(lines) + f"\n\n{count} of {total}.\n"


def plain(why: str) -> str:
    """A reason without what differs from run to run, and not too long."""
    why = re.sub(r"/\S*/interop-\w+", "…", why)
    why = re.sub(r"^CRIU [\d.]+ (\w+): (?:\(\S+:\d+\): )?", r"\1: ", why)
    why = re.sub(r"^FAIL ([^:\[({]*).*", r"lost: \1", why)
    why = re.sub(r"\b(?:0x)?[0-9a-f]*\d[0-9a-f]{4,}\b|\b\d{3,}\b", "N", why)
    return why.strip(" :")[:110].replace("|", "\\|")


def held(text: str) -> dict[tuple[str, str, bool], str]:
    """What a page says: victim, version, whether from CRIU → verdict."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    ways = [(way.split()[0] + " " + way.split()[1], "→" in way) for way in lines[0][1:-1]]
    return {
        (row[0].strip("`"), version, from_criu): verdict
        for row in lines[1:]
        for (version, from_criu), verdict in zip(ways, row[1:], strict=False)
    }


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    parser.add_argument("victims", nargs="*", default=list(VICTIMS))
    asked = parser.parse_args()
    become_subreaper()
    tools = [fetched(suite) for suite in peer.SUITES]
    rows: dict[str, list[Cell]] = {}
    for name in asked.victims:
        rows[name] = [cell(name, criu, from_criu=way) for criu in tools for way in (True, False)]
        told = " ".join(one.verdict for one in rows[name])
        sys.stdout.write(f"{name}: {told}  {plain(rows[name][-1].why)}\n")
        for one in rows[name]:
            if one.verdict == YES and one.why:
                sys.stdout.write(f"  at a second try; the first: {one.why}\n")
        sys.stdout.flush()
    if asked.write:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page(rows, [tool.name for tool in tools]))
    return int(any(one.verdict == OURS for cells in rows.values() for one in cells))


if __name__ == "__main__":
    sys.exit(main())
