# SPDX-License-Identifier: GPL-2.0-only
"""The kernel audit where the build needs it: before a kernel is compiled, and for `ninja audit` in a build folder.

What is judged, and how, is `layer.kconfig`'s; here is only which tree, which configuration and which fragments.
"""

from __future__ import annotations

from pathlib import Path

from layer import progress, sources
from layer.errors import BuildError, EvaluationError
from layer.fetch import obtain, unpack
from layer.kconfig import report, skeleton
from layer.kconfig.request import Request, answer
from layer.plan import Plan


def before_compiling(plan: Plan, source: Path) -> None:
    """Keep what later audits need of the source; BuildError when a required option would be lost in it."""
    skeleton.keep(source, plan.cache.root)
    try:
        result = answer(_request(plan, str(source)))
    except EvaluationError as error:
        progress.say(f"warning: the kernel configuration could not be audited: {error}")
        return
    if result.failure:
        progress.say(f"warning: the kernel configuration was audited by comparison only: {result.failure}")
    if result.unmet(required=True):
        text = report.as_text(result, 1, colour=False, everything=False)
        raise BuildError(
            f"the kernel would lack what the templates require\n{text}", hint="`ninja audit` says this again"
        )


def arguments(plan: Plan) -> list[str]:
    """The audit's command line for a build folder: the kernel's own configuration when it is built, else its tree."""
    built = plan.output(plan.configuration.kernel) / "dest/boot/kernel.config"
    words = [str(built if built.is_file() else tree(plan)), "--arch", plan.machine.name]
    request = _request(plan, None)
    words += [f"--template={name}" for name in request.templates]
    return words + [f"--fragment={path}" for path in request.fragments]


def tree(plan: Plan) -> Path:
    """What configuration needs of the kernel's source, unpacking that once if no build has done so yet."""
    name = plan.configuration.kernel
    kept = skeleton.find(plan.cache.root, plan.version(name))
    if kept:
        return kept
    plan = sources.fetch(plan, name)
    recipe, pin = plan.recipes[name], plan.pin(name)
    with plan.cache.turn(f"kernel-tree-{name}"), plan.cache.scratch() as folder:
        files = obtain.obtain(recipe, pin, plan.cache).files if pin else {}
        unpack.unpack(recipe, files, folder / "source", plan.top)
        return skeleton.keep(folder / "source", plan.cache.root)


def _request(plan: Plan, source: str | None) -> Request:
    chosen = plan.configuration
    extra = tuple(Path(name) for name in chosen.fragments if Path(name).is_absolute())
    return Request(source, templates=chosen.templates, fragments=extra, arch=plan.machine.name, tree=None, cross=None)
