# SPDX-License-Identifier: GPL-2.0-only
"""`pycriu-task-PID.img`: what a process and its threads have that CRIU's messages have no fields for. CRIU ignores it.

ASCII text, one fact to a line: a name, the id of the thread (of the first one for what the whole process has), and
whole numbers in decimal, divided by single blanks:

    affinity 1234 0 1
    timer_slack 1235 1000

A fact that is as it is for any fresh task is left out; so is the image where nothing is left. Reading is strict:
unknown names, other counts of numbers than a name has, numbers beyond 64 bits, anything said twice is an ImageError,
because a reader that skips what it does not understand would lose something without a word.
"""

from __future__ import annotations

from pycriu.errors import ImageError
from pycriu.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

Numbers = tuple[int, ...]
Facts = dict[int, dict[str, Numbers]]
"""Thread id → name → numbers."""

MAX_SIZE = 1 << 24  # bytes
_MAX_DIGITS = 20


@record
class Shape:
    """How many numbers a fact may have."""

    least: int
    most: int


def encode(facts: Mapping[int, Mapping[str, Numbers]]) -> bytes:
    """The image; empty where there is no fact."""
    lines = [
        " ".join([name, str(tid), *map(str, numbers)]) + "\n"
        for tid, of_thread in facts.items()
        for name, numbers in of_thread.items()
    ]
    return "".join(lines).encode("ascii")


def decode(data: bytes, label: str, shapes: Mapping[str, Shape]) -> Facts:
    """The facts of an image; `label` names it in errors, `shapes` has every name that is known."""
    if len(data) > MAX_SIZE or not data.isascii() or (data and not data.endswith(b"\n")):
        raise ImageError(f"{label}: not a list of facts")
    facts: Facts = {}
    for number, line in enumerate(data.decode("ascii").split("\n")[:-1], 1):
        name, *words = line.split(" ")
        where = f"{label}: line {number}"
        if name not in shapes:
            raise ImageError(f"{where}: {name[:40]!r} is not known", "restore it with the pycriu that wrote it")
        tid, *numbers = (_number(word, where) for word in words or [""])
        if not shapes[name].least <= len(numbers) <= shapes[name].most:
            raise ImageError(f"{where}: {name} has {len(numbers)} numbers")
        of_thread = facts.setdefault(tid, {})
        if name in of_thread:
            raise ImageError(f"{where}: {name} of {tid} is there twice")
        of_thread[name] = tuple(numbers)
    return facts


def _number(word: str, where: str) -> int:
    digits = word.removeprefix("-")
    if not digits.isdecimal() or len(digits) > _MAX_DIGITS or (digits[0] == "0" and word != "0"):
        raise ImageError(f"{where}: {word[:40]!r} is not a number")
    value = int(word)
    if not -1 << 63 <= value < 1 << 64:
        raise ImageError(f"{where}: {word} is out of bounds")
    return value
