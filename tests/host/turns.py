# SPDX-License-Identifier: GPL-2.0-only
"""A thread that counts until there is a file `go`; whoever waits for it says whether all turns are there: turns.c."""

import json
import os
import threading
import time

turns: list[int] = []


def work() -> None:
    """One turn after the other."""
    while not os.path.exists("go"):
        turns.append(len(turns))
        time.sleep(0.02)


thread = threading.Thread(target=work)
thread.start()
os.write(1, b"ready\n")
thread.join()
os.write(1, json.dumps(turns == list(range(len(turns)))).encode() + b"\n")
