#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Time from the start of a program to its first useful line: cold, warm, and from a fork server.

The programs lie in tests/warm: numpy and pandas, Django, PyTorch. A cold start is Python's; a warm one restores a
checkpoint (`pycriu snapshot run`, or `pycriu.warm_start` around the imports with which the program begins); the fork
server has done these imports and forks for a client that is a fresh Python, too.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from tests.warm.loads import LOADS, Load  # noqa: E402

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

SERVER = """
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind("socket")
listener.listen(16)
print("ready", flush=True)
while True:
    client, _ = listener.accept()
    if not os.fork():
        _, fds, _, _ = socket.recv_fds(client, 1, 3)
        for number, fd in enumerate(fds):
            os.dup2(fd, number)
        exec(compile(open("body.py").read(), "body.py", "exec"))
        sys.stdout.flush()
        client.send(b"0")
        os._exit(0)
    client.close()
"""
CLIENT = """
import socket
server = socket.socket(socket.AF_UNIX)
server.connect("socket")
socket.send_fds(server, [b"x"], [0, 1, 2])
server.recv(1)
"""


class Runner:
    """Starts the programs of a load in a directory of their own."""

    def __init__(self, load: Load, folder: Path) -> None:
        import google.protobuf

        self._says, self._folder = load.says, folder
        imports, body = load.split()
        codes = {"plain": load.plain(), "warm": load.warm(), "server": imports + SERVER, "client": CLIENT, "body": body}
        for name, code in codes.items():
            (folder / f"{name}.py").write_text(code)
        own = [str(ROOT), str(Path(google.protobuf.__file__).parents[2])]
        self._environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*load.path, *own])}
        self._environment |= {"PYCRIU_SNAPSHOTS": str(folder / "kept"), "PYTHONDONTWRITEBYTECODE": ""}
        pycriu = f"import sys; sys.path += {own!r}; from pycriu.cli import command; command()"
        self.ways = {
            "cold": ["plain.py"],
            "snapshot run": ["-IS", "-c", pycriu, "snapshot", "run", "--", sys.executable, "plain.py"],
            "warm_start": ["warm.py"],
            "fork server": ["client.py"],
        }

    def _start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *words], cwd=self._folder, env=self._environment, text=True, close_fds=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        )  # fmt: skip

    @contextlib.contextmanager
    def server(self) -> Iterator[None]:
        """While the fork server runs."""
        with self._start("server.py") as server:
            assert server.stdout is not None
            server.stdout.readline()
            try:
                yield
            finally:
                server.kill()

    def first_line(self, way: str) -> float:
        """Milliseconds until it has written its first line; it must be the right one."""
        begin = time.perf_counter()
        with self._start(*self.ways[way]) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            took = time.perf_counter() - begin
        if line.strip() != self._says:
            raise SystemExit(f"{self.ways[way]}: {line!r}")
        return took * 1e3


def measure(load: Load, rounds: int) -> None:
    """Print what was measured with one of them."""
    try:
        load.fetch()
    except subprocess.CalledProcessError:
        print(f"{load.name}: skipped, pip could not fetch what it needs")
        return
    with tempfile.TemporaryDirectory() as name:
        runner = Runner(load, Path(name))
        with runner.server():
            first = {way: runner.first_line(way) for way in runner.ways}
            took = [{way: runner.first_line(way) for way in runner.ways} for _ in range(rounds)]
    cold = [each["cold"] for each in took]
    print(f"{load.name:14} {'best':>10} {'median':>10} {'first':>10}   of the cold start")
    for way in runner.ways:
        times = [each[way] for each in took]
        best, median = min(times), statistics.median(times)
        shares = f"{best / min(cold):6.2f} {median / statistics.median(cold):6.2f}"
        print(f"  {way:12} {best:7.0f} ms {median:7.0f} ms {first[way]:7.0f} ms   {shares}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", "--rounds", type=int, default=15, help="of each, taken in turn (default: 15)")
    parser.add_argument("loads", nargs="*", help=f"of {', '.join(load.name for load in LOADS)} (default: all)")
    arguments = parser.parse_args()
    if os.geteuid():
        print("skipped: restoring needs root")
        return 0
    for load in LOADS:
        if not arguments.loads or load.name in arguments.loads:
            measure(load, arguments.rounds)
    print(f"load average: {os.getloadavg()[0]:.1f}, {os.cpu_count()} CPUs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
