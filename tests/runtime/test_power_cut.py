# SPDX-License-Identifier: GPL-2.0-only
"""A checkpoint on the data disk outlives a power cut: dump, kill the emulator, boot again on the same disk, restore."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from layer.target import bootfile, guest, looplog
from layer.target.simpleloop import Loop


@pytest.mark.parametrize("mounted", ["sync", "async"])
def test_the_loop_goes_on_after_a_power_cut(
    boot: bootfile.Boot,
    options: guest.Options,
    boots: Callable[[bootfile.Boot, guest.Options], AbstractContextManager[guest.Guest]],
    mounted: str,
) -> None:
    """`async`: the disk as most systems mount it; the images are safe only because the dump saw to it."""
    logs = options.logs / mounted
    logs.mkdir(parents=True, exist_ok=True)
    once = dataclasses.replace(options, keep=False, logs=logs / "before", disk=guest.scratch_disk(boot, logs))
    with boots(boot, once) as first:
        first.shell.run(f"mount -o remount,{mounted} /data")
        loop = Loop(first.shell, "/data/loop")
        pid = loop.start()
        loop.grown(0)
        # The application's own files are its own business: what it wrote must be on the disk before the dump.
        first.shell.run("sync", timeout=60)
        loop.dump(pid)
        text = loop.log()
        first.shell.run("fsync /data/loop/test.log /data/loop" if mounted == "async" else "true")
        first.power_cut()

    with boots(boot, dataclasses.replace(once, logs=logs / "after")) as second:
        loop = Loop(second.shell, "/data/loop")
        assert loop.pids() == []
        assert loop.log() == text
        second.shell.run("cd /data/loop", inside=True)
        loop.restore()
        assert loop.pids() == [pid]
        before = len(looplog.stamps(text))
        after = loop.grown(before)
        assert loop.log().startswith(text)
        assert [gap.after for gap in looplog.gaps(after, int(2 + 1.5 * second.slowness))] in ([before], [])
