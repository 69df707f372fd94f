# SPDX-License-Identifier: GPL-2.0-only
"""cpuinfo dump and check, and --cpu-cap: what the CPU of the images must have in common with ours."""

from __future__ import annotations

import os
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests import peer

if TYPE_CHECKING:
    from tests.host.conftest import Host

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="plants instructions of x86_64")


def boast(host: Host) -> None:
    """Give the CPU of the image another model, and every instruction there is."""
    path = host.images / "cpuinfo.img"
    data = path.read_bytes()
    from pycriu.images import messages as m

    entry = m.cpuinfo_entry.FromString(data[12:])
    entry.x86_entry[0].model += 1
    entry.x86_entry[0].capability[6] |= 1 << 21  # tbm, which was in three generations of CPUs
    content = entry.SerializeToString()
    path.write_bytes(data[:8] + struct.pack("<I", len(content)) + content)


def test_dump_and_check(host: Host) -> None:
    where = ("-D", str(host.images))
    assert "No such file" in host.run("cpuinfo", "check", *where).errors()
    assert host.run("cpuinfo", "dump", *where).ok
    assert [path.name for path in host.images.iterdir()] == ["cpuinfo.img"]
    checked = host.run("cpuinfo", "check", *where)
    assert checked.ok
    assert "means nothing" not in checked.log
    boast(host)
    refused = host.run("cpuinfo", "check", *where)
    assert refused.status == 1
    assert "model " in refused.errors()
    assert "instructions that are missing here: tbm" in refused.errors()
    assert host.run("cpuinfo", "check", *where, "--cpu-cap=fpu").ok
    assert "dump or check" in host.run("cpuinfo", "say", *where).errors()
    assert "dump or check" in host.run("cpuinfo", *where).errors()
    assert "--cpu-cap cheese" in host.run("cpuinfo", "check", *where, "--cpu-cap=cheese").errors()


def test_a_checkpoint_with_what_its_cpu_had(host: Host) -> None:
    subject = host.python("pause_for_dump()\nsay('ok')")
    assert host.dump(subject, "--cpu-cap").ok
    assert (host.images / "cpuinfo.img").exists()
    boast(host)
    refused = host.restore("--cpu-cap=ins")
    assert not refused.ok
    assert "missing here: tbm" in refused.errors()
    dry = host.run("restore", "--dry-run", "-D", str(host.images), "--cpu-cap=ins")
    assert dry.status == 1
    assert "missing here: tbm" in dry.log
    dry = host.run("restore", "--dry-run", "-D", str(host.images))
    assert dry.ok, dry
    assert "note: a program that uses what this CPU lacks will die: instructions" in dry.log
    restored = host.restore("--cpu-cap=ins,fpu,^ins")
    assert restored.ok, restored
    assert subject.go() == ["ok"]


def test_without_the_option_there_is_nothing_of_it(host: Host) -> None:
    subject = host.python("pause_for_dump()\nsay('ok')")
    assert host.dump(subject, "--cpu-cap=none").ok
    assert not (host.images / "cpuinfo.img").exists()
    assert "cpuinfo.img" in host.restore("--cpu-cap=all").errors()
    assert host.restore().ok
    assert subject.go() == ["ok"]


def test_criu_and_we_understand_each_other(host: Host) -> None:
    try:
        criu = peer.find()
    except peer.NoPeerError as error:
        pytest.skip(str(error))
    where = ("-D", str(host.images))
    assert host.run("cpuinfo", "dump", *where).ok
    done = subprocess.run([*criu.command, "cpuinfo", "check", *where], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (host.images / "cpuinfo.img").unlink()
    subprocess.run([*criu.command, "cpuinfo", "dump", *where], capture_output=True, check=True)
    checked = host.run("cpuinfo", "check", *where)
    assert checked.ok, checked
