# SPDX-License-Identifier: GPL-2.0-only
"""The completions for zsh and fish, made of the tables of `pycriu/command/arguments.py`."""

from __future__ import annotations

from pycriu.command.arguments import ACTIONS, ALL, LEVEL, LIST, OPTIONAL, OPTIONS, VALUE, Action, Option

CHOICES = {
    "hooks": "ask try skip",
    "file-validation": "mtime filesize buildid checksum",
    "network-lock": "nftables skip none",
    "manage-cgroups": "none ignore",
    "pre-dump-mode": "splice read",
    "cpu-cap": "cpu fpu ins all none",
}
FILES = ("FILE", "PROGRAM", "PATH")
LEVELS = "1 2 3 4"
ANYWHERE = ("help", "version")  # without an action, too


def shown(action: Action | None = None) -> list[Option]:
    """The options that are offered: of one action, or of all."""
    return [one for one in OPTIONS if one.help and (action is None or action.name in one.actions)]


def forms(option: Option) -> list[str]:
    """The short and the long form."""
    return [f"-{option.short}", f"--{option.long}"] if option.short else [f"--{option.long}"]


def valued() -> list[str]:
    """Both forms of what takes the next word."""
    return [form for one in OPTIONS if one.actions and one.kind in (VALUE, LIST) for form in forms(one)]


def quoted(text: str) -> str:
    """For a shell, in single quotes; those of fish and zsh take a quote by a backslash outside."""
    return "'" + text.replace("'", "'\\''") + "'"


# ---------------------------------------------------------------------------------------------------------------- fish


def fish_value(option: Option) -> str:
    """What may stand behind an option."""
    if option.kind == LEVEL:
        return f" -f -a {quoted(LEVELS)}"
    if not option.metavar:
        return ""
    if option.long in CHOICES:
        return (" -f" if option.kind == OPTIONAL else " -x") + f" -a {quoted(CHOICES[option.long])}"
    if option.kind == OPTIONAL:
        return " -f"
    if option.metavar == "DIR":
        return " -x -a '(__fish_complete_directories)'"
    if option.metavar == "PID":
        return " -x -a '(__fish_complete_pids)'"
    return " -r -F" if option.metavar in FILES else " -x"


def fish_option(option: Option) -> list[str]:
    """The lines for an option, and for its negative."""
    head = "complete -c pycriu"
    if option.long not in ANYWHERE:
        head += f" -n {quoted(' '.join(['__pycriu_action', *option.actions]))}"
    short = f" -s {option.short}" if option.short else ""
    lines = [f"{head}{short} -l {option.long}{fish_value(option)} -d {quoted(option.help)}"]
    if option.negatable:
        lines.append(f"{head} -l no-{option.long} -d {quoted(f'not --{option.long}')}")
    return lines


def fish() -> dict[str, str]:
    """The places of the template for fish."""
    actions = [
        f"complete -c pycriu -n '__pycriu_action' -a {one.name} -d {quoted(one.summary)}" for one in ACTIONS.values()
    ]
    words = [
        f"complete -c pycriu -n '__pycriu_action {one.name}' -a {quoted(one.words.replace('|', ' '))}"
        for one in ACTIONS.values()
        if "|" in one.words
    ]
    options = [line for one in shown() for line in fish_option(one)]
    return {"valued": " ".join(valued()), "lines": "\n".join([*actions, *words, *options])}


# ----------------------------------------------------------------------------------------------------------------- zsh


def zsh_text(text: str) -> str:
    """As an explanation of _arguments can be."""
    for letter in "\\[]:":
        text = text.replace(letter, "\\" + letter)
    return text


def zsh_value(option: Option) -> str:
    """What may stand behind an option: the third part of a specification."""
    if option.long in CHOICES:
        return f"({CHOICES[option.long]})"
    if option.kind == LEVEL:
        return f"({LEVELS})"
    known = {"DIR": "_directories", "PID": "_pids"} | dict.fromkeys(FILES, "_files")
    return known.get(option.metavar, " ")


def zsh_option(option: Option) -> list[str]:
    """The specifications of an option, and of its negative."""
    often = option.kind in (LIST, LEVEL)
    both = forms(option)
    before = "*" if often else f"({' '.join(both)})"
    value = ""
    if option.metavar:
        colon = "::" if option.kind in (OPTIONAL, LEVEL) else ":"
        value = f"{colon}{zsh_text(option.metavar)}:{zsh_value(option)}"
    found = []
    for form in both:
        end = ""
        if option.metavar:
            end = "-" if option.kind in (OPTIONAL, LEVEL) else "+"
            end = ("=" + end).rstrip("+") if form.startswith("--") else end
        found.append(quoted(f"{before}{form}{end}[{zsh_text(option.help)}]{value}"))
    if option.negatable:
        found.append(quoted(f"--no-{option.long}[{zsh_text(f'not --{option.long}')}]"))
    return found


def zsh_case(name: str, options: list[Option], rest: list[str]) -> str:
    """What is offered behind an action."""
    specifications = [spec for one in options for spec in zsh_option(one)] + rest
    return f"        {name})\n" + "".join(
        f"            {word}\n" for word in ["_arguments -s -S \\", *_continued(specifications), ";;"]
    )


def _continued(specifications: list[str]) -> list[str]:
    return [f"    {one} \\" for one in specifications[:-1]] + [f"    {specifications[-1]}"]


def zsh() -> dict[str, str]:
    """The places of the template for zsh."""
    cases = []
    for action in ACTIONS.values():
        rest = ["'1: :_pycriu_actions'"]
        if "|" in action.words:
            rest.append(quoted(f"2: :({action.words.replace('|', ' ')})"))
        cases.append(zsh_case(action.name, shown(action), rest))
    anywhere = [one for one in shown() if one.long in ANYWHERE and one.actions == ALL]
    cases.append(zsh_case("*", anywhere, ["'1: :_pycriu_actions'"]))
    actions = [quoted(f"{one.name}:{one.summary}") for one in ACTIONS.values()]
    return {
        "actions": "\n".join(f"        {one}" for one in actions),
        "valued": " | ".join(valued()),
        "cases": "".join(cases).rstrip("\n"),
    }
