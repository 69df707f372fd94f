# SPDX-License-Identifier: GPL-2.0-only
"""A sleep that is dumped again and again while it lasts ends when it would have, on every CPU."""

from __future__ import annotations

from layer.target import guest

SLEEP = 30  # seconds: some dumps of an emulated machine
PROGRAM = f"""
import ctypes, time
spec = (ctypes.c_long * 2)({SLEEP}, 0)
begin = time.monotonic()
open("begun", "w").close()
result = ctypes.CDLL(None).nanosleep(spec, None)
print(result, begin, time.monotonic(), flush=True)
"""


def test_dumps_that_leave_it_do_not_lengthen_a_sleep(target: guest.Guest) -> None:
    shell = target.shell
    shell.run("mkdir /tmp/sleeper")
    line = "echo $$ >pid; exec setsid python3 -B program.py </dev/null >log 2>&1"
    program = PROGRAM.strip().replace("\n", "\\n")
    shell.run(f"cd /tmp/sleeper && printf '{program}\\n' >program.py && (sh -c '{line}' &)")
    shell.run(
        "cd /tmp/sleeper; n=0; until [ -e begun ] || [ $n = 300 ]; do sleep 0.2; n=$((n+1)); done; sleep 1", timeout=90
    )
    for number in range(2):
        dumped = float(shell.out("cut -d' ' -f1 /proc/uptime"))
        words = f"cd /tmp/sleeper && mkdir {number} && pycriu dump -R -D {number} -t $(cat pid)"
        shell.run(words, timeout=90)
    wait = "n=0; until [ -s log ] || [ $n = 150 ]; do sleep 1; n=$((n+1)); done; cat log"
    result, begin, end = shell.run(f"cd /tmp/sleeper; {wait}", timeout=200).out.split()
    assert result == "0"
    assert float(end) - float(begin) >= SLEEP
    # Had the sleep begun anew after the last dump, it would have lasted until then.
    assert float(end) < dumped + SLEEP, (begin, dumped, end)
    shell.run("rm -rf /tmp/sleeper")
