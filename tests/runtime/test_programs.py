# SPDX-License-Identifier: GPL-2.0-only
"""Real programs in the guest, with clients that would notice a loss: the scenarios of tests/programs, as on the host.

The programs are Debian's for the guest's architecture, on the guest's data disk (tests/packed.py).
"""

from __future__ import annotations

import pytest

from layer.target import bootfile, guest
from tests import packed

THERE = "/data"
SECONDS = 90.0
ENVIRONMENT = (
    f"PATH={THERE}/bin:$PATH LD_LIBRARY_PATH={THERE}/lib TERMINFO={THERE}/terminfo PYTHONPATH={THERE}/scenarios"
)


@pytest.fixture(scope="module")
def options(options: guest.Options, boot: bootfile.Boot) -> guest.Options:
    """With the programs on the data disk."""
    return packed.on_disk(options, lambda folder: packed.disk(boot.machine, folder))


@pytest.mark.parametrize("name", packed.SCENARIOS)
def test_program(target: guest.Guest, name: str) -> None:
    for program in packed.SCENARIOS[name]:
        if not (target.logs / "programs/bin" / program).exists():
            pytest.skip(f"{program} is built on the host, which has no compiler for it: apt-get install golang-go")
    target.shell.run(f"mkdir /tmp/{name}")
    command = f"cd /tmp/{name} && {ENVIRONMENT} python3 -B {THERE}/scenarios/{name}.py"
    said = target.shell.run(command, timeout=SECONDS, check=False).out
    assert said.splitlines()[-1:] == ["PASS"], said
    target.shell.run(f"rm -rf /tmp/{name}")
