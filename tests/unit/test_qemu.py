# SPDX-License-Identifier: GPL-2.0-only
"""Starting an emulator, with QEMU itself: its sockets can be had wherever temporary files and disks lie."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest

from layer import machine
from layer.target import guest, qemu
from layer.target.bootfile import Boot


@pytest.fixture
def boot(tmp_path: Path) -> Boot:
    """A board without a system, which does nothing for ever."""
    found = machine.load("x86_64")
    if shutil.which(found.qemu.binary) is None:
        pytest.skip(f"{found.qemu.binary} is not installed: apt-get install {found.qemu.package}")
    files = [tmp_path / name for name in ("kernel", "initramfs", "data", "config")]
    files[0].write_bytes(bytes(4096))
    for file in files[1:]:
        file.write_bytes(bytes(1 << 20))
    return Boot(found, *files, templates=(), file=tmp_path / "boot.json")


@pytest.mark.parametrize("folder", ["x" * 100, "a,b", "a b"], ids=["deep", "comma", "blank"])
def test_an_emulator_starts_wherever_its_files_are(
    boot: Boot, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / folder
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    launch = qemu.Launch(boot, "tcg", guest.scratch_disk(boot, place))
    with qemu.started(launch, place / "qemu.log") as emulator:
        lines = [emulator.connect(name) for name in ("serial", "shell")]
        for line in lines:
            line.close()
        sockets = emulator.sockets
    assert not sockets.exists()


def test_a_disk_of_a_guest_takes_no_more_room_than_what_is_on_it(boot: Boot, tmp_path: Path) -> None:
    disk = guest.scratch_disk(boot, tmp_path)
    assert disk.read_bytes() == boot.data.read_bytes()
    assert disk.stat().st_blocks * 512 < disk.stat().st_size / 2


def test_an_emulator_that_dies_in_the_middle_of_a_word_is_ended_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qemu, "QUIT", 0.2)
    with socket.socket(socket.AF_UNIX) as server, subprocess.Popen(["sleep", "60"]) as process:
        server.bind(str(tmp_path / "qmp"))
        server.listen()

        def answer() -> None:
            client, _ = server.accept()
            client.sendall(b'{"QMP": {"vers')
            client.close()

        answering = threading.Thread(target=answer)
        answering.start()
        process.send_signal(signal.SIGSTOP)  # it would not leave when asked
        qemu.Qemu(process, tmp_path, tmp_path / "log").quit()
        answering.join()
        assert process.returncode == -signal.SIGKILL
