# SPDX-License-Identifier: GPL-2.0-only
"""bash on a terminal of script(1): a pipeline that has read some lines, a line half typed, jobs that are controlled.

script has one end of that terminal, and the user's terminal to copy to and from.
"""

import program


def scenario() -> None:
    """From one terminal to another, in the middle of a line; jobs are controlled there as before."""
    first, second = program.Terminal(24, 80), program.Terminal(30, 100)
    first.type("script -q typescript -c 'bash --norc --noprofile --noediting'")
    first.expect(program.PROMPT)
    first.type("mark=kept; sleep 500 &")
    first.expect(program.PROMPT)
    first.type("cat | tr a-z A-Z | sed s/^/:/")
    first.type("one")
    first.press("half a ")
    first.expect("half a ")
    pid = first.job("script")
    images = program.dump(pid, "--shell-job")
    first.close()
    second.restore(images, pid)
    second.press("line\n\x04")
    second.expect(":HALF A LINE")
    second.expect(program.PROMPT)
    second.type("echo $mark $((40 + 2)); jobs")
    second.expect("kept 42")
    second.expect("Running")
    second.expect(program.PROMPT)
    second.type("until stty size | grep '30 100'; do sleep 0.1; done; echo sized")
    second.expect("\nsized")  # not the line that was typed, which ends the same
    second.type("sh -c 'echo sle''eping; exec sleep 1000'")
    second.expect("sleeping")
    second.press("\x1a")
    second.expect("Stopped")
    second.expect(program.PROMPT)
    second.type("bg; kill %1 %2; wait; jobs >ended; echo left $(jobs | wc -l); exit")
    second.expect("left 0")
    second.expect(program.PROMPT)
    second.type("tty; echo status $?")
    second.expect("status 0")


program.play(scenario)
