# SPDX-License-Identifier: GPL-2.0-only
"""`pycriu pre-dump`."""

from __future__ import annotations

from pycriu.actions import Request, free_images, light_protobuf, say_stats
from pycriu.command import arguments
from pycriu.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pycriu.predump import PreDumpResult


def run(request: Request) -> int:
    """Save the memory of a tree that runs on."""
    result = perform(request)
    if request.flag("display-stats"):
        from pycriu.predump import stats_entry

        say_stats(request, stats_entry(result))
    return 0


def perform(request: Request) -> PreDumpResult:
    """The pre-dump that is asked for."""
    arguments.choice(request.values, "pre-dump-mode", "splice", "read")  # both copy while the tasks run
    options = replace(request.dump_options(), track_mem=request.values.get("track-mem") is not False)
    light_protobuf()
    from pycriu.predump import pre_dump

    with request.deadline():
        result = pre_dump(options, request.log)
    free_images(request, restored=False)
    return result
