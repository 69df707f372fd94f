# SPDX-License-Identifier: GPL-2.0-only
"""`pycriu snapshot run -- python app.py`: a program that starts where its imports are done. See pycriu/warmstart.

`pycriu snapshot clear` removes what is kept.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import sys

from pycriu.actions import Request, light_protobuf, say
from pycriu.errors import UserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from pycriu.actions import Outcome
    from pycriu.warmstart.identity import Command

_SIGPIPE, _SIGXFSZ = 13, 25


def run(request: Request) -> Outcome:
    """Restore, or start; this process becomes that."""
    words = request.words
    if words == ["clear"]:
        from pycriu.warmstart import shelf

        try:
            say([f"removed {shelf.clear()}"])
        except OSError as error:
            raise UserError(f"{error.filename}: {error.strerror}") from None
        return 0
    if words[:1] != ["run"] or len(words) < 2:
        raise UserError(
            "the words are: run -- PYTHON SCRIPT ARGUMENTS…, or: clear", "pycriu snapshot run -- python3 app.py"
        )
    return lambda: _start(words[1:], request.text("key"))


def _start(words: list[str], more: str | None) -> NoReturn:
    from pycriu.warmstart import identity, runner, shelf

    try:
        os.getcwd()  # where that has been removed, nobody else can be sent
        command = identity.parsed(words)
        if command is None or not _is_for_us(command):
            _become(words, {})
        if not _is_program(command.python):
            _boot(command, {} if more is None else {"PYCRIU_SNAPSHOT_KEY": more})
        name = identity.key(command, more, os.environ)
        place = shelf.Place(shelf.folder(), name)
        usable = place.usable()
    except OSError:
        _become(words, {})
    if usable:
        light_protobuf()
        argv = [command.target, *command.arguments]
        runner.try_to_become(place, argv, words, module=command.module)
    _boot(command, {"PYCRIU_SNAPSHOT": name})


def _boot(command: Command, more: dict[str, str]) -> NoReturn:
    """The first start."""
    from pycriu.warmstart import identity

    target = ["-m", command.target] if command.module else [command.target]
    here = os.path.abspath(identity.__file__)
    boot = os.path.join(os.path.dirname(here), "boot" + os.path.splitext(here)[1])  # where there are no sources: .pyc
    more["PYCRIU_PYTHON"] = sys.executable
    _become([command.python, *command.options, boot, *target, *command.arguments], more)


def _is_for_us(command: Command) -> bool:
    """Whether there is something to run, with streams, and nobody has said no."""
    if os.environ.get("PYCRIU_WARM_START") == "0" or None in (sys.stdin, sys.stdout, sys.stderr):
        return False
    return command.module or os.path.exists(command.target)


def _is_program(python: str) -> bool:
    """Whether this is the interpreter itself. A wrapper, such as those of pyenv, chooses one by what we do not know:
    let that one look for checkpoints.
    """
    with open(python, "rb") as file:
        return file.read(4) == b"\x7fELF"


def _become(words: list[str], more: dict[str, str]) -> NoReturn:
    """The ordinary start."""
    for number in (_SIGPIPE, _SIGXFSZ):  # which Python ignores
        _signal.signal(number, _signal.SIG_DFL)
    try:
        os.execvpe(words[0], words, os.environ | more)
    except OSError as error:
        raise UserError(f"{words[0]}: {error.strerror}") from None
