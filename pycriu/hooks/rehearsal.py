# SPDX-License-Identifier: GPL-2.0-only
"""Hooks without a checkpoint, for the unit tests of programs: no root, no engine, no other process.

report = pycriu.simulate("restored")
assert report.called == ["close_pool", "open_pool"] and not report.errors
"""

from __future__ import annotations

from pycriu.hooks import channel, fresh
from pycriu.hooks.listener import finished, here
from pycriu.hooks.moment import Moment
from pycriu.hooks.registry import AFTER_CHECKPOINT, AFTER_RESTORE, BEFORE, Refusal, call_all, interruption

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pycriu.hooks.registry import Errors

_WHAT = {name: what for what, name in channel.OUTCOMES.items()}


class Report:
    """What a simulation has done: the names of the hooks in the order in which they were called, and their errors.

    `refusal` is there where a hook has refused; the outcome is failed then.
    """

    __slots__ = ("called", "errors", "outcome", "refusal", "reseeded")

    def __init__(self) -> None:
        self.outcome = "failed"
        self.called: list[str] = []
        self.errors: Errors = []
        self.refusal: Refusal | None = None
        self.reseeded: list[str] = []


def simulate(outcome: str = "continued", *, why: str = "simulated", changed: tuple[str, ...] = ()) -> Report:
    """Call the hooks of this program as a checkpoint would that is `continued`, `restored` or `failed`.

    `changed` is what `pycriu.moment().changed` is to name after a restore. Errors are not raised, but in the report;
    KeyboardInterrupt, SystemExit and their like are, in the end.
    """
    return finished(_simulate(outcome, why, changed, in_loop=False))


async def simulate_async(
    outcome: str = "continued", *, why: str = "simulated", changed: tuple[str, ...] = ()
) -> Report:
    """The same with coroutines awaited in the loop that runs."""
    return await _simulate(outcome, why, changed, in_loop=True)


def _unseen(_name: str) -> None:
    """Nobody wants to know which hook runs."""


async def _simulate(outcome: str, why: str, changed: tuple[str, ...], *, in_loop: bool) -> Report:
    if outcome not in _WHAT:
        raise ValueError(f"{outcome!r}: there are {', '.join(_WHAT)}")
    report, what = Report(), _WHAT[outcome]
    here.moment = moment = Moment()
    report.called, errors = await call_all(here.registry.ordered(BEFORE), _unseen, in_loop=in_loop)
    if errors:
        report.refusal, what = Refusal(errors), channel.FAILED
        why = str(report.refusal)
    moment.ended(what, why if what == channel.FAILED else "", b"")
    if what == channel.RESTORED:
        moment.changed = frozenset(changed)
        report.reseeded, failed = fresh.reseed()
        errors += failed
        fresh.forget(moment.changed)
    kind = AFTER_RESTORE if what == channel.RESTORED else AFTER_CHECKPOINT
    called, late = await call_all(here.registry.ordered(kind), _unseen, in_loop=in_loop)
    report.outcome = channel.OUTCOMES[what]
    report.called += called
    report.errors = moment.errors = errors + late
    if raised := interruption(report.errors):
        raise raised
    return report
