# SPDX-License-Identifier: GPL-2.0-only
"""Checkpoint and restore of Linux process trees, from outside, in CRIU's image format.

From Python: `dump`, `pre_dump`, `restore` and `check` work in this process (see `pycriu.api`); `criu`, `images` and
`rpc` are what CRIU's own bindings offer. Programs that want to be told of checkpoints register hooks with
`before_checkpoint` and its like (docs/python.md). Imported when they are asked for: the command needs none of them.
"""

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pycriu import images as images
    from pycriu import rpc as rpc
    from pycriu.api import DumpResult as DumpResult
    from pycriu.api import HookFailed as HookFailed
    from pycriu.api import ImageError as ImageError
    from pycriu.api import Missing as Missing
    from pycriu.api import PageServer as PageServer
    from pycriu.api import PreDumpResult as PreDumpResult
    from pycriu.api import PycriuError as PycriuError
    from pycriu.api import RestoreResult as RestoreResult
    from pycriu.api import Unsupported as Unsupported
    from pycriu.api import UserError as UserError
    from pycriu.api import check as check
    from pycriu.api import dump as dump
    from pycriu.api import pre_dump as pre_dump
    from pycriu.api import restore as restore
    from pycriu.bindings import CR_DEFAULT_SERVICE_ADDRESS as CR_DEFAULT_SERVICE_ADDRESS
    from pycriu.bindings import CRIUException as CRIUException
    from pycriu.bindings import CRIUExceptionExternal as CRIUExceptionExternal
    from pycriu.bindings import CRIUExceptionInternal as CRIUExceptionInternal
    from pycriu.bindings import criu as criu
    from pycriu.hooks.asking import Outcome as Outcome
    from pycriu.hooks.asking import checkpoint as checkpoint
    from pycriu.hooks.asking import checkpoint_async as checkpoint_async
    from pycriu.hooks.interface import Moment as Moment
    from pycriu.hooks.interface import NotNow as NotNow
    from pycriu.hooks.interface import Refusal as Refusal
    from pycriu.hooks.interface import after_checkpoint as after_checkpoint
    from pycriu.hooks.interface import after_restore as after_restore
    from pycriu.hooks.interface import before_checkpoint as before_checkpoint
    from pycriu.hooks.interface import critical_section as critical_section
    from pycriu.hooks.interface import forget_hook as forget_hook
    from pycriu.hooks.interface import keep_randomness as keep_randomness
    from pycriu.hooks.interface import listen as listen
    from pycriu.hooks.interface import moment as moment
    from pycriu.hooks.rehearsal import Report as Report
    from pycriu.hooks.rehearsal import simulate as simulate
    from pycriu.hooks.rehearsal import simulate_async as simulate_async
    from pycriu.warmstart.program import warm_start as warm_start

_NAMES = {
    "api": (
        "DumpResult", "HookFailed", "ImageError", "Missing", "PageServer", "PreDumpResult", "PycriuError",
        "RestoreResult", "Unsupported", "UserError", "check", "dump", "pre_dump", "restore",
    ),
    "bindings": (
        "CR_DEFAULT_SERVICE_ADDRESS", "CRIUException", "CRIUExceptionExternal", "CRIUExceptionInternal", "criu",
    ),
    "hooks.interface": (
        "Moment", "NotNow", "Refusal", "after_checkpoint", "after_restore", "before_checkpoint", "critical_section",
        "forget_hook", "keep_randomness", "listen", "moment",
    ),
    "hooks.asking": ("Outcome", "checkpoint", "checkpoint_async"),
    "hooks.rehearsal": ("Report", "simulate", "simulate_async"),
    "warmstart.program": ("warm_start",),
}  # fmt: skip


def __getattr__(name: str) -> object:
    """What is asked for first. `dump`, `restore` and `check` are modules, too, whose names go to the functions."""
    if name in ("images", "rpc"):
        return __import__(f"pycriu.{name}", fromlist=["*"])
    for module, names in _NAMES.items():
        if name in names:
            found = __import__(f"pycriu.{module}", fromlist=names)
            globals().update((one, getattr(found, one)) for one in names)
            return globals()[name]
    raise AttributeError(f"module 'pycriu' has no attribute {name!r}")
