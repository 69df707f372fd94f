# SPDX-License-Identifier: GPL-2.0-only
"""One recipe from its sources to a finished output in the cache. Runs nothing when the output is there already."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from layer import elf_strip, kernelaudit, process, progress, sources, steps
from layer.cache import remove, settle, write_if_changed
from layer.errors import BuildError
from layer.fetch import obtain, unpack
from layer.plan import Plan
from layer.recipes import Recipe, Step
from layer.steps import Workplace
from layer.toolchain import write_wrappers


@dataclass(frozen=True, slots=True)
class Built:
    """What became of a request for one recipe's output."""

    name: str
    key: str
    output: Path
    seconds: float  # 0.0: it came from the cache


def build(plan: Plan, name: str) -> Built:
    """The output of a recipe, built if the cache does not have it."""
    began = time.monotonic()
    ensure(plan, plan.depends(name))
    plan = sources.fetch(plan, name)
    recipe, key, final = plan.recipes[name], plan.key(name), plan.output(name)
    seconds = 0.0
    with plan.cache.turn(
        f"{name}-{key}", lambda: progress.say(f"  {name:<20} another build is making just this; waiting")
    ):
        if not final.is_dir():
            made = _make(plan, recipe, Workplace(plan.cache.work(name, key)))
            _check_untouched(plan, recipe)
            seconds = time.monotonic() - began
            (made / "build.json").write_text(
                json.dumps({"seconds": round(seconds, 1), "version": plan.version(name)}) + "\n"
            )
            settle(made, final)
            remove(plan.cache.work(name, key))
    write_if_changed(
        plan.folder.stamp(name), json.dumps({"key": key, "fields": plan.fields(name)}, indent=1, sort_keys=True) + "\n"
    )
    return Built(name, key, final, seconds)


def ensure(plan: Plan, recipes: Iterable[Recipe]) -> None:
    """Build those that are not there. ninja has seen to that, unless a file was edited while it ran."""
    for recipe in recipes:
        if not plan.output(recipe.name).is_dir():
            build(plan, recipe.name)


def _make(plan: Plan, recipe: Recipe, place: Workplace) -> Path:
    """Build in an empty work folder; returns a folder that is complete but for its final name."""
    remove(place.root)
    for folder in (place.build, place.dest, place.home):
        folder.mkdir(parents=True)
    log = plan.folder.log(recipe.name)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as writer:
        with progress.step(recipe.name, "unpack", log):
            files = _source_files(plan, recipe)
            epoch = unpack.unpack(recipe, files, place.source, plan.top)
            _lay_out_dependencies(plan, recipe, place)
        if recipe.kernel:
            with progress.step(recipe.name, "audit", log):
                kernelaudit.before_compiling(plan, place.source)
        _run_steps(plan, recipe, place, epoch, writer, log)
    if recipe.strip:
        elf_strip.strip_tree(place.dest, plan.toolchain(recipe))
    return _collect(plan, recipe, place, epoch, log)


def _check_untouched(plan: Plan, recipe: Recipe) -> None:
    """The key was taken before the files were read: an output of newer files must not get its name.

    A kernel reads its fragments in its first second; an edit minutes later does not concern it.
    """
    if not recipe.kernel and plan.afresh().key(recipe.name) != plan.key(recipe.name):
        raise BuildError(f"{recipe.name}: its files were edited while it was being built", hint="build it again")


def _source_files(plan: Plan, recipe: Recipe) -> Mapping[str, Path]:
    pin = plan.pin(recipe.name)
    return obtain.obtain(recipe, pin, plan.cache).files if pin else {}


def _lay_out_dependencies(plan: Plan, recipe: Recipe, place: Workplace) -> None:
    targets = [one for one in plan.depends(recipe.name) if not one.native]
    for one in targets:
        process.output(["cp", "--archive", "--reflink=auto", f"{plan.output(one.name)}/dest/.", _made(place.sysroot)])
    write_wrappers(plan.toolchain(recipe), place.tools, work=place.root, sysroot=place.sysroot if targets else None)


def _made(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder)


def _run_steps(plan: Plan, recipe: Recipe, place: Workplace, epoch: int, writer: IO[str], log: Path) -> None:
    values = steps.placeholders(plan, recipe, place)
    base = steps.with_changes(steps.environment(plan, recipe, place, epoch), recipe.env, values, recipe)
    for step in recipe.steps:
        command = steps.expand(step, values, plan.fragments(), recipe)
        env = steps.with_changes(base, step.env, values, recipe)
        cwd = Path(steps.fill(step.cwd, values, recipe))
        cwd.mkdir(parents=True, exist_ok=True)
        script = place.root / f"repeat-{step.name.replace(' ', '-').replace('/', '-')}"
        script.write_text(process.repeatable(command, cwd, env))
        script.chmod(0o755)
        writer.write(f"==== {recipe.name}: {step.name}: {process.shown(command)}\n")
        writer.flush()
        with progress.step(recipe.name, step.name, log):
            status = _run(command, cwd, env, writer)
        if status:
            raise _failure(recipe, step, status, log, script)


def _failure(recipe: Recipe, step: Step, status: int, log: Path, script: Path) -> BuildError:
    what = f"{recipe.name}: step {step.name!r} failed: {process.status_text(status)}; the end of its log:"
    return BuildError(f"{what}\n{process.tail(log, 30)}", hint=f"whole log: {log}\n  repeat just this step: {script}")


def _run(command: tuple[str, ...], cwd: Path, env: Mapping[str, str], writer: IO[str]) -> int:
    # What a build leaves behind must not depend on the caller's umask.
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=subprocess.STDOUT,
            check=False,
            umask=0o022,
        )
    except FileNotFoundError as error:
        raise process.missing(command[0]) from error
    return done.returncode


def _collect(plan: Plan, recipe: Recipe, place: Workplace, epoch: int, log: Path) -> Path:
    made = place.root / "output"
    made.mkdir()
    (made / "licences").mkdir()
    for name in recipe.licence_files:
        found = place.source / name
        if not found.is_file():
            raise BuildError(
                f"{recipe.name}: its source has no {name}",
                hint="licence_files names what the source calls its licence texts",
            )
        shutil.copyfile(found, made / "licences" / name.replace("/", "_"))
    (made / "key.json").write_text(json.dumps(plan.fields(recipe.name), indent=1, sort_keys=True) + "\n")
    (made / "epoch").write_text(f"{epoch}\n")
    shutil.copyfile(log, made / "log")
    os.rename(place.dest, made / "dest")
    return made
