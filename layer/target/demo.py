# SPDX-License-Identifier: GPL-2.0-only
"""The demonstration: a booted image, a loop that is dumped, stays away, and comes back under the same PID.

It shows what a user would see and stops with the reason at the first thing that is not as it should be. It builds
nothing, and proves less than the runtime tests do.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console as Screen
from rich.markup import escape

from layer.errors import LayerError
from layer.target import bootfile, guest, looplog
from layer.target.simpleloop import Loop

FROZEN = 4  # seconds that the log is watched standing still
STEP = 10  # seconds between two lines that still count as running, on a busy host


class Surprise(LayerError):
    """A step of the demonstration did not end as it should."""


def main(boot_json: Path) -> int:
    """Show it all; 0 when every step was as expected, else 1 with the reason on the screen."""
    screen = Screen(highlight=False, soft_wrap=True)
    start = time.monotonic()
    logs = Path(tempfile.mkdtemp(prefix="pycriu-demo-"))
    try:
        boot = bootfile.load(boot_json)
        with booted(boot, logs, screen) as target:
            show(Loop(target.shell, "/root"), screen)
            troubles = target.troubles()
            expect(not troubles, f"the kernel log tells of trouble: {troubles[0].line if troubles else ''}")
    except (LayerError, looplog.Misread) as error:
        screen.print(f"[bold red]✗ {escape(str(error))}[/]")
        screen.print(f"  console logs: {logs}")
        return 1
    shutil.rmtree(logs)
    screen.print(f"[bold green]✓ The loop was dumped and restored on {boot.machine.summary}, "
                 f"{time.monotonic() - start:.1f} s in all.[/]")  # fmt: skip
    return 0


@contextmanager
def booted(boot: bootfile.Boot, logs: Path, screen: Screen) -> Iterator[guest.Guest]:
    """The guest, announced."""
    screen.print(f"[bold]Booting {boot.machine.summary}[/], kernel {boot.kernel.name}, {boot.initramfs.name}")
    with guest.booted(boot, guest.Options(logs, append=("quiet",))) as target:
        found = target.accelerator
        how = f"accelerator {found.name}" + (f" ({found.why})" if found.why else "")
        screen.print(f"  a shell after {target.seconds:.1f} s; {escape(how)}")
        yield target


def show(loop: Loop, screen: Screen) -> None:
    """The five acts."""
    title(screen, "A shell loop writes the date every second, in the background", "./test.sh < /dev/null &> test.log &")
    pid = loop.start()
    tail(screen, loop.grown(0), f"PID {pid} (ps); the log grows")

    title(screen, "It is dumped", f"pycriu dump -D checkpoint/ -t {pid} --shell-job")
    result = loop.dump(pid)
    said = loop.notices("Killed").strip()
    expect("Killed" in said, f"the shell did not say that its job was killed, but {said!r}")
    screen.print(f"  done in {result.seconds:.2f} s; the shell says: [yellow]{escape(said)}[/]")
    expect(not loop.pids(), "ps still shows the loop")
    before = loop.stamps()
    files = loop.shell.out(f"ls {loop.folder}/checkpoint").split()
    expect(bool(files), "the checkpoint is empty")
    screen.print(f"  ps does not show it any more; checkpoint/ holds {len(files)} images: {' '.join(files)}")

    title(screen, f"The log stands still, watched for {FROZEN} s", "tail test.log")
    time.sleep(FROZEN)
    expect(loop.stamps() == before, "the log grew although the loop was gone")
    tail(screen, before, f"{len(before)} lines, as at the dump")

    title(screen, "It is restored", "pycriu restore -d -D checkpoint/")
    result = loop.restore()
    expect(loop.pids() == [pid], f"ps shows {loop.pids()} instead of PID {pid}")
    after = loop.grown(len(before))
    tail(screen, after, f"restored in {result.seconds:.2f} s under the same PID {pid}; the log grows again")
    holes = looplog.gaps(after, STEP)
    expect(after[: len(before)] == before, "what the log held before the dump has changed")
    expect([hole.after for hole in holes] in ([len(before)], []), f"the log has other gaps than the one: {holes}")
    screen.print(f"  one gap of {after[len(before)] - before[-1]} s, no line lost or doubled")


def expect(right: bool, otherwise: str) -> None:
    """Surprise unless `right`."""
    if not right:
        raise Surprise(otherwise)


def title(screen: Screen, text: str, command: str) -> None:
    """Announce an act, with what is typed for it."""
    screen.print(f"\n[bold]{text}[/]\n  [cyan]# {escape(command)}[/]")


def tail(screen: Screen, times: tuple[int, ...], caption: str) -> None:
    """The last lines of the log."""
    for moment in times[-4:]:
        screen.print(f"    {time.strftime(looplog.FORM, time.gmtime(moment))}")
    screen.print(f"  {caption}")
