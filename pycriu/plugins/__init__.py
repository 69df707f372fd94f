# SPDX-License-Identifier: GPL-2.0-only
"""Plugins: what knows of devices and their like, which pycriu itself refuses. `interface` says when they are asked.

`cuda` comes with pycriu, and is in play where there is such a driver. Others are the Python files in the directory of
--libdir, each with a class `PLUGIN`. Nothing of this is imported where no plugin is in play.
"""

from __future__ import annotations

import os
import stat

from pycriu.errors import ImageError, PycriuError, UserError
from pycriu.images import messages as m
from pycriu.plugins.cuda import ABOUT, Cuda
from pycriu.plugins.interface import Plugin

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pycriu.fds.openfile import OpenFile
    from pycriu.images.store import ImagesDir, NewCheckpoint
    from pycriu.kernel.procfs import Mapping as Line
    from pycriu.log import Log
    from pycriu.tracing.pstree import Freeze
    from pycriu.tracing.tracee import Tracee

IMAGE = "pycriu-plugins.img"


class Acting:
    """The scope in which a plugin does its part: an error that is none of ours is its fault, and named so."""

    def __init__(self, who: Plugin | str, what: str) -> None:
        self._who = who if isinstance(who, str) else f"the plugin {who.NAME}"
        self._what = what

    def __enter__(self) -> None:
        return

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, PycriuError):
            said = f"{type(error).__name__}: {error}".removesuffix(": ")
            raise PycriuError(f"{self._who}: {self._what}: {said}") from error


class Plugins:
    """Those of one dump or restore.

    A restore takes place in their scope; at a dump, the scope of `Paused` is around the freeze.
    """

    def __init__(self, known: list[Plugin], log: Log) -> None:
        self.known, self._log = known, log
        self.used: list[Plugin] = []  # at a restore: those that the images name
        self._saved: list[tuple[Plugin, int, bytes]] = []
        self._data: dict[int, tuple[Plugin, bytes]] = {}

    def __enter__(self) -> None:
        return

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        _end(self.used, self._log, failed=error is not None)

    def add_cuda(self) -> None:
        """CUDA's, if it is not there yet."""
        if not any(isinstance(one, Cuda) for one in self.known):
            self.known.insert(0, Cuda(self._log))

    # ------------------------------------------------------------------------------------------------------------ dump

    def of_fd(self, file: OpenFile) -> Plugin | None:
        """Whose this open file is."""
        for one in self.known:
            with Acting(one, "handle_fd"):
                if one.handle_fd(file):
                    return one
        return None

    def has_vma(self, pid: int, line: Line) -> bool:
        """Whether somebody has this mapping."""
        for one in self.known:
            with Acting(one, "handle_vma"):
                if one.handle_vma(pid, line):
                    return True
        return False

    def after_freeze(self, tree: Freeze) -> None:
        """See Plugin."""
        for one in self.known:
            with Acting(one, "after_freeze"):
                one.after_freeze(tree)

    def save(self, number: int, file: OpenFile) -> None:
        """Keep what a plugin says of its open file, which gets this id."""
        plugin = self.of_fd(file)
        if plugin is None:
            raise PycriuError(f"the plugin of {file.name} does not want it any more")
        with Acting(plugin, "save_fd"):
            self._saved.append((plugin, number, plugin.save_fd(file)))

    def write(self, new: NewCheckpoint, inventory: Any) -> None:
        """The image, and who must be there at the restore, in the inventory, where CRIU looks for it, too."""
        said = []
        for one in self.known:
            with Acting(one, "before_write"):
                said.append((one, one.before_write()))
        entries = [m.pycriu_plugin_entry(plugin=one.NAME, data=note) for one, note in said if note is not None]
        entries += [m.pycriu_plugin_entry(plugin=one.NAME, file=number, data=data) for one, number, data in self._saved]
        if entries:
            new.write(IMAGE, entries)
            inventory.plugins_entry.plugins.extend(sorted({entry.plugin for entry in entries}))

    def thawed(self) -> None:
        """See Plugin."""
        for one in self.known:
            with Acting(one, "thawed"):
                one.thawed()

    def ended(self) -> None:
        """See Plugin."""
        for one in self.known:
            with Acting(one, "ended"):
                one.ended()

    def resume(self, tasks: Mapping[int, Tracee], tree: Freeze | None = None) -> None:
        """See Plugin."""
        for one in self.known if tree is not None else self.used:
            with Acting(one, "resume"):
                one.resume(tasks, tree)

    def end(self, *, failed: bool) -> None:
        """The last word to all."""
        _end(self.known, self._log, failed=failed)

    # --------------------------------------------------------------------------------------------------------- restore

    def read(self, images: ImagesDir) -> None:
        """UserError where one is missing, or cannot do its part here."""
        names = set(images.inventory().plugins_entry.plugins)
        entries: list[Any] = images.read_if_there(IMAGE)
        notes = {entry.plugin: entry.data for entry in entries if not entry.HasField("file")}
        for name in sorted(names):
            plugin = self._find(name)
            with Acting(plugin, "check"):
                plugin.check(notes.get(name))
            self.used.append(plugin)
        for entry in entries:
            if entry.plugin not in names:
                raise ImageError(f"{IMAGE}: the plugin {entry.plugin} is not in the inventory")
            if entry.HasField("file"):
                self._data[entry.file] = self._find(entry.plugin), entry.data

    def _find(self, name: str) -> Plugin:
        found = {one.NAME: one for one in self.known}
        if name in found:
            return found[name]
        raise UserError(
            f"these images were made with the plugin {name}, and cannot be restored without it",
            "--libdir names the directory of plugins; those of CRIU, which are libraries, are for criu",
        )

    def check_file(self, number: int) -> None:
        """ImageError where nothing is known of a plugin's file."""
        if number not in self._data:
            raise ImageError(f"{IMAGE} says nothing of the file {number}, which is a plugin's", "restore it with criu")

    def open(self, number: int) -> int:
        """Our descriptor for an open file that a plugin has saved."""
        plugin, data = self._data[number]
        with Acting(plugin, "restore_fd"):
            return plugin.restore_fd(data)


class Paused:
    """The scope in which the plugins' part of a tree may stand still. Whatever happens, it goes on in the end."""

    def __init__(self, plugins: Plugins, pids: list[int], seconds: int) -> None:
        self._plugins, self._pids, self._seconds = plugins, pids, seconds

    def __enter__(self) -> None:
        try:
            for one in self._plugins.known:
                with Acting(one, "pause"):
                    one.pause(self._pids, self._seconds)
        except BaseException:
            self._plugins.end(failed=True)
            raise

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._plugins.end(failed=error is not None)


def _end(some: list[Plugin], log: Log, *, failed: bool) -> None:
    """Each hears of the end, whatever another raises."""
    last: PycriuError | None = None
    for one in some:
        try:
            with Acting(one, "on_failure" if failed else "after_resume"):
                (one.on_failure if failed else one.after_resume)()
        except PycriuError as error:
            if failed:
                log.error("%s", error)  # beside the one that is being raised
            last = error
    if last is not None and not failed:
        raise last


def opened(libdir: str | None, log: Log) -> Plugins:
    """Those in play: CUDA's where there is such a driver, and those of the directory `libdir`."""
    found: list[Plugin] = [Cuda(log)] if os.path.exists(ABOUT) else []
    return Plugins(found + ([] if libdir is None else _of_directory(libdir, log)), log)


def demanded(images: ImagesDir, plugins: Plugins | None, log: Log) -> Plugins | None:
    """Those that a restore needs, beside those that are there already; None where it needs none."""
    names = images.inventory().plugins_entry.plugins
    if not names:
        return plugins
    if plugins is None:
        plugins = Plugins([], log)
    if Cuda.NAME in names:
        plugins.add_cuda()
    plugins.read(images)
    return plugins


def _of_directory(path: str, log: Log) -> list[Plugin]:
    try:
        names = sorted(os.listdir(path))
    except OSError as error:
        raise UserError(f"--libdir {path}: {error.strerror}") from None
    if libraries := [name for name in names if name.endswith(".so")]:
        log.info("--libdir: %s are plugins for criu", ", ".join(libraries))
    return [_load(os.path.join(path, name))(log) for name in names if name.endswith(".py") and name[0] != "."]


def _load(path: str) -> type[Plugin]:
    """The class of a plugin, whose code runs with all our power: nobody else may have been able to write it."""
    try:
        status = os.stat(path)
    except OSError as error:  # an editor's link to nowhere, or gone since
        raise UserError(f"{path} cannot be loaded: {error.strerror}") from None
    if status.st_mode & stat.S_IWOTH or status.st_uid not in (0, os.geteuid()):
        raise UserError(f"{path} may be written to by others, and is not run", "chown root, chmod o-w")
    from importlib import util

    spec = util.spec_from_file_location(f"pycriu_plugin_{os.path.basename(path)[:-3]}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} cannot be loaded")
    module: Any = util.module_from_spec(spec)
    with Acting(path, "cannot be loaded"):
        spec.loader.exec_module(module)
    made = getattr(module, "PLUGIN", None)
    if not (isinstance(made, type) and issubclass(made, Plugin) and made.NAME):
        raise UserError(f"{path} has no PLUGIN, a class of pycriu.plugins.interface.Plugin with a NAME")
    return made
