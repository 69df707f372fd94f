# SPDX-License-Identifier: GPL-2.0-only
"""A session on a pseudo terminal, as a shell has it: who has the terminal, who is in its foreground, what keys and a
change of its size send to whom, what background jobs may not do, and /dev/tty.
"""

import fcntl
import os
import pty
import signal
import struct
import termios
from collections.abc import Callable, Iterator

import victim

Say = Callable[[str], None]


def scenario() -> Iterator[victim.Damage]:
    master, slave = pty.openpty()
    report, said = os.pipe()
    shell = victim.child(lambda: be_shell(master, slave, said))
    os.close(slave)
    os.close(said)
    victim.equal(hear(report), ["back ready", "front ready", "shell ready"], "the session")
    front, back = offspring(shell)
    before = [terminal_of(pid) for pid in (shell, front, back)]
    os.write(master, b"half a ")
    yield lambda: os.write(master, b"\x15")
    victim.equal([terminal_of(pid) for pid in (shell, front, back)], before, "session, terminal, foreground group")
    victim.equal(struct.unpack("i", fcntl.ioctl(master, termios.TIOCGPGRP, bytes(4)))[0], front, "foreground group")
    os.write(master, b"line\n")
    victim.equal(hear(report, 1), ["front read half a line"], "what was typed before and after")
    os.write(master, b"\x03")
    victim.equal(hear(report, 1), ["front SIGINT"], "the interrupt key")
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("4H", 12, 34, 0, 0))
    victim.equal(hear(report, 1), ["front SIGWINCH"], "a change of size")
    os.kill(back, signal.SIGUSR1)
    victim.equal(hear(report, 1), ["shell sees back stopped by SIGTTIN"], "a background job that reads")
    os.kill(shell, signal.SIGUSR1)
    victim.equal(hear(report, 1), ["shell is in the foreground, /dev/tty is its terminal"], "the shell takes over")
    os.close(master)
    victim.equal(hear(report, 1), ["shell SIGHUP"], "the terminal is hung up")
    victim.join(shell, "the shell")


def hear(report: int, lines: int = 3) -> list[str]:
    """So many lines from the session, in alphabetical order."""
    text = b""
    while text.count(b"\n") < lines:
        piece = os.read(report, 1000)
        victim.check(bool(piece), f"the session has ended after {text!r}")
        text += piece
    return sorted(text.decode().splitlines())


def be_shell(master: int, slave: int, said: int) -> None:
    os.close(master)
    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    alias = os.open("/dev/tty", os.O_RDWR)

    def say(text: str) -> None:
        os.write(said, text.encode() + b"\n")

    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    wanted = (signal.SIGUSR1, signal.SIGCHLD, signal.SIGHUP, signal.SIGINT)
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    front = fork_job(lambda: be_front(slave, say))
    back = fork_job(lambda: be_back(slave, say))
    os.tcsetpgrp(slave, front)
    os.kill(front, signal.SIGUSR1)
    say("shell ready")
    while (number := signal.sigwait(wanted)) != signal.SIGHUP:
        if number == signal.SIGCHLD:
            pid, status = os.waitpid(back, os.WUNTRACED | os.WNOHANG)
            if pid:
                say(f"shell sees back stopped by {signal.Signals(os.WSTOPSIG(status)).name}")
        elif number == signal.SIGUSR1:
            os.tcsetpgrp(alias, os.getpid())
            same = os.ttyname(slave) == os.ttyname(alias) or os.readlink(f"/proc/self/fd/{alias}") == "/dev/tty"
            if same and os.tcgetpgrp(slave) == os.getpid():
                say("shell is in the foreground, /dev/tty is its terminal")
        else:
            say(f"shell {signal.Signals(number).name}")
    say("shell SIGHUP")
    for pid in (front, back):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def fork_job(work: Callable[[], None]) -> int:
    """A job in a group of its own."""
    pid = os.fork()
    if not pid:
        os.setpgid(0, 0)
        try:
            work()
        finally:
            os._exit(0)
    victim.wait_until(lambda: os.getpgid(pid) == pid, "the job's group")
    return pid


def be_front(slave: int, say: Say) -> None:
    """Read lines and signals from the terminal."""
    words = [signal.SIGINT, signal.SIGWINCH, signal.SIGUSR1]
    signal.pthread_sigmask(signal.SIG_BLOCK, words)
    signal.sigwait([signal.SIGUSR1])
    say("front ready")
    line = os.read(slave, 100)
    say(f"front read {line.decode().strip()}")
    while True:
        say(f"front {signal.Signals(signal.sigwait(words)).name}")


def be_back(slave: int, say: Say) -> None:
    """Read from the terminal though in the background, when told."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    say("back ready")
    signal.sigwait([signal.SIGUSR1])
    os.read(slave, 1)


def offspring(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as children:
        return [int(word) for word in children.read().split()]


def terminal_of(pid: int) -> tuple[str, ...]:
    """Parent, group, session, terminal, foreground group."""
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
        return tuple(stat.read().rpartition(") ")[2].split()[1:6])


victim.play(scenario)
