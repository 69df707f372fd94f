# SPDX-License-Identifier: GPL-2.0-only
"""An asyncio program: its event loop, streams over UNIX sockets, a subprocess, timers, signals, an event counter."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.host.conftest import Host

PROGRAM = """
import asyncio

async def upper(reader, writer):
    while line := await reader.readline():
        writer.write(line.upper())
        await writer.drain()
    writer.close()

async def main():
    loop = asyncio.get_running_loop()
    server = await asyncio.start_unix_server(upper, "server")
    clients = [await asyncio.open_unix_connection("server") for _ in range(20)]
    cat = await asyncio.create_subprocess_exec(
        "cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL)
    cat.stdin.write(b"first\\n")
    assert await cat.stdout.readline() == b"first\\n"
    signalled, counted, ticks = asyncio.Event(), asyncio.Queue(), []
    loop.add_signal_handler(signal.SIGUSR1, signalled.set)
    counter = os.eventfd(0, os.EFD_NONBLOCK)
    loop.add_reader(counter, lambda: counted.put_nowait(os.eventfd_read(counter)))
    async def tick():
        while True:
            ticks.append(loop.time())
            await asyncio.sleep(0.01)
    ticking = asyncio.create_task(tick())
    for number, (_, writer) in enumerate(clients):
        writer.write(b"early %d\\n" % number)
    await asyncio.sleep(0.1)
    set_at = loop.time()
    late = asyncio.create_task(asyncio.sleep(1.5, "late"))
    ready()
    while not os.path.exists("go"):
        await asyncio.sleep(0.02)
    for number, (reader, writer) in enumerate(clients):
        writer.write(b"later %d\\n" % number)
        assert await reader.readline() == b"EARLY %d\\n" % number
        assert await reader.readline() == b"LATER %d\\n" % number
    new = await asyncio.open_unix_connection("server")
    new[1].write(b"new\\n")
    say("streams", await new[0].readline())
    cat.stdin.write(b"second\\n")
    say("subprocess", await cat.stdout.readline())
    cat.stdin.close()
    say("its end", await cat.wait())
    os.kill(os.getpid(), signal.SIGUSR1)
    await signalled.wait()
    os.eventfd_write(counter, 5)
    say("counter", await counted.get())
    say("timer", await late, loop.time() - set_at >= 1.5)
    before = len(ticks)
    await asyncio.sleep(0.2)
    say("ticks", len(ticks) > before + 3)
    ticking.cancel()
    for _, writer in [*clients, new]:
        writer.close()
    while len(asyncio.all_tasks()) > 1:  # Python 3.11 complains of handlers that end with the loop
        await asyncio.sleep(0.01)
    server.close()

asyncio.run(main())
"""

EXPECTED = ["streams b'NEW\\n'", "subprocess b'second\\n'", "its end 0", "counter 5", "timer late True", "ticks True"]


def test_asyncio_goes_on(host: Host) -> None:
    subject = host.python(PROGRAM)
    assert host.dump(subject, "-R").ok
    host.round_trip(subject)
    host.round_trip(subject)
    assert subject.go() == EXPECTED
