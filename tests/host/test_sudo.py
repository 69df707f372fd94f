# SPDX-License-Identifier: GPL-2.0-only
"""docs/guide.md, the ways by sudo: its files as they stand there, what they let a user do, and what they do not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google.protobuf
import pexpect
import pytest

from tests import sudo
from tests.host.conftest import DEADLINE, alive, clean_up, interpreter_for_others, reap, wait_until

TOP = Path(__file__).resolve().parents[2]
GUIDE = (TOP / "docs/guide.md").read_text()
ALICE = sudo.USERS["alice"]
LOOP = 'n=0; while [ ! -e go ]; do n=$((n + 1)); echo $n >>"$1"; sleep 0.02; done; echo $(id -u) done >>"$1"'
RESTORE = ("pycriu", "restore", "--restore-detached", "--images-dir=/var/lib/checkpoints/model")
# Whoever runs it leaves a word of who that is.
SPY = """import os
with open("/proc/self/status") as status, open("SPY", "a") as file:
    print(os.getuid(), next(line.split()[1] for line in status if line.startswith("CapEff")), file=file)
"""


def written(language: str, word: str) -> str:
    """The one block of the guide in a language that has the word."""
    (block,) = [text for text in re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL) if word in text]
    return str(block)


class World:
    """The machine, with what the guide says installed, and a folder of alice's."""

    def __init__(self, machine: sudo.Machine, folder: Path) -> None:
        self.machine, self.folder = machine, folder
        shutil.copytree(Path(google.protobuf.__file__).parents[1], folder / "packages/google")
        paths = [str(TOP), str(folder / "packages")]
        start = f"#!{interpreter_for_others()}\nimport sys\nsys.path[1:1] = {paths}\nsys.dont_write_bytecode = True\n"
        machine.file("usr/local/bin/pycriu", f"{start}from pycriu.cli import command\ncommand()\n", 0o755)
        machine.file("usr/local/sbin/pycriu-user", written("sh", "setpriv"), 0o755)
        machine.file("usr/local/sbin/model-dump", written("sh", "model.pid"), 0o755)
        machine.group("checkpoint", "alice")
        machine.group("operators", "alice")
        machine.file("etc/sudoers.d/user", written("sudoers", "PYCRIU_USER"), 0o440)
        machine.file("etc/sudoers.d/model", written("sudoers", "MODEL"), 0o440)
        checkpoints = machine.root / "var/lib/checkpoints"
        checkpoints.mkdir(0o700)
        checkpoints.chmod(0o700)
        self.home = folder / "alice"
        self.home.mkdir()
        os.chown(self.home, ALICE, ALICE)
        self.spy = self.home / "spied"

    def run(self, *words: str, user: str = "alice", **environment: str) -> subprocess.CompletedProcess[str]:
        """A command in alice's folder."""
        return subprocess.run(
            self.machine.command(user, self.home, *words), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False, env={"PATH": os.environ["PATH"], "LC_ALL": "C", **environment},
        )  # fmt: skip

    def sudo(self, *words: str, user: str = "alice", **environment: str) -> subprocess.CompletedProcess[str]:
        """As she types it, but that no password is asked for."""
        return self.run("sudo", "-n", *words, user=user, **environment)

    def loop(self, user: str, out: Path) -> int:
        """One that counts into a file; its PID."""
        process = subprocess.Popen(
            self.machine.command(user, self.home, "sh", "-c", LOOP, "sh", str(out)), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        wait_until(lambda: out.exists() and out.read_text().count("\n") > 3, "it counts")
        return process.pid

    def terminal(self) -> Any:
        """A shell of alice's on a terminal of hers."""
        words = self.machine.command("alice", self.home, "bash", "--norc", "--noediting", "-i")
        path = f"{self.machine.programs}/bin:{os.environ['PATH']}"
        spawned = pexpect.spawn(
            words[0], words[1:], env={"PATH": path, "TERM": "xterm", "PS1": "$ "}, encoding="utf-8", timeout=DEADLINE
        )
        spawned.ttyname = os.readlink(f"/proc/{spawned.pid}/fd/0")
        os.chown(spawned.ttyname, ALICE, 5)
        return spawned

    def spying(self, name: str, mode: int = 0o755) -> Path:
        """A program of alice's that tells who has run it."""
        path = self.home / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!{interpreter_for_others()}\n" + SPY.replace("SPY", str(self.spy)))
        path.chmod(mode)
        return path


@pytest.fixture
def world() -> Iterator[World]:
    folder = Path(tempfile.mkdtemp(prefix="pycriu-sudo-"))
    folder.chmod(0o755)
    (folder / "machine").mkdir()
    try:
        with sudo.machine(folder / "machine") as machine:
            made = World(machine, folder)
            readable = made.run("pycriu", "--version")
            if readable.returncode:
                pytest.skip(f"users may not read this checkout: {readable.stderr.strip()[-200:]}")
            try:
                yield made
            finally:
                clean_up()
    except sudo.NotHadError as error:
        pytest.skip(str(error))
    finally:
        shutil.rmtree(folder)


def denied(done: subprocess.CompletedProcess[str]) -> bool:
    """By sudo."""
    return done.returncode == 1 and done.stderr.startswith("sudo: ")


def capabilities(pid: int) -> list[str]:
    status = Path(f"/proc/{pid}/status").read_text()
    return re.findall(r"^Cap(?:Inh|Prm|Eff|Amb):\t(\S+)", status, re.MULTILINE)


@pytest.mark.parametrize("word", ["PYCRIU_USER", "MODEL"])
def test_visudo_has_nothing_to_say(world: World, word: str) -> None:
    world.machine.file("etc/fragment", written("sudoers", word), 0o440)
    checked = world.run("visudo", "-c", "-s", "-f", "/etc/fragment", user="root")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout == "/etc/fragment: parsed OK\n"


def test_own_processes(world: World) -> None:
    """Saved, and brought back, as alice; with nothing of root's left on it."""
    out = world.home / "out"
    pid = world.loop("alice", out)
    dumped = world.sudo("pycriu-user", "dump", "-t", str(pid), "-D", "checkpoint")
    assert dumped.returncode == 0, dumped.stderr
    reap(pid)
    assert {path.stat().st_uid for path in (world.home / "checkpoint").iterdir()} == {ALICE}
    before = out.read_text()
    restored = world.sudo("pycriu-user", "restore", "-d", "-D", "checkpoint")
    assert restored.returncode == 0, restored.stderr
    wait_until(lambda: len(out.read_text()) > len(before) + 10, "it counts on")
    assert capabilities(pid) == ["0000000000000000"] * 4
    (world.home / "go").touch()
    wait_until(lambda: not alive(pid), "it ends")
    assert out.read_text().endswith(f"\n{ALICE} done\n")


def test_on_a_terminal(world: World) -> None:
    """The first steps of the guide, as somebody without rights; what is restored takes the terminal, and its keys."""
    one, other = world.terminal(), world.terminal()
    one.sendline("""sh -c 'trap "echo caught; exit 7" INT; echo pid $$; while :; do sleep 0.1; echo goes; done'""")
    one.expect(r"pid (\d+)\r\n")
    other.sendline(f"sudo pycriu-user dump -t {one.match[1]} --shell-job --track-mem -D checkpoint; echo dumped $?")
    other.expect(r"dumped 0\r\n")
    os.chown(other.ttyname, 0, 0)  # as in a terminal where somebody else has logged in
    other.sendline("sudo pycriu-user restore --shell-job -D checkpoint; echo restored $?")
    other.expect(r"the terminal of this command, /dev/pts/\d+, cannot be opened: Permission denied")
    other.expect(r"restored 1\r\n")
    os.chown(other.ttyname, ALICE, 5)
    other.sendline("sudo pycriu-user restore --shell-job -D checkpoint; echo restored $?")
    other.expect(r"goes\r\n")
    other.sendintr()
    other.expect(r"caught\r\n")
    other.expect(r"restored 0\r\n")


def test_who_is_not_in_the_group(world: World) -> None:
    assert denied(world.sudo("pycriu-user", "ls", user="bob"))
    assert denied(world.sudo(*RESTORE, user="bob"))


def test_no_right_of_root_is_used(world: World) -> None:
    """What she has run, or written, by an option is done by her: a script, a plugin, a configuration, a log."""
    script = world.spying("script")
    (world.home / "plugins").mkdir()
    world.spying("plugins/plugin.py")
    (world.home / "conf").write_text(f"action-script {script}\n")
    pid = world.loop("alice", world.home / "out")
    words = ("pycriu-user", "dump", "-R", "-t", str(pid), "-D", "checkpoint")
    assert world.sudo(*words, "--action-script", str(script)).returncode == 0
    assert world.sudo(*words, "--config", str(world.home / "conf")).returncode == 0
    world.sudo(*words, "--libdir", str(world.home / "plugins"))
    assert len(world.spy.read_text().splitlines()) > 2
    assert set(world.spy.read_text().splitlines()) == {f"{ALICE} 0000010000000000"}
    log = world.sudo(*words, "-o", "/etc/of-root")
    assert log.returncode == 1
    assert "Permission denied" in log.stderr
    of_root = world.loop("root", world.home / "of-root")
    refused = world.sudo("pycriu-user", "dump", "-t", str(of_root), "-D", "other")
    assert refused.returncode == 1
    assert "bug of pycriu" not in refused.stderr
    assert alive(of_root)
    assert alive(pid)
    assert world.sudo("pycriu-user", "--no-unprivileged", "check").returncode in (0, 1)
    refused = world.sudo("pycriu-user", "--no-unprivileged", "restore", "-D", "checkpoint")
    assert "pycriu is not run as root" in refused.stderr


def test_an_environment_reaches_nothing_of_root(world: World) -> None:
    """Neither what Python nor what pycriu reads; and none can be named on sudo's command line."""
    for name in ("evil/sitecustomize.py", "evil/pycriu.py", "startup.py"):
        world.spying(name)
    (world.home / "conf").write_text(f"action-script {world.spying('script')}\n")
    evil = {
        "PYTHONPATH": f"{world.home}/evil", "PYTHONSTARTUP": f"{world.home}/startup.py",
        "CRIU_CONFIG_FILE": f"{world.home}/conf", "CRIU_LIBS_DIR": f"{world.home}/evil", "HOME": str(world.home),
        "BASH_ENV": f"{world.home}/script", "ENV": f"{world.home}/script", "SUDO_UID": "0", "SUDO_GID": "0",
    }  # fmt: skip
    world.run("pycriu", "--version", **evil)  # not through sudo: it would have an effect
    assert world.spy.read_text().startswith(f"{ALICE} ")
    world.spy.unlink()
    pid = world.loop("root", world.folder / "out")
    world.machine.file("run/model.pid", f"{pid}\n")
    (world.machine.root / "var/lib/checkpoints/model").mkdir(0o700)
    assert world.sudo("model-dump", **evil).returncode == 0
    reap(pid)
    assert world.sudo(*RESTORE, **evil).returncode == 0
    assert alive(pid)
    own = world.loop("alice", world.home / "out")
    assert world.sudo("pycriu-user", "dump", "-R", "-t", str(own), "-D", "checkpoint", **evil).returncode == 0
    assert not world.spy.exists()
    assert (world.home / "checkpoint").stat().st_uid == ALICE
    for name, value in evil.items():
        if not name.startswith("SUDO_"):
            assert denied(world.sudo(f"{name}={value}", "pycriu-user", "ls")), name
            assert denied(world.sudo(f"--preserve-env={name}", *RESTORE, **evil)), name
    assert denied(world.sudo("-E", "model-dump", **evil))
    assert not world.spy.exists()


def test_a_job_of_root(world: World) -> None:
    out = world.folder / "out"
    pid = world.loop("root", out)
    world.machine.file("run/model.pid", f"{pid}\n")
    dumped = world.sudo("model-dump")
    assert dumped.returncode == 0, dumped.stderr
    reap(pid)
    images = world.machine.root / "var/lib/checkpoints/model"
    assert images.stat().st_mode & 0o777 == 0o700
    assert world.run("ls", "/var/lib/checkpoints/model").returncode
    before = out.read_text()
    restored = world.sudo(*RESTORE)
    assert restored.returncode == 0, restored.stderr
    wait_until(lambda: len(out.read_text()) > len(before) + 10, "it counts on")


@pytest.mark.parametrize(
    "words",
    [
        ("sh",),
        ("setpriv", "sh"),
        (sys.executable, "-m", "pycriu"),
        ("pycriu",),
        ("pycriu", "dump", "-t", "1"),
        ("pycriu", "dump", "--unprivileged", "-t", "1"),
        ("-u", "bob", "pycriu-user", "ls"),
        ("-g", "bob", "pycriu-user", "ls"),
        ("-s", "pycriu-user", "ls"),
        ("-C", "9", "pycriu-user", "ls"),
        ("-D", "/", "pycriu-user", "ls"),
        ("-R", "/", "pycriu-user", "ls"),
        ("model-dump", "-t", "1"),
        ("model-dump", "--action-script=script"),
        (*RESTORE, "--action-script=script"),
        (*RESTORE, "--libdir=plugins"),
        (*RESTORE, "--config=conf"),
        (*RESTORE, "--images-dir=checkpoint"),
        (*RESTORE, "-Dcheckpoint"),
        (*RESTORE, "--log-file=/etc/passwd"),
        (*RESTORE, ""),
        (*RESTORE, "--"),
        (*RESTORE[:-1], f"{RESTORE[-1]}/../../../../tmp"),
        (*RESTORE[:-1], "--images-dir=checkpoint"),
        ("pycriu", "restore", "--restore-detached"),
        ("pycriu", "restore", "-d", "-D", "/var/lib/checkpoints/model"),
        ("./pycriu", *RESTORE[1:]),
        ("./pycriu-user", "ls"),
    ],
    ids=" ".join,
)
def test_what_is_denied(world: World, words: tuple[str, ...]) -> None:
    """All but the two: by sudo itself, so nothing has been run."""
    for name in ("script", "pycriu", "pycriu-user"):
        world.spying(name)
    done = world.sudo(*words)
    assert denied(done), done
    assert not world.spy.exists()


@pytest.mark.parametrize(
    "words",
    [
        ("restore --restore-detached", RESTORE[3]),
        ("restore", f"--restore-detached {RESTORE[3]}"),
        (f"restore --restore-detached {RESTORE[3]}",),
    ],
    ids=len,
)
def test_words_that_are_joined(world: World, words: tuple[str, ...]) -> None:
    """sudo compares words joined by blanks: what else they can be split into passes it, and pycriu refuses."""
    (world.home / " /var/lib/checkpoints/model").mkdir(parents=True)
    done = world.sudo("pycriu", *words)
    assert done.returncode == 1
    assert done.stderr.startswith("pycriu: unknown "), done


def test_a_short_option_would_let_a_directory_of_the_user_in(world: World) -> None:
    """Which is why the guide has `=`; pycriu does not take the blank for a part of the name, either."""
    world.machine.file(
        "etc/sudoers.d/short", "alice ALL = (root) NOPASSWD: /usr/local/bin/pycriu restore -d -D /var/lib/x\n", 0o440
    )
    (world.home / " /var/lib/x").mkdir(parents=True)
    done = world.sudo("pycriu", "restore", "-d", "-D /var/lib/x")
    assert done.returncode == 1
    assert "blank" in done.stderr, done


def test_what_the_guide_warns_of(world: World) -> None:
    """With a pattern for options, she is root."""
    world.machine.file("etc/sudoers.d/never", "alice ALL = NOPASSWD: /usr/local/bin/pycriu dump *\n", 0o440)
    pid = world.loop("alice", world.home / "out")
    words = ("pycriu", "dump", "-R", "-t", str(pid), "-D", "checkpoint", "--action-script", str(world.spying("script")))
    assert world.sudo(*words).returncode == 0
    assert world.spy.read_text().startswith("0 ")
