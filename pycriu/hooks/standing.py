# SPDX-License-Identifier: GPL-2.0-only
"""The program stands still, its hooks called, until it knows what has become of the checkpoint."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import time

from pycriu.hooks import channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pycriu.hooks.page import Page

_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.01  # seconds between two looks for news
_BETWEEN_LOOKS = 0.1  # and between two looks whether we have been restored, which opens a file


def stand(page: Page, born: int, asker: int) -> tuple[int, BaseException | None]:
    """Wait for the end of the checkpoint: how it ended, as WHAT has it, and what a handler has raised meanwhile.

    `born` is when this process was, `asker` the PID of whoever makes the checkpoint.
    """
    pause, looked, raised = _FIRST_PAUSE, time.monotonic(), None
    while True:
        try:
            if page.asked:
                what = page.get(channel.WHAT)
                return what if what in channel.OUTCOMES else channel.FAILED, raised
            if time.monotonic() - looked > _BETWEEN_LOOKS:
                if born and channel.born() != born:
                    return channel.RESTORED, raised
                if not is_alive(asker):
                    return channel.FAILED, raised
                looked = time.monotonic()
            _signal.sigtimedwait((), pause)  # time.sleep may be that of greenlets, and let others run
            pause = min(pause * 1.2, _LONGEST_PAUSE)
        except BaseException as error:  # of a handler of the program's: we must not go on before we know
            raised = raised or error


def is_alive(pid: int) -> bool:
    """Whether it runs: a zombie whose parent takes its time does not. Nothing is opened: we are about to be dumped."""
    try:
        os.readlink(f"/proc/{pid}/exe")
    except FileNotFoundError:
        return False
    except OSError:  # of another user, who alone can see more
        return _exists(pid)
    return True


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
