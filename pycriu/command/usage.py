# SPDX-License-Identifier: GPL-2.0-only
"""The help texts, made of the tables of `arguments`: what there is, and what there is for one action."""

from __future__ import annotations

import textwrap

from pycriu.command.arguments import ACTIONS, GROUPS, OPTIONAL, OPTIONS, Action, Option

WIDTH = 100
_COLUMN = 32  # where explanations begin


def usage(action: Action | None = None) -> str:
    """The help text: of one action what means something to it, else everything."""
    if action is not None:
        lines = [f"usage: pycriu {synopsis(action)}", "", f"{action.summary[0].upper()}{action.summary[1:]}."]
    else:
        lines = ["usage: pycriu ACTION [options]", "       pycriu ACTION -h", "       pycriu -h | -V", "", "Actions:"]
        lines += [_entry(f"  {one.name} {one.words}", one.summary) for one in ACTIONS.values()]
    for title, options in GROUPS:
        shown = [one for one in options if one.help and (action is None or action.name in one.actions)]
        if shown:
            lines += ["", f"{title}:"]
        lines += [_entry(f"  {spelling(one)}", one.help + (_whose(one) if action is None else "")) for one in shown]
    return "\n".join(lines + ([] if action else _others())) + "\n"


def synopsis(action: Action) -> str:
    """The action with the words and options that it takes."""
    return " ".join(word for word in (action.name, action.words, "[options]") if word)


def spelling(option: Option) -> str:
    """Short and long form and what its value is."""
    short = f"-{option.short}, " if option.short else "    "
    name = f"--[no-]{option.long}" if option.negatable else f"--{option.long}"
    if option.kind == OPTIONAL:
        return f"{short}{name}[={option.metavar}]"
    return short + name + (f" {option.metavar}" if option.metavar else "")


def _entry(words: str, text: str) -> str:
    words = words.rstrip()
    if len(words) + 2 > _COLUMN:
        return f"{words}\n" + textwrap.fill(text, WIDTH, initial_indent=" " * _COLUMN, subsequent_indent=" " * _COLUMN)
    begin = f"{words:<{_COLUMN}}"
    return textwrap.fill(text, WIDTH, initial_indent=begin, subsequent_indent=" " * _COLUMN, break_on_hyphens=False)


def _whose(option: Option) -> str:
    return "" if len(option.actions) == len(ACTIONS) else f" [{', '.join(option.actions)}]"


def _others() -> list[str]:
    """Options of CRIU that do nothing here."""
    refused = ", ".join(sorted(option.long for option in OPTIONS if not option.actions))
    needless = ", ".join(sorted(option.long for option in OPTIONS if option.actions and option.reason))
    texts = (
        f"Accepted, without effect (the log says why): {needless}.",
        f"Refused, with the reason: {refused}.",
    )
    return [""] + [textwrap.fill(text, WIDTH, break_on_hyphens=False) for text in texts]
