# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's log (/dev/kmsg): a reader at its end, which reads on with the next message; a writer.

Missing: a reader that has messages before it (refused: nothing tells how many).
"""

import os
from collections.abc import Iterator

import victim

ROOM = 1 << 15


def scenario() -> Iterator[victim.Damage]:
    try:
        reader, writer = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK), os.open("/dev/kmsg", os.O_WRONLY)
    except OSError as error:
        victim.skip(f"/dev/kmsg: {error.strerror}")
    last = read_all(reader)[-1:]
    os.write(writer, b"victim: first\n")  # without the end of the line it could be continued
    if not any(b"victim: first" in record for record in read_all(reader)):
        victim.skip("what is written to /dev/kmsg does not arrive")
    yield lambda: os.lseek(reader, 0, os.SEEK_SET)
    os.write(writer, b"victim: second\n")
    records = [record for record in read_all(reader) if b"victim:" in record]
    victim.equal([record.rpartition(b";")[2].strip() for record in records], [b"victim: second"], "what is read on")
    victim.check(not last or records[0] != last[0], "a message is read again")


def read_all(fd: int) -> list[bytes]:
    records = []
    while True:
        try:
            records.append(os.read(fd, ROOM))
        except BlockingIOError:
            return records
        except BrokenPipeError:  # overwritten meanwhile
            continue


victim.play(scenario)
