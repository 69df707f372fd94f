# SPDX-License-Identifier: GPL-2.0-only
"""The command as it is run: exit status, what goes where, what it costs to start; and the log's form."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import BinaryIO

import pytest

from pycriu import log
from pycriu.errors import UserError

ROOT = Path(__file__).parents[2]


def pycriu(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    # a home of its own: a configuration file of whoever runs the tests must not matter
    settings = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(cwd), **environment}
    return subprocess.run(
        [sys.executable, "-m", "pycriu", *words], cwd=cwd, env=settings, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("words", [("-h",), ("--help",), ("dump", "-h")])
def test_help(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = pycriu(*words, cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("usage:")
    assert done.stderr == ""


def test_version(tmp_path: Path) -> None:
    done = pycriu("-V", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"Version: \d+\.\d+\.\d+\n", done.stdout)


@pytest.mark.parametrize("words", [(), ("dump", "extra"), ("-j",)])
def test_usage(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = pycriu(*words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("usage:")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("jump",), "pycriu: unknown action jump\n"),
        (("lazy-pages", "-t", "1"), "pycriu: the action lazy-pages is not supported by pycriu"),
        (("dump", "--lazy-pages", "-t", "1"), "pycriu: --lazy-pages is not supported by pycriu: "),
        (("dump", "-t", "1", "-D", "none/deeper"), "no such directory\n"),
        (("restore", "-W", "none"), "no such directory\n"),
        (("restore", "-o", "none/log"), "No such file or directory\n"),
        (("restore", "--config", "none"), "pycriu: configuration file none:"),
        (("pre-dump", "-t", "1", "--dry-run"), "pycriu: --dry-run is not to be had with pre-dump\n"),
        (("dedup", "--dry-run"), "pycriu: --dry-run is not to be had with dedup\n"),
    ],
)
def test_refused_before_there_is_a_log(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    done = pycriu(*words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_dump_without_a_pid_fails_in_the_log_and_on_standard_error(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    done = pycriu("dump", "-v4", "-o", "log", "-W", "work", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "pycriu: --tree is missing"
    assert done.stderr.splitlines()[-1] == "pycriu: Dumping FAILED."
    path = work / "log"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lines = path.read_text().splitlines()
    assert re.fullmatch(r"\(\d\d\.\d{6}\) Version: .*", lines[0])
    assert re.fullmatch(r"\(\d\d\.\d{6}\) Running on .* Linux .*", lines[1])
    assert re.fullmatch(r"\(\d\d\.\d{6}\) Error \(pycriu/[a-z/]+\.py:\d+\): --tree is missing", lines[2])
    assert re.fullmatch(r"\(\d\d\.\d{6}\) Error \(pycriu/cli\.py:\d+\): Dumping FAILED\.", lines[-1])


def test_an_option_without_meaning_is_told(tmp_path: Path) -> None:
    done = pycriu("restore", "-t", "1", "-o", "-", cwd=tmp_path)
    assert done.returncode == 1
    assert re.search(r"^Warn  \(pycriu/cli\.py:\d+\): --tree means nothing to restore$", done.stdout, re.MULTILINE)
    assert "Restoring FAILED." in done.stdout


def test_configuration_files_come_first(tmp_path: Path) -> None:
    (tmp_path / ".criu").mkdir()
    (tmp_path / ".criu" / "default.conf").write_text("log-file from-home\nverbosity=3\n")
    (tmp_path / "more").write_text("log-file from-more\n")
    (tmp_path / "env").write_text("log-file from-env\n")

    def logs(*words: str, **environment: str) -> set[str]:
        pycriu("dump", *words, cwd=tmp_path, **environment)
        found = {path.name for path in tmp_path.glob("from-*")}
        for name in found:
            (tmp_path / name).unlink()
        return found

    assert logs() == {"from-home"}
    assert logs("--config", "more") == {"from-more"}
    assert logs(CRIU_CONFIG_FILE="env") == {"from-env"}
    assert logs("--config", "more", CRIU_CONFIG_FILE="env") == {"from-more"}
    assert logs("-o", "from-argv", "--config", "more") == {"from-argv"}
    assert logs("--no-default-config") == set()
    (tmp_path / "bad").write_text("# fine\nverbosity 3\nnonsense\n")
    done = pycriu("dump", "--config", "bad", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "pycriu: configuration file bad, line 3: unknown option --nonsense" in done.stderr


def test_without_capabilities(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        done = pycriu("dump", "-t", "1", cwd=tmp_path)
    else:
        program = (
            "import os, sys; sys.path.insert(0, sys.argv[1]); from pycriu.cli import main; os.chdir('/'); "
            "os.setgroups([]); os.setgid(65534); os.setuid(65534); sys.exit(main(['dump', '-t', '1']))"
        )
        done = subprocess.run([sys.executable, "-c", program, str(ROOT)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE is needed" in done.stderr


def test_a_signal_becomes_an_exception_once() -> None:
    from pycriu.actions import Signals

    before = signal.getsignal(signal.SIGTERM)
    with Signals():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        os.kill(os.getpid(), signal.SIGTERM)  # while what was begun is undone
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
    assert signal.getsignal(signal.SIGTERM) == before


def test_starting_costs_little() -> None:
    program = (
        "import sys; from pycriu import cli; from pycriu.images import messages, schema, store; "
        "schema.expect_no_well_known_types(); messages.core_entry; print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    heavy = {"argparse", "dataclasses", "inspect", "pathlib", "typing", "logging", "subprocess", "enum", "signal", "re"}
    site = subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    assert not (heavy - set(site.stdout.split())) & set(done.stdout.split())


# --- the log ---


class Written:
    """What a log wrote to a file, and to standard error."""

    def __init__(self, path: Path, level: int) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self.log = log.Log(level, self.fd)

    def lines(self) -> list[str]:
        self.log.flush()
        return self.path.read_text().splitlines()


@pytest.mark.parametrize(("level", "count"), [(1, 1), (2, 2), (3, 3), (4, 4)])
def test_levels(tmp_path: Path, level: int, count: int) -> None:
    written = Written(tmp_path / "log", level)
    for say in (written.log.error, written.log.warn, written.log.info, written.log.debug):
        say("x %d", 5)
    lines = written.lines()
    assert len(lines) == count
    stamp = r"\(00\.\d{6}\) " if level >= log.INFO else ""
    forms = (r"Error \(.*test_cli\.py:\d+\): x 5", r"Warn  \(.*test_cli\.py:\d+\): x 5", "x 5", "x 5")
    for line, form in zip(lines, forms, strict=False):
        assert re.fullmatch(stamp + form, line)


def test_nothing_is_written_before_the_flush(tmp_path: Path) -> None:
    written = Written(tmp_path / "log", log.DEBUG)
    written.log.info("first")
    assert written.path.read_text() == ""
    assert len(written.lines()) == 1
    assert len(written.lines()) == 1


def test_a_percent_sign_without_arguments_is_text(tmp_path: Path) -> None:
    written = Written(tmp_path / "log", log.DEBUG)
    written.log.info("100%s")
    assert written.lines()[0].endswith("100%s")


def test_bytes_that_are_no_text_do_not_stop_the_log(tmp_path: Path) -> None:
    written = Written(tmp_path / "log", log.DEBUG)
    written.log.info("%s", os.fsdecode(b"\xff"))
    assert written.lines()[0].endswith("\\udcff")


@pytest.mark.parametrize(
    ("seconds", "stamp"), [(0.0, "00.000000"), (1.5, "01.500000"), (123.000001, "123.000001"), (-1.0, "00.000000")]
)
def test_time_stamps(seconds: float, stamp: str) -> None:
    assert log.timestamp(seconds) == stamp


def test_errors_reach_standard_error_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    written = Written(tmp_path / "log", log.ERROR)
    written.log.error("broken")
    written.log.warn("odd")
    written.log.flush()
    assert capfd.readouterr().err == "pycriu: broken\n"
    own = log.Log(log.ERROR)
    own.error("once", where="a:1")
    own.flush()
    assert capfd.readouterr().err == "Error (a:1): once\n"


def test_the_place_of_an_error_is_where_it_was_raised() -> None:
    with pytest.raises(UserError) as caught:
        log.open_log("none/log", "/")
    assert re.fullmatch(r"pycriu/log\.py:\d+", log.place_of(caught.value))
    assert log.place_of(UserError("never raised")) == "?"


# --- where words go ---


@pytest.mark.parametrize("words", [("-h",), ("-V",), ("check", "--list"), ("check",)])
def test_a_standard_output_that_takes_nothing_is_named(tmp_path: Path, words: tuple[str, ...]) -> None:
    with open("/dev/full", "wb") as full:
        done = run_with(full, tmp_path, *words)
    assert done.returncode == 1
    assert "standard output: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert "bug" not in done.stderr


def test_a_log_that_takes_nothing_is_told_of_once(tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = run_with(full, tmp_path, "cpuinfo", "dump", "-o", "-", "-v4")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "pycriu: the log is not complete: No space left on device\n"
    assert (tmp_path / "cpuinfo.img").exists()


INTERRUPTED = """
import os, signal, sys
from pycriu import cli, log
place, name = {"before": (cli.arguments, "parse"), "behind": (log.Log, "error")}[sys.argv.pop(1)]
real = getattr(place, name)
def interrupted(*words, **more):
    signal.raise_signal(signal.SIGINT)
    return real(*words, **more)
setattr(place, name, interrupted)
cli.command()
"""


@pytest.mark.parametrize("when", ["before", "behind"])
def test_a_key_that_interrupts_is_told_in_a_word_whenever_it_comes(tmp_path: Path, when: str) -> None:
    """Also while the words are read, and while an error is told."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, when, "dump", "-t", "0"],
        capture_output=True, text=True, check=False, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "pycriu: interrupted\n")


def test_a_log_into_a_pipe_that_does_not_block_is_whole() -> None:
    """As a terminal that some other program shares with us may be: its reader is only slow."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    lines = [f"line {number} {'x' * 60}" for number in range(4000)]
    read: list[bytes] = []

    def slowly() -> None:
        while piece := os.read(reader, 1 << 14):
            read.append(piece)
            time.sleep(0.001)

    thread = threading.Thread(target=slowly)
    thread.start()
    with log.Log(log.INFO, writer, echo=False) as said:
        for line in lines:
            said.info("%s", line)
    os.close(writer)
    thread.join()
    os.close(reader)
    assert [line.partition(") ")[2] for line in b"".join(read).decode().splitlines()] == lines


@pytest.mark.parametrize("closed", ["<&-", "<&- >&-", "2>&-", "<&- >&- 2>&-"])
def test_no_image_gets_the_number_of_a_standard_descriptor(tmp_path: Path, closed: str) -> None:
    # a page server with a wrong port fails while it has its directory open, and says so on standard error
    command = f"{sys.executable} -m pycriu"
    line = f"{command} page-server -D . --port 0 -o log {closed}; {command} check {closed}"
    done = subprocess.run(
        ["sh", "-c", line], cwd=tmp_path, env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1)
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == ["log"]
    assert "--port 0: not a positive number" in (tmp_path / "log").read_text()


def run_with(out: BinaryIO, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """pycriu with this standard output."""
    return subprocess.run(
        [sys.executable, "-m", "pycriu", *words], cwd=folder, stdout=out, stderr=subprocess.PIPE, text=True,
        check=False, env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(folder)},
    )  # fmt: skip


@pytest.mark.parametrize("address", [("--port", "99999"), ("--port", "1", "--address", "x" * 80 + ".nowhere")])
def test_an_address_that_cannot_be_one(tmp_path: Path, address: tuple[str, ...]) -> None:
    done = pycriu("page-server", "-D", str(tmp_path), *address, cwd=tmp_path)
    assert done.returncode == 1
    assert f"--port {address[1]}: " in done.stderr
    assert "bug" not in done.stderr
    assert os.listdir(tmp_path) == []


def test_a_page_server_without_a_port_takes_a_free_one_and_says_which(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "pycriu", "page-server", "-D", str(tmp_path), "--address", "127.0.0.1", "-v3"]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True, cwd=ROOT) as server:
        assert server.stderr is not None
        said = next(line for line in server.stderr if "Listening on port" in line)
        try:
            with socket.create_connection(("127.0.0.1", int(said.split()[-1])), timeout=20):
                pass  # who says nothing ends it
            assert server.wait(20) == 1
        finally:
            server.kill()


@pytest.mark.parametrize("encoding", ["ascii", "utf-8:strict", "latin-1"])
def test_names_need_not_be_in_the_encoding_of_standard_output(tmp_path: Path, encoding: str) -> None:
    odd = os.fsdecode("gr\N{SNOWMAN}".encode() + b"\xff")
    (tmp_path / odd).mkdir()
    done = pycriu("restore", "--dry-run", "-D", odd, cwd=tmp_path, PYTHONIOENCODING=encoding)
    assert done.returncode == 1
    assert "inventory.img is missing" in done.stdout
    assert "bug" not in done.stderr


def test_names_of_files_are_utf_8(tmp_path: Path) -> None:
    done = pycriu("check", cwd=tmp_path, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "pycriu: Python takes the names of files for ascii, the images have UTF-8\n  set PYTHONUTF8=1\n"
    )
