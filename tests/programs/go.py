# SPDX-License-Identifier: GPL-2.0-only
"""A program of Go (tests/host/threaded): goroutines on few threads, channels, tickers, garbage; it judges itself."""

import program
from victim import equal


def scenario() -> None:
    """Two cycles; then it says whether every sum came out right and everybody went on."""
    pid = program.start("threaded-go")
    program.wait_for("ready")
    for _ in range(2):
        program.cycle(pid)
    open("go", "w").close()
    program.ended(pid)
    equal(program.said().splitlines()[-1], "wrong 0, turns of all true, read 4", "its verdict")


program.play(scenario)
