# SPDX-License-Identifier: GPL-2.0-only
"""--unprivileged: a user with CAP_CHECKPOINT_RESTORE and nothing else dumps and restores own processes."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import google.protobuf
import pytest

from tests.host.conftest import alive, clean_up, interpreter_for_others, reap, wait_until

NOBODY = 65534
TOP = Path(__file__).resolve().parents[2]
LOOP = "n=0; while [ ! -e go ]; do n=$((n + 1)); echo $n; sleep 0.02; done; echo $(id -u) done"


def as_nobody(*words: str, capable: bool = True) -> list[str]:
    """The command run by nobody, with that one capability or with none."""
    caps = "-all,+checkpoint_restore" if capable else "-all"
    return [
        "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", f"--inh-caps={caps}",
        f"--ambient-caps={caps}", *words,
    ]  # fmt: skip


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of nobody's."""
    if shutil.which("setpriv") is None:
        pytest.skip("no setpriv on this machine: apt-get install util-linux")
    made = Path(tempfile.mkdtemp(prefix="pycriu-nobody-"))
    (made / "images").mkdir()
    # What is installed for these tests may lie where nobody but root may look.
    shutil.copytree(Path(google.protobuf.__file__).parents[1], made / "packages/google")
    os.chmod(made, 0o755)
    done = subprocess.run(
        as_nobody(interpreter_for_others(), "-c", "import pycriu.cli, google.protobuf"),
        env=environment(made), capture_output=True, text=True, check=False, cwd="/",
    )  # fmt: skip
    if done.returncode:
        shutil.rmtree(made)
        pytest.skip(f"nobody may not use this interpreter, or may not read the tree: {done.stderr.strip()[-200:]}")
    for path in (made, made / "images"):
        os.chown(path, NOBODY, NOBODY)
    try:
        yield made
    finally:
        clean_up()
        shutil.rmtree(made)


def environment(folder: Path) -> dict[str, str]:
    packages = f"{TOP}:{folder / 'packages'}"
    return {**os.environ, "PYTHONPATH": packages, "HOME": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}


def pycriu(folder: Path, *words: str, capable: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        as_nobody(interpreter_for_others(), "-m", "pycriu", *words, capable=capable),
        cwd=folder, env=environment(folder), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip


def start(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    """A loop that counts into the file out."""
    fd = os.open(folder / "out", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.fchown(fd, NOBODY, NOBODY)
    process = subprocess.Popen(
        [*words, "sh", "-c", LOOP], cwd=folder, stdin=subprocess.DEVNULL, stdout=fd, stderr=fd, start_new_session=True
    )
    os.close(fd)
    wait_until(lambda: (folder / "out").read_text().count("\n") > 3, "it counts")
    return process


def test_own_processes(folder: Path) -> None:
    loop = start(folder, *as_nobody(capable=False))
    words = ("--unprivileged", "-D", "images")
    dumped = pycriu(folder, "dump", "-t", str(loop.pid), *words)
    assert dumped.returncode == 0, dumped.stderr
    reap(loop.pid)
    before = (folder / "out").read_text()
    restored = pycriu(folder, "restore", "-d", *words)
    assert restored.returncode == 0, restored.stderr
    wait_until(lambda: len((folder / "out").read_text()) > len(before) + 10, "it counts on")
    (folder / "go").touch()
    wait_until(lambda: not alive(loop.pid), "it ends")
    said = (folder / "out").read_text().splitlines()
    assert said == [*(str(n) for n in range(1, len(said))), f"{NOBODY} done"]


def test_it_must_be_said_and_it_takes_the_capability(folder: Path) -> None:
    loop = start(folder, *as_nobody(capable=False))
    words = ("dump", "-t", str(loop.pid), "-D", "images")
    refused = pycriu(folder, *words)
    assert refused.returncode == 1
    assert "pycriu is not run as root" in refused.stderr
    assert "--unprivileged" in refused.stderr
    refused = pycriu(folder, *words, "--unprivileged", capable=False)
    assert refused.returncode == 1
    assert "CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE is needed" in refused.stderr
    assert alive(loop.pid)


def test_processes_of_others_are_not_touched(folder: Path) -> None:
    loop = start(folder)  # of root
    refused = pycriu(folder, "dump", "-t", str(loop.pid), "-D", "images", "--unprivileged")
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    assert "bug of pycriu" not in refused.stderr, refused.stderr
    time.sleep(0.1)
    assert alive(loop.pid)
    assert not list((folder / "images").iterdir())


HOOKS = """
import os, time, pycriu
say = lambda word: print(word, flush=True)
pycriu.before_checkpoint(lambda: say("before"))
pycriu.after_restore(lambda: say("back"))
say("ready")
while not os.path.exists("go"):
    time.sleep(0.01)
"""


def test_hooks_of_own_processes(folder: Path) -> None:
    (folder / "hooks.py").write_text(HOOKS)
    fd = os.open(folder / "out", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.fchown(fd, NOBODY, NOBODY)
    program = subprocess.Popen(
        as_nobody(interpreter_for_others(), "hooks.py", capable=False), cwd=folder, env=environment(folder),
        stdin=subprocess.DEVNULL, stdout=fd, stderr=fd, start_new_session=True,
    )  # fmt: skip
    os.close(fd)
    wait_until(lambda: "ready" in (folder / "out").read_text(), "it is ready")
    words = ("--unprivileged", "-D", "images")
    dumped = pycriu(folder, "dump", "-t", str(program.pid), *words)
    assert dumped.returncode == 0, dumped.stderr
    reap(program.pid)
    restored = pycriu(folder, "restore", "-d", *words)
    assert restored.returncode == 0, restored.stderr
    assert (folder / "out").read_text().split() == ["ready", "before", "back"]
    (folder / "go").touch()
    wait_until(lambda: not alive(program.pid), "it ends")


def test_doctor(folder: Path) -> None:
    """With the capability all is well; without, it is said how to come by it."""
    done = pycriu(folder, "doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "with CAP_CHECKPOINT_RESTORE: add --unprivileged" in done.stdout
    assert "good trial: " in done.stdout
    done = pycriu(folder, "doctor", capable=False)
    assert done.returncode == 1
    assert "bad  user: " in done.stdout
    assert "without CAP_CHECKPOINT_RESTORE" in done.stdout
    assert "docs/guide.md" in done.stdout
    assert "note trial: not done" in done.stdout
    assert done.stdout.splitlines()[-1] == "Not yet: user"


def test_doctor_where_processes_of_others_are_shown_by_number_only(folder: Path) -> None:
    """hidepid=1: that nothing can be read of them is no fault of the kernel's."""
    hide = ["unshare", "--mount", "sh", "-ec", 'mount -t proc -o hidepid=1 proc /proc; exec "$@"', "sh"]
    done = subprocess.run(
        [*hide, *as_nobody(interpreter_for_others(), "-m", "pycriu", "doctor")], cwd=folder, env=environment(folder),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "good kernel: " in done.stdout


def test_doctor_where_privileges_cannot_be_gained(folder: Path) -> None:
    done = subprocess.run(
        as_nobody("setpriv", "--no-new-privs", interpreter_for_others(), "-m", "pycriu", "doctor", capable=False),
        cwd=folder, env=environment(folder), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "bad  no_new_privs: set" in done.stdout


def capability_of_a_file(path: Path) -> None:
    """setcap cap_checkpoint_restore=ep: VFS_CAP_REVISION_2, effective; bit 40."""
    try:
        os.setxattr(path, "security.capability", struct.pack("<5I", 0x02000001, 0, 0, 1 << 8, 0))
    except OSError as error:
        pytest.skip(f"files cannot have capabilities in {path.parent}: {error.strerror}")


def test_a_copy_of_the_interpreter_that_has_the_capability(folder: Path) -> None:
    """As the guide has it: whoever may run the copy, and who runs the interpreter itself has nothing."""
    copy = folder / "python3"
    shutil.copy(interpreter_for_others(), copy)
    os.chown(copy, 0, NOBODY)
    copy.chmod(0o750)
    capability_of_a_file(copy)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            as_nobody(str(copy), "-m", "pycriu", *words, capable=False), cwd=folder, env=environment(folder),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip

    loop = start(folder, *as_nobody(capable=False))
    dumped = run("dump", "--unprivileged", "-t", str(loop.pid), "-D", "images")
    assert dumped.returncode == 0, dumped.stderr
    reap(loop.pid)
    assert pycriu(folder, "restore", "-d", "--unprivileged", "-D", "images", capable=False).returncode == 1
    restored = run("restore", "-d", "--unprivileged", "-D", "images")
    assert restored.returncode == 0, restored.stderr
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert f"{name}:\t0000000000000000\n" in Path(f"/proc/{loop.pid}/status").read_text()
    (folder / "go").touch()
    wait_until(lambda: not alive(loop.pid), "it ends")
    assert (folder / "out").read_text().splitlines()[-1] == f"{NOBODY} done"
    done = run("doctor")
    assert done.returncode == 0, done.stdout
    assert "good trial: " in done.stdout
