# SPDX-License-Identifier: GPL-2.0-only
"""redis: clients in a transaction, waiting for a list, subscribed; keys that expire; an append-only file."""

import program
from victim import check, equal

KEYS = 1000


class Redis(program.Client):
    """The protocol RESP2, as far as it is needed."""

    def ask(self, *words: str) -> object:
        """A command and its answer."""
        self.ask_later(*words)
        return self.answer()

    def ask_later(self, *words: str) -> None:
        """A command."""
        self.send(command(*words))

    def answer(self) -> object:
        """The next answer."""
        line = self.line()
        kind, rest = line[:1], line[1:]
        if kind == b"$":
            return None if rest == b"-1" else self.read(int(rest) + 2)[:-2].decode()
        if kind == b"*":
            return None if rest == b"-1" else [self.answer() for _ in range(int(rest))]
        check(kind in b"+:", f"the answer {line!r}")
        return int(rest) if kind == b":" else rest.decode()


def command(*words: str) -> bytes:
    """A command as it is sent."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w.encode()) for w in words)


def fill(client: Redis) -> None:
    """Many keys, sent at once."""
    client.send(b"".join(command("set", f"key {n}", f"value {n}" * 20) for n in range(KEYS)))
    for _ in range(KEYS):
        equal(client.answer(), "OK", "the answer to set")
    equal(client.ask("set", "short", "life", "px", "600000"), "OK", "the answer to set")


def turn(number: int, plain: Redis, inside: Redis, waiting: Redis, listening: Redis, pid: int) -> None:
    """One cycle while something of each client is under way."""
    equal(inside.ask("multi"), "OK", "the answer to multi")
    equal(inside.ask("incr", "counter"), "QUEUED", "what is asked in a transaction")
    waiting.ask_later("blpop", "list", "0")
    plain.ask_later("ping")  # in flight, or answered and unread
    program.cycle(pid, "--tcp-established")
    equal(plain.answer(), "PONG", "the answer to ping")
    equal(inside.ask("incr", "counter"), "QUEUED", "what is asked in a transaction")
    equal(inside.ask("exec"), [2 * number + 1, 2 * number + 2], "the transaction")
    plain.ask("rpush", "list", f"entry {number}")
    equal(waiting.answer(), ["list", f"entry {number}"], "what was waited for")
    plain.ask("publish", "news", f"item {number}")
    equal(listening.answer(), ["message", "news", f"item {number}"], "the news")


def scenario() -> None:
    """Two cycles; afterwards no key is missing."""
    port = program.free_port()
    words = ["--port", str(port), "--bind", "127.0.0.1", "--appendonly", "yes", "--save", "", "--appendfsync", "always"]
    pid = program.start("redis-server", *words, "--ignore-warnings", "ARM64-COW-BUG")
    plain, inside, waiting, listening = (Redis(port) for _ in range(4))
    fill(plain)
    listening.ask("subscribe", "news")
    for number in range(2):
        turn(number, plain, inside, waiting, listening, pid)
    plain.send(b"".join(command("get", f"key {n}") for n in range(KEYS)))
    for n in range(KEYS):
        equal(plain.answer(), f"value {n}" * 20, f"key {n}")
    left = plain.ask("pttl", "short")
    check(isinstance(left, int) and 0 < left <= 600000, f"what is left of a short life: {left}")
    equal(Redis(port).ask("dbsize"), KEYS + 2, "the number of keys")
    program.end(pid)


program.play(scenario)
