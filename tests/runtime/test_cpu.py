# SPDX-License-Identifier: GPL-2.0-only
"""`cpuinfo` and --cpu-cap on each CPU: what it offers is written down, and who lacks some of it says what."""

from __future__ import annotations

import pytest

from layer.target import guest

FOLDER = "/tmp/cpu"
IMAGES = "import sys; sys.path.append('/usr/lib/python3/dist-packages'); from pycriu import images"
# For each CPU, what gives that of an image a feature which none of QEMU's has, and the feature's name.
BOASTS = {
    "x86_64": ("cpuinfo.img", "entry['x86_entry'][0]['capability'][6] |= 1 << 21", "tbm"),
    "aarch64": ("pycriu-cpu.img", "entry['capabilities'][0] |= 1 << 47", "smesmop4"),
}
# The same for a task of a checkpoint: on aarch64 it has been told of them, in pairs of a key and a value.
OF_TASKS = BOASTS | {
    "aarch64": ("mm-*.img", "v = entry['mm_saved_auxv']; v[v[::2].index(16) * 2 + 1] |= 1 << 47", "smesmop4"),
}


@pytest.fixture
def folder(target: guest.Guest) -> str:
    target.shell.run(f"rm -rf {FOLDER}; mkdir {FOLDER}")
    return FOLDER


def boast(target: guest.Guest, folder: str, pattern: str, change: str) -> None:
    """Change the entry of an image."""
    target.shell.run(f"""cd {folder} && python3 -c "{IMAGES}
name, = sys.argv[1:]
with open(name, 'rb') as file: content = images.load(file)
entry = content['entries'][0]; {change}
with open(name, 'wb') as file: images.dump(content, file)" {pattern}""")


def test_cpuinfo(target: guest.Guest, folder: str) -> None:
    shell = target.shell
    image, change, name = BOASTS[target.boot.machine.name]
    assert shell.run(f"pycriu cpuinfo check -D {folder}", check=False, timeout=60).status == 1
    shell.run(f"pycriu cpuinfo dump -D {folder}", timeout=60)
    assert shell.out(f"ls {folder}").split() == [image]
    shell.run(f"pycriu cpuinfo check -D {folder}", timeout=60)
    boast(target, folder, image, change)
    refused = shell.run(f"pycriu cpuinfo check -D {folder}", check=False, timeout=60)
    assert refused.status == 1
    assert f"instructions that are missing here: {name}" in refused.out
    shell.run(f"pycriu cpuinfo check -D {folder} --cpu-cap=fpu", timeout=60)


def test_the_names_are_those_of_the_kernel(target: guest.Guest) -> None:
    if target.boot.machine.name != "aarch64":
        pytest.skip("on x86_64 the words of CPUID are compared on the host (tests/unit/test_cpuinfo.py)")
    code = f"{IMAGES}; from pycriu.arch import hwcaps; print(*hwcaps.names(hwcaps.here().capabilities))"
    features = target.shell.out("sed -n 's/^Features.*: //p' /proc/cpuinfo | head -n 1").split()
    assert target.shell.out(f'python3 -c "{code}"').split() == [name for name in features if name != "evtstrm"]


def test_a_checkpoint_of_another_cpu(target: guest.Guest, folder: str) -> None:
    shell = target.shell
    image, change, name = OF_TASKS[target.boot.machine.name]
    shell.run(f"cd {folder} && (setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $! >/tmp/cpu.pid)")
    pid = int(shell.out("cat /tmp/cpu.pid"))
    shell.run(f"pycriu dump -D {folder} -t {pid} --cpu-cap", timeout=60)
    dry = shell.run(f"pycriu restore --dry-run -D {folder} --cpu-cap", timeout=120)
    assert "succeed" in dry.out
    boast(target, folder, image, change)
    for words in ("restore -d", "restore --dry-run"):
        refused = shell.run(f"pycriu {words} -D {folder} --cpu-cap=ins", check=False, timeout=120)
        assert refused.status == 1
        assert f"missing here: {name}" in refused.out
    dry = shell.run(f"pycriu restore --dry-run -D {folder}", timeout=120)
    assert f"note: a program that uses what this CPU lacks will die: instructions that are missing here: {name}" in (
        dry.out
    )
    shell.run(f"pycriu restore -d -D {folder} --cpu-cap=fpu", timeout=60)
    shell.run(f"kill {pid}")
