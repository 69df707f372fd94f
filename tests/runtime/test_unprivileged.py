# SPDX-License-Identifier: GPL-2.0-only
"""docs/guide.md, "Without root", on the target: an ordinary user with one capability, which is ambient.

That of a file is tried on the host: no file system of the guest keeps such attributes.
"""

from __future__ import annotations

import pytest

from layer.target import guest, shell

FOLDER, USER = "/tmp/user", 4711
# python3 as.py ambient|none COMMAND...: as the user, with that one capability ambient, or with none.
AS = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def check(result):
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
bit = 40 if sys.argv[1] == "ambient" else None
check(libc.prctl(8, 1, 0, 0, 0))  # PR_SET_KEEPCAPS
os.setgroups([])
os.setgid(USER)
os.setuid(USER)
word = 0 if bit is None else 1 << (bit - 32)
check(libc.capset(struct.pack("=Ii", 0x20080522, 0), struct.pack("=6I", 0, 0, 0, word, word, word)))
if bit is not None:
    check(libc.prctl(47, 2, bit, 0, 0))  # PR_CAP_AMBIENT_RAISE
os.chdir("FOLDER")
os.execvp(sys.argv[2], sys.argv[2:])
""".replace("USER", str(USER)).replace("FOLDER", FOLDER)
LOOP = (
    "echo $$ >pid; n=0; while [ ! -e go ]; do n=$((n+1)); echo $n; sleep 0.2; done; "
    "id -u; grep CapEff /proc/self/status"
)


@pytest.fixture(scope="module")
def user(target: guest.Guest) -> guest.Guest:
    """The guest, with a folder of the user's."""
    run = target.shell.run
    run(f"mkdir {FOLDER}")
    run(f"cat >{FOLDER}/as.py <<'END'\n{AS}END")
    run(f"chown {USER}:{USER} {FOLDER}")
    return target


def as_user(target: guest.Guest, command: str, how: str = "ambient") -> tuple[int, str]:
    """Exit status and words of a command of the user's."""
    done = target.shell.run(f"python3 -B {FOLDER}/as.py {how} {command} 2>&1", check=False, timeout=120)
    return done.status, done.out


def test_doctor(user: guest.Guest) -> None:
    status, said = as_user(user, "pycriu doctor")
    assert status == 0, said
    assert "good trial: a process was dumped" in said
    status, said = as_user(user, "pycriu doctor", "none")
    assert status == 1, said
    assert "without CAP_CHECKPOINT_RESTORE" in said
    assert user.shell.run("pycriu doctor", timeout=120).out.splitlines()[0].startswith("good user: root"), "as root"


def test_an_ambient_capability(user: guest.Guest) -> None:
    """A loop without any privilege is dumped, and goes on where it was."""

    def run(command: str) -> shell.Result:
        return user.shell.run(f"cd {FOLDER}; {command}")

    run(f"rm -rf go out images pid; touch out; chown {USER} out")
    run(f"setsid python3 -B as.py none sh -c '{LOOP}' </dev/null >out 2>&1 &")
    run("n=0; until [ $(wc -l <out) -gt 3 ] || [ $n -gt 200 ]; do sleep 0.1; n=$((n+1)); done")
    pid = int(run("cat pid").out)
    status, said = as_user(user, f"pycriu dump --unprivileged -t {pid} -D images")
    assert status == 0, said
    assert run("stat -c %a images").out.strip() == "700"
    before = int(run("tail -n 1 out").out)
    status, said = as_user(user, "pycriu restore -d --unprivileged -D images")
    assert status == 0, said
    run(f"n=0; until [ $(tail -n 1 out) -gt {before + 2} ] || [ $n -gt 200 ]; do sleep 0.1; n=$((n+1)); done")
    run(f"touch go; n=0; while [ -e /proc/{pid} ] && [ $n -lt 200 ]; do sleep 0.1; n=$((n+1)); done")
    *counted, uid, caps = run("cat out").out.split("\n")[:-1]
    assert counted == [str(number + 1) for number in range(len(counted))]
    assert len(counted) > before + 2
    assert uid == str(USER)
    assert caps.split() == ["CapEff:", "0000000000000000"]
