# SPDX-License-Identifier: GPL-2.0-only
"""The suite's own eyes: a guest that panics, is killed, or has only one console, seen for real."""

from __future__ import annotations

import dataclasses
import signal
import time
from pathlib import Path

import pytest

from layer import cache
from layer.target import accel, bootfile, faults, guest

SOON = 10.0  # seconds within which trouble is to be noticed, of the minutes that were granted


@pytest.fixture
def alone(options: guest.Options, request: pytest.FixtureRequest) -> guest.Options:
    """Options of a guest that belongs to one test."""
    return dataclasses.replace(options, logs=options.logs / request.node.name, keep=False)


@pytest.mark.parametrize("channel", [True, False], ids=["two-lines", "one-line"])
def test_a_panic_ends_a_command_at_once(boot: bootfile.Boot, alone: guest.Options, channel: bool) -> None:
    with guest.booted(boot, dataclasses.replace(alone, channel=channel)) as target:
        assert target.one_console is not channel
        start = time.monotonic()
        with pytest.raises(faults.KernelPanic, match="sysrq triggered crash") as caught:
            target.shell.run("echo c >/proc/sysrq-trigger; sleep 60", timeout=60)
    assert time.monotonic() - start < SOON * target.slowness
    assert "  | " in str(caught.value) and str(target.serial.log_path) in str(caught.value)
    assert "Call " in Path(target.serial.log_path).read_text(), "the log lacks the panic's trace"


def test_the_sudden_end_of_the_emulator_ends_a_command(boot: bootfile.Boot, alone: guest.Options) -> None:
    with guest.booted(boot, alone) as target:
        target.qemu.process.send_signal(signal.SIGKILL)
        with pytest.raises(faults.QemuDied, match="SIGKILL"):
            target.shell.run("sleep 60", timeout=60)


def test_a_kernel_that_cannot_start_init_is_a_panic_not_a_timeout(boot: bootfile.Boot, alone: guest.Options) -> None:
    broken = dataclasses.replace(alone, append=("rdinit=/nonexistent", "init=/nonexistent"))
    start = time.monotonic()
    with pytest.raises(faults.KernelPanic), guest.booted(boot, broken):
        pytest.fail("it booted without an init")
    assert time.monotonic() - start < guest.BOOT * accel.choose(boot.machine, cache.default().root).slowness


def test_an_emulator_that_refuses_its_arguments_says_why(boot: bootfile.Boot, alone: guest.Options) -> None:
    with (
        pytest.raises(faults.QemuDied, match="no-such"),
        guest.booted(boot, dataclasses.replace(alone, accel="no-such")),
    ):
        pytest.fail("it booted with an accelerator that does not exist")


def test_kernel_noise_on_the_only_console_spoils_no_result(boot: bootfile.Boot, alone: guest.Options) -> None:
    with guest.booted(boot, dataclasses.replace(alone, channel=False)) as target:
        target.shell.run("(n=0; while [ $n -lt 200 ]; do echo '<6>noise' >/dev/kmsg; n=$((n+1)); done) &", inside=True)
        for number in range(40):
            assert target.shell.run(f"echo {number}; exit {number}", check=False).status == number
        assert any("noise" in line for line in target.kernel_log())


def test_old_trouble_in_the_log_is_reported_at_the_end(boot: bootfile.Boot, alone: guest.Options) -> None:
    with guest.booted(boot, alone) as target:
        assert target.troubles() == ()
        # Not at the start of a line and without the kernel's stamp it would be a program's word; kmsg stamps it.
        target.shell.run("dmesg -n 1; echo '<4>Out of memory: Killed process 1 (rehearsal)' >/dev/kmsg")
        assert [fault.kind for fault in target.troubles()] == [faults.OutOfMemory]
