# SPDX-License-Identifier: GPL-2.0-only
"""A sleep that is dumped again and again while it lasts ends when it would have, on every CPU."""

from __future__ import annotations

from layer.target import guest

SLEEP, DUMPS = 10, 3
PROGRAM = f"""
import ctypes, time
spec = (ctypes.c_long * 2)({SLEEP}, 0)
begin = time.monotonic()
result = ctypes.CDLL(None).nanosleep(spec, None)
print(result, time.monotonic() - begin, flush=True)
"""


def test_dumps_that_leave_it_do_not_lengthen_a_sleep(target: guest.Guest) -> None:
    shell = target.shell
    shell.run("mkdir /tmp/sleeper")
    line = "echo $$ >pid; exec setsid python3 -B program.py </dev/null >log 2>&1"
    program = PROGRAM.strip().replace("\n", "\\n")
    shell.run(f"cd /tmp/sleeper && printf '{program}\\n' >program.py && (sh -c '{line}' &) && sleep 3")
    for number in range(DUMPS):
        done = shell.run(f"cd /tmp/sleeper && mkdir {number} && pycriu dump -R -D {number} -t $(cat pid)", timeout=90)
        assert done.status == 0, done.out
    log = shell.run("cd /tmp/sleeper; n=0; until [ -s log ] || [ $n = 60 ]; do sleep 1; n=$((n+1)); done; cat log",
                    timeout=90).out  # fmt: skip
    result, passed = log.split()
    assert result == "0"
    assert SLEEP <= float(passed) < SLEEP + 2 * target.slowness, log
    shell.run("rm -rf /tmp/sleeper")
