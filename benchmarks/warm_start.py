#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Time from the start of a program to its first useful line: cold, warm, and from a fork server.

The program imports numpy and pandas and adds up a small table. A cold start is Python's; a warm one restores a
checkpoint (`pycriu snapshot run`, or `pycriu.warm_start` in the program); the fork server has done the imports and
forks for a client that is a fresh Python, too. Packages are fetched by pip into the cache.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from tests import debian  # noqa: E402

PACKAGES = ("numpy", "pandas")
BODY = """
frame = pandas.DataFrame({"a": numpy.arange(10), "b": numpy.arange(10) ** 2})
print(int(frame.b.sum()), flush=True)
"""
PLAIN = f"import numpy, pandas\n{BODY}"
WARM = f"import pycriu\nwith pycriu.warm_start():\n    import numpy, pandas\n{BODY}"
SERVER = """
import os, socket, sys
import numpy, pandas
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen(16)
print("ready", flush=True)
while True:
    client, _ = listener.accept()
    if not os.fork():
        _, fds, _, _ = socket.recv_fds(client, 1, 3)
        for number, fd in enumerate(fds):
            os.dup2(fd, number)
        exec(compile(open(sys.argv[2]).read(), sys.argv[2], "exec"))
        sys.stdout.flush()
        client.send(b"0")
        os._exit(0)
    client.close()
"""
CLIENT = """
import socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect(sys.argv[1])
socket.send_fds(server, [b"x"], [0, 1, 2])
server.recv(1)
"""


def packages() -> Path:
    """Where numpy and pandas are."""
    folder = debian.cache() / f"warm-start-{sys.version_info.major}.{sys.version_info.minor}"
    if not (folder / "pandas").exists():
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--target", str(folder), *PACKAGES], check=True)
    return folder


def first_line(command: list[str], environment: dict[str, str], folder: Path) -> float:
    """Seconds until it has written its first line; it must be the right one."""
    begin = time.perf_counter()
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        took = time.perf_counter() - begin
    if line != "285\n":
        raise SystemExit(f"{command}: {line!r}")
    return took


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", "--rounds", type=int, default=15, help="of each, taken in turn (default: 15)")
    rounds = parser.parse_args().rounds
    if os.geteuid():
        print("skipped: restoring needs root")
        return 0
    import google.protobuf

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = [str(packages()), str(ROOT), str(Path(google.protobuf.__file__).parents[2])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYCRIU_SNAPSHOTS": str(folder / "kept")}
        for file, code in (("plain.py", PLAIN), ("warm.py", WARM), ("server.py", SERVER), ("client.py", CLIENT)):
            (folder / file).write_text(code)
        (folder / "body.py").write_text(BODY)
        python = sys.executable
        pycriu = f"import sys; sys.path += {path[1:]!r}; from pycriu.cli import command; command()"
        server = subprocess.Popen(
            [python, "server.py", "socket", "body.py"], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
        )
        assert server.stdout is not None
        server.stdout.readline()
        ways = {
            "cold": [python, "plain.py"],
            "snapshot run": [python, "-IS", "-c", pycriu, "snapshot", "run", "--", python, "plain.py"],
            "warm_start": [python, "warm.py"],
            "fork server": [python, "client.py", "socket"],
        }
        took: dict[str, list[float]] = {way: [] for way in ways}
        first = {way: first_line(command, environment, folder) for way, command in ways.items()}
        for _ in range(rounds):
            for way, command in ways.items():
                took[way].append(first_line(command, environment, folder))
        server.kill()
        server.wait()
        for way, times in took.items():
            median, best = statistics.median(times) * 1e3, min(times) * 1e3
            print(f"{way:14} median {median:7.1f} ms   best {best:7.1f} ms   first {first[way] * 1e3:7.1f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
