# SPDX-License-Identifier: GPL-2.0-only
"""The runtime suite: an image booted in QEMU, one boot per module, and what every module is checked for at its end.

Off by default, since it needs a built image: `pytest tests/runtime --qemu [--machine M]`. Times are limits for a real
CPU, multiplied by the accelerator's slowness and by --timeout-multiplier.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from layer import machine
from layer.errors import InputError
from layer.target import bootfile, guest
from layer.target.faults import CommandFailed, DeadlinePassed, GuestError

TOP = Path(__file__).resolve().parent.parent.parent
Boots = Callable[[bootfile.Boot, guest.Options], AbstractContextManager[guest.Guest]]
DEAD = pytest.StashKey[str]()  # on a module: why its guest is no more


@dataclass(frozen=True, slots=True)
class Suite:
    """What the command line asked for."""

    machine: str
    build: Path
    artifacts: Path
    multiplier: float
    keep: bool


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("qemu", "guests in QEMU")
    group.addoption("--qemu", action="store_true", help="run the tests that boot an image")
    group.addoption("--require-qemu", action="store_true", help="fail, rather than skip, what cannot be run")
    group.addoption("--machine", default="x86_64", help=f"one of {', '.join(machine.names())} (%(default)s)")
    group.addoption("--build", type=Path, help="build folder with the image (build/test/MACHINE, else build/MACHINE)")
    group.addoption("--keep", action="store_true", help="leave the last guest of a module running; says how to attach")
    group.addoption("--artifacts", type=Path, help="where console logs and the like go (a temporary folder)")
    group.addoption("--timeout-multiplier", type=float, default=1.0, help="on top of the accelerator's (%(default)s)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--qemu") or config.getoption("--require-qemu"):
        return
    reason = "boots an image in QEMU: ask for it with --qemu [--machine M]"
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.skip(reason=reason))


def unavailable(config: pytest.Config, reason: str) -> None:
    """Skip with the reason; fail with it under --require-qemu."""
    if config.getoption("--require-qemu"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def suite(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Suite:
    name = str(pytestconfig.getoption("--machine"))
    build = pytestconfig.getoption("--build")
    places = [build] if build else [TOP / "build" / "test" / name, TOP / "build" / name]
    chosen = next((place for place in places if (place / "images" / "boot.json").exists()), places[0])
    artifacts = pytestconfig.getoption("--artifacts") or tmp_path_factory.mktemp("artifacts")
    return Suite(
        machine.load(name).name,
        Path(chosen).absolute(),
        Path(artifacts).absolute(),
        float(pytestconfig.getoption("--timeout-multiplier")),
        bool(pytestconfig.getoption("--keep")),
    )


@pytest.fixture(scope="session")
def boot(suite: Suite, pytestconfig: pytest.Config) -> bootfile.Boot:
    """The image under test, and the emulator for it."""
    try:
        found = bootfile.load(suite.build / "images" / "boot.json")
    except InputError as error:
        unavailable(pytestconfig, str(error))
        raise
    if found.machine.name != suite.machine:
        pytest.fail(f"{found.file} is an image for {found.machine.name}, not for {suite.machine}", pytrace=False)
    if shutil.which(found.machine.qemu.binary) is None:
        unavailable(
            pytestconfig, f"{found.machine.qemu.binary} is missing: apt-get install {found.machine.qemu.package}"
        )
    return found


@pytest.fixture(scope="module")
def options(suite: Suite, request: pytest.FixtureRequest) -> guest.Options:
    """How this module boots; its logs have a folder of their own."""
    name = request.node.path.stem.removeprefix("test_")
    return guest.Options(suite.artifacts / suite.machine / name, multiplier=suite.multiplier, keep=suite.keep)


@pytest.fixture(scope="module")
def boots(request: pytest.FixtureRequest) -> Boots:
    """Boots a guest, says how that went, and at its end looks whether its kernel log tells of trouble."""

    @contextmanager
    def booted(image: bootfile.Boot, options: guest.Options) -> Iterator[guest.Guest]:
        with guest.booted(image, options) as running:
            report(request.config, running)
            yield running
            # A guest that was killed on purpose, or that died under a test, has nothing more to say.
            if running.qemu.ended() is None and DEAD not in request.node.stash:
                expect_no_trouble(running)

    return booted


@pytest.fixture(scope="module")
def target(
    boot: bootfile.Boot, options: guest.Options, boots: Boots, pytestconfig: pytest.Config
) -> Iterator[guest.Guest]:
    """The guest of a module."""
    with boots(boot, options) as running:
        yield running
        if options.keep:
            end = f"`kill {running.qemu.process.pid}` ends it"
            say(pytestconfig, f"the guest stays: {running.attach}  (Ctrl-] leaves it, {end})")


@pytest.fixture(scope="session")
def unless_possible(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Skips with a reason; fails with it under --require-qemu."""
    return lambda reason: unavailable(pytestconfig, reason)


def expect_no_trouble(booted: guest.Guest) -> None:
    """Fail with the lines of the kernel log that tell of an oops, a stall and the like."""
    lines = [fault.line for fault in booted.troubles()]
    assert not lines, f"the kernel log tells of trouble: {lines}; all of it: {booted.logs / 'dmesg.txt'}"


def report(config: pytest.Config, booted: guest.Guest) -> None:
    """One line on how it was booted; a boot time is worth watching."""
    how = booted.accelerator.name + (" on one console" if booted.one_console else "")
    say(config, f"{booted.boot.machine.name}: a shell after {booted.seconds:.2f} s ({how}); logs in {booted.logs}")


def say(config: pytest.Config, text: str) -> None:
    """A line on the terminal, whatever is captured."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    capture = config.pluginmanager.get_plugin("capturemanager")
    if reporter is None or capture is None:
        return
    with capture.global_and_fixture_disabled():
        reporter.ensure_newline()
        reporter.write_line(text)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """A guest that died fails the test it died in, and skips the rest of the module with the cause."""
    error = None if call.excinfo is None else call.excinfo.value
    survivable = CommandFailed | DeadlinePassed
    if (
        isinstance(error, GuestError)
        and not isinstance(error, survivable)
        and (module := item.getparent(pytest.Module))
    ):
        module.stash[DEAD] = f"{type(error).__name__}: {error.what}"
    return (yield)


def pytest_runtest_setup(item: pytest.Item) -> None:
    module = item.getparent(pytest.Module)
    cause = module.stash.get(DEAD, None) if module else None
    if cause is not None:
        unavailable(item.config, f"the guest died in a test before: {cause}")
