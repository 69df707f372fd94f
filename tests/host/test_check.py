# SPDX-License-Identifier: GPL-2.0-only
"""`pycriu check` on this kernel: the same verdict as CRIU's, nothing left behind, and a way from a miss to its fix."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pycriu.check as check
from pycriu.probes.table import FEATURES, REQUIRED
from tests import debian, peer
from tests.host.conftest import children, wait_until

if TYPE_CHECKING:
    from tests.host.conftest import Host

TOP = Path(__file__).parents[2]

# `criu check --feature` of CRIU 4.2.
NAMES = (
    "mnt_id", "mem_dirty_track", "aio_remap", "timerfd", "tun", "tun_ns", "userns", "fdinfo_lock", "seccomp_suspend",
    "seccomp_filters", "loginuid", "cgroupns", "autofs", "tcp_half_closed", "compat_cr", "uffd", "uffd-noncoop",
    "can_map_vdso", "sk_ns", "sk_unix_file", "net_diag_raw", "nsid", "link_nsid", "kcmp_epoll", "timens",
    "external_net_ns", "clone3_set_tid", "newifindex", "nftables", "has_ipt_legacy", "pidfd_store", "ns_pid",
    "apparmor_stacking", "network_lock_nftables", "sockopt_buf_lock", "memfd_hugetlb", "move_mount_set_group",
    "openat2", "get_rseq_conf", "ipv6_freebind", "pagemap_scan", "overlayfs_maps", "timer_cr_ids", "breakpoints",
    "pagemap_scan_guard_pages",
)  # fmt: skip

# Where we say no and CRIU says yes: why.
EXPLAINED = {
    "userns": "CRIU looks whether there are any; in a chroot, for one, none can be made",
    "external_net_ns": "it is about the program: pycriu keeps no network namespaces",
    "net_diag_raw": "CRIU does not notice that raw sockets are not listed",
}


def pycriu(*words: str) -> subprocess.CompletedProcess[str]:
    """The command line."""
    line = [sys.executable, "-m", "pycriu", *words]
    return subprocess.run(line, cwd=TOP, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module", params=peer.SUITES)
def criu(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """CRIU's command line: that of a Debian release, and the newest."""
    try:
        return peer.of_suite(request.param).command
    except peer.NoPeerError as error:
        pytest.skip(str(error))


def test_every_name_of_criu_is_known() -> None:
    assert len(NAMES) == 45
    assert set(NAMES) <= {feature.name for feature in FEATURES}


@pytest.mark.parametrize("name", NAMES)
def test_the_verdict_is_that_of_criu(criu: tuple[str, ...], name: str) -> None:
    theirs = subprocess.run([*criu, "check", "--feature", name], capture_output=True, text=True, check=False)
    said = theirs.stdout + theirs.stderr
    if f"Unknown feature {name}" in said:
        pytest.skip("this CRIU does not know it yet")
    ours = pycriu("check", "--feature", name)
    if theirs.returncode == 0:
        assert f"{name} is supported" in said
    if ours.returncode == 0:
        assert ours.stdout == f"{name} is supported\n"
    if name in EXPLAINED and theirs.returncode == 0 and ours.returncode == 1:
        assert "missing" in ours.stdout
        return
    assert (ours.returncode, theirs.returncode) in ((0, 0), (1, 1)), (ours.stdout, said)


def test_the_words_and_the_exit_status_are_those_of_criu(criu: tuple[str, ...]) -> None:
    for words in ((), ("--all",)):
        theirs = subprocess.run([*criu, "check", *words], capture_output=True, text=True, check=False)
        ours = pycriu("check", *words)
        if theirs.returncode != ours.returncode:
            missing = {line.split()[0] for line in ours.stdout.splitlines() if ": missing: " in line}
            assert missing - set(NAMES) or missing & set(EXPLAINED), "the same features, another verdict"
            continue
        last = theirs.stdout.strip().splitlines()
        assert ours.stdout.strip().splitlines()[-len(last) :] == last


def test_an_unknown_feature() -> None:
    done = pycriu("check", "--feature", "nonsense")
    assert done.returncode == 1
    assert "Unknown feature nonsense" in done.stderr


def traces() -> dict[str, Any]:
    """What a probe could leave in the system, and nobody else: other tests run meanwhile."""
    return {
        "mounts": [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if "pycriu" in line],
        "System V": [
            [line.split()[:2] for line in Path(f"/proc/sysvipc/{name}").read_text().splitlines()]
            for name in ("shm", "sem", "msg")
            if Path(f"/proc/sysvipc/{name}").exists()
        ],
        "next ids": [
            Path(f"/proc/sys/kernel/{name}_next_id").read_text()
            for name in ("shm", "sem", "msg")
            if Path(f"/proc/sys/kernel/{name}_next_id").exists()
        ],
        "files": sorted(name for name in os.listdir("/tmp") if name in ("one", "other", "auto", "low", "lower", "all")),
    }


def test_nothing_is_left_behind_by_who_is_killed_at_any_moment(host: Host) -> None:
    """No process, mount, segment, device or setting; orphans come to this process."""
    before = traces()
    mine = set(children(os.getpid()))
    chance = random.Random(7)
    for _ in range(40):
        run = subprocess.Popen(
            host.command("check", "--all"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=TOP
        )
        time.sleep(chance.uniform(0.05, 0.5))
        run.send_signal(signal.SIGKILL)
        run.wait()

    def all_gone() -> bool:
        for pid in set(children(os.getpid())) - mine:
            os.waitpid(pid, os.WNOHANG)
        return not set(children(os.getpid())) - mine

    wait_until(all_gone, "children of a probe are gone")
    assert traces() == before
    assert pycriu("check", "--feature", "clone3_set_tid").returncode == 0


# ------------------------------------------------------------------------------------ from a miss to the fragment


@pytest.fixture(scope="module")
def kconfig() -> Path:
    """The Kconfig files of a kernel."""
    found = sorted((debian.cache() / "kconfig").glob("*/Kconfig"))
    if not found:
        pytest.skip("no Kconfig files of a kernel in the cache: make demo leaves some there")
    return found[-1].parent


def audit(command: str, tree: Path, folder: Path) -> tuple[int, dict[str, Any]]:
    """The audit as `check` has told to call it; its report. The fragment is in the folder."""
    program, *words = shlex.split(command)
    assert program == "kernel-config/audit"
    words = [str(TOP / word) if word.startswith("kernel-config/") else word for word in words]
    line = [sys.executable, "-m", "layer", "audit", *words, "--kernel-tree", str(tree), "--format", "json"]
    done = subprocess.run(
        line, cwd=folder, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": str(TOP)},
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(done.stdout)


def unmet(report: dict[str, Any]) -> set[str]:
    """Symbols that are not as wanted."""
    return {finding["symbol"] for finding in report["findings"] if finding["verdict"] != "met"}


def test_what_this_kernel_lacks_is_in_the_fragment_that_the_named_command_writes(kconfig: Path, tmp_path: Path) -> None:
    told = json.loads(pycriu("check", "--all", "--json").stdout)
    if told["configuration"] is None:
        pytest.skip("this kernel does not tell its configuration")
    wanting = [feature for feature in told["features"] if feature["audit"]]
    if not wanting:
        pytest.skip("this kernel lacks nothing")
    for command in {feature["audit"] for feature in wanting}:
        mine = [feature for feature in wanting if feature["audit"] == command]
        symbols = {one["symbol"].removeprefix("CONFIG_") for one in mine for one in one["symbols"] if not one["met"]}
        _, report = audit(command, kconfig, tmp_path)
        assert symbols <= unmet(report)
        assert symbols <= set(re.findall(r"^CONFIG_(\w+)=", (tmp_path / "fix.cfg").read_text(), re.M))


def test_a_kernel_that_lacks_everything_is_mended_in_one_path(kconfig: Path, tmp_path: Path) -> None:
    """check names the symbols and the command; the command says why; its fragment makes both content."""
    release = kconfig.name
    config = tmp_path / "config"
    symbols = {symbol for feature in FEATURES for symbol in feature.symbols if "=" not in symbol}
    config.write_text(
        f"#\n# Linux/x86 {release} Kernel Configuration\n#\nCONFIG_64BIT=y\nCONFIG_X86_64=y\nCONFIG_EXPERT=y\n"
        + "".join(f"# CONFIG_{symbol} is not set\n" for symbol in sorted(symbols))
    )
    lacking = check.Configuration(str(config), check.parse_configuration(config.read_text()))
    wanted = {symbol for feature in FEATURES for symbol in check.unset(feature, lacking)}
    assert wanted == symbols
    assert {"CHECKPOINT_RESTORE", "KCMP", "UNIX_DIAG", "NF_TABLES_INET", "OVERLAY_FS"} <= wanted

    status, report = audit(check.audit(sorted(wanted), lacking), kconfig, tmp_path)
    assert status == 1
    told = {finding["symbol"]: finding for finding in report["findings"]}
    assert wanted - {"PERF_EVENTS"} <= unmet(report)  # which x86 selects, whatever the file says
    assert all(told[symbol]["reason"] for symbol in wanted)
    assert told["KCMP"]["verdict"] in ("off", "lost")

    fixed = tmp_path / "fixed"
    fixed.write_text(config.read_text() + (tmp_path / "fix.cfg").read_text())
    mended = check.Configuration(str(fixed), check.parse_configuration(fixed.read_text()))
    required = [feature for feature in FEATURES if feature.weight == REQUIRED]
    assert [feature.name for feature in required if check.unset(feature, mended)] == []
    status, report = audit(check.audit(sorted(wanted), mended), kconfig, tmp_path)
    assert status == 0
    assert not {finding["symbol"] for finding in report["findings"] if finding["required"]} & unmet(report)
