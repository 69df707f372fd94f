# SPDX-License-Identifier: GPL-2.0-only
"""less at the end of a pipeline: text from a pipe that its writer has left, keys from /dev/tty, a larger terminal."""

import program


def scenario() -> None:
    """From one terminal to another, which it draws on anew; then the shell there has its settings back."""
    first, second = program.Terminal(24, 80), program.Terminal(30, 100)
    first.type("seq 10001 14000 | less")
    first.expect("10023")
    first.press("100g")
    first.expect("10122")
    pid = first.job("less")
    images = program.dump(pid, "--shell-job")
    first.close()
    second.restore(images, pid)
    second.expect("10100")
    second.expect("10128")
    second.press("G")
    second.expect("14000")
    second.press("q")
    second.expect(program.PROMPT)
    second.type("stty -a")
    second.expect(" icanon")


program.play(scenario)
