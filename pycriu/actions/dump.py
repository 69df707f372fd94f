# SPDX-License-Identifier: GPL-2.0-only
"""`pycriu dump`."""

from __future__ import annotations

import time

from pycriu.actions import Request, free_images, light_protobuf, say_stats, tell_dry_run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pycriu.dump import DumpResult


def run(request: Request) -> int:
    """Save the tree, or tell what a dump of it would be refused for."""
    if request.flag("dry-run"):
        return _dry_run(request)
    result = perform(request)
    if request.flag("display-stats"):
        from pycriu.dump import stats_entry

        say_stats(request, stats_entry(result))
    return 0


def perform(request: Request) -> DumpResult:
    """The dump that is asked for."""
    options = request.dump_options()
    light_protobuf()
    from pycriu.dump import dump

    begin = time.monotonic()
    try:
        with request.deadline():
            result = dump(options, request.log)
    finally:
        if options.progress:
            options.progress.end()
    if options.progress:
        options.progress.summary(summary(result, time.monotonic() - begin))
    free_images(request, restored=False)
    return result


def summary(result: DumpResult, seconds: float) -> str:
    """In a line, for somebody who has watched."""
    from pycriu.command.progress import PAGE, size

    pages = result.pages + result.shared
    return (
        f"saved {size(pages * PAGE)} in {pages} pages, {result.skipped} skipped, "
        f"of {result.tasks} tasks, which stood still for {result.frozen / 1e6:.3f} s; it took {seconds:.1f} s"
    )


def _dry_run(request: Request) -> int:
    light_protobuf()
    from pycriu.dryrun import dump

    return tell_dry_run(request, dump.dump, Request.dump_options)
