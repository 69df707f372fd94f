# SPDX-License-Identifier: GPL-2.0-only
"""The help text, made of the tables of `arguments`."""

from __future__ import annotations

from pycriu.arguments import ACTIONS, GROUPS, OPTIONS, Option


def usage() -> str:
    """The help text."""
    width = max(len(spelling(option)) for option in OPTIONS if option.actions)
    lines = [f"usage:  pycriu {action.name} {action.words or '[options]'}" for action in ACTIONS.values()]
    lines = [line if number == 0 else line.replace("usage:", "      ") for number, line in enumerate(lines)]
    lines.append("        pycriu -h | -V")
    for title, options in GROUPS:
        accepted = [option for option in options if option.actions]
        if accepted:
            lines += ["", f"{title}:"]
        for option in accepted:
            actions = ", ".join(option.actions) if len(option.actions) < len(ACTIONS) else "all"
            lines.append(f"  {spelling(option):<{width}}  {option.help} ({actions})")
    refused = sorted(option.long for option in OPTIONS if not option.actions)
    lines += ["", "Options of CRIU that are refused: " + ", ".join(refused) + "."]
    return "\n".join(lines) + "\n"


def spelling(option: Option) -> str:
    """Short and long form and what its value is."""
    short = f"-{option.short}, " if option.short else "    "
    name = f"--[no-]{option.long}" if option.negatable else f"--{option.long}"
    return short + name + (f" {option.metavar}" if option.metavar else "")
