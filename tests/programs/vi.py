# SPDX-License-Identifier: GPL-2.0-only
"""vi with words that have been typed and not saved, from one terminal to another; its swap file goes in the end."""

import os

import program
from victim import check, equal

BEFORE = "first line\nsecond line\n"


def content() -> str:
    """The file that is edited."""
    with open("letter", encoding="utf-8") as file:
        return file.read()


def scenario() -> None:
    """The second terminal shows what was typed on the first; more is typed, undone, saved."""
    with open("letter", "w", encoding="utf-8") as file:
        file.write(BEFORE)
    first, second = program.Terminal(24, 80), program.Terminal(30, 100)
    first.type("vi -u NONE -N letter")
    first.expect("second line")
    first.rest()
    first.press("Gonew words")
    first.expect("new words")
    pid = first.job("vi")
    images = program.dump(pid, "--shell-job")
    first.close()
    equal(content(), BEFORE, "the file, before it is saved")
    second.restore(images, pid)
    second.expect("new words")
    second.press(" and more\x1bdd" + "u:wq\r")
    second.expect(program.PROMPT)
    equal(content(), BEFORE + "new words and more\n", "the file")
    check(not [name for name in os.listdir() if name.startswith(".letter.sw")], "a swap file is left")


program.play(scenario)
