# SPDX-License-Identifier: GPL-2.0-only
"""`pycriu dump`."""

from __future__ import annotations

from pycriu import arguments
from pycriu.actions import Request, light_protobuf, say
from pycriu.options import DumpOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pycriu.arguments import Values
    from pycriu.dump import DumpResult


def run(request: Request) -> int:
    """Save the tree, or tell what a dump of it would be refused for."""
    if request.flag("dry-run"):
        return _dry_run(request)
    perform(request)
    return 0


def perform(request: Request) -> DumpResult:
    """The dump that is asked for."""
    options = _options(request)
    light_protobuf()
    from pycriu.dump import dump

    return dump(options, request.log)


def _options(request: Request) -> DumpOptions:
    values, client = request.values, request.client
    return DumpOptions(
        pid=arguments.number(values, "tree"),
        images_dir=request.images,
        work_dir=request.work,
        shell_job=request.flag("shell-job"),
        leave_running=request.flag("leave-running"),
        leave_stopped=request.flag("leave-stopped"),
        timeout=arguments.number(values, "timeout", 10),
        ghost_limit=arguments.size(values, "ghost-limit", 1 << 20),
        force_irmap=request.flag("force-irmap"),
        network_lock=arguments.choice(values, "network-lock", "nftables", "skip"),
        service_socket=client.socket if client else 0,
        may_dump=client.may_dump if client else None,
        hook=request.hook(),
        **request.file_options(),
    )


def _dry_run(request: Request) -> int:
    light_protobuf()
    from pycriu.dryrun import dump

    def build(values: Values) -> DumpOptions:
        return _options(Request(values, request.words, request.images, request.work, request.log))

    request.finished = "Dry run finished"
    report = dump.dump(request.values, build, request.log)
    say([report.as_json()] if request.flag("json") else report.lines())
    return 0 if report.passes else 1
