# SPDX-License-Identifier: GPL-2.0-only
"""Kconfig text of current kernels → text that kconfiglib 14.1 understands, line for line.

Three constructs are younger than that release:

- `modules` (Linux 5.13) marks the symbol that enables tristates; it was `option modules`.
- `transitional` (6.18) marks the old name of a renamed symbol, kept so that its value in an old .config feeds the new
  one. The word is dropped; `transitional_symbols` lists the symbols, `layer.kconfig.modern` gives them their meaning.
- `depends on A if B` (7.0) is A where B is not n. The kernel builds `A || (B = n)` and pushes the comparison into B
  (expr_trans_compare in scripts/kconfig/expr.c); the same is done here, so that a module condition comes out the same.

Help texts are rewritten too where a line of them looks like a construct; nothing reads them.
"""

from __future__ import annotations

import re

YOUNG = re.compile(r"^\s*(?:modules|transitional)\s*(?:#.*)?$|\bif\b", re.MULTILINE)  # a file without is left alone
MODULES = re.compile(r"^([ \t]+)modules[ \t]*(#.*)?$", re.MULTILINE)
TRANSITIONAL = re.compile(r"^[ \t]+transitional[ \t]*(#.*)?$", re.MULTILINE)
CONDITIONAL = re.compile(
    r"^([ \t]+depends[ \t]+on[ \t]+)((?:[^\n\\#]|\\\n)*?)[ \t]+if[ \t]+((?:[^\n\\#]|\\\n)+)", re.MULTILINE
)
CONFIG = re.compile(r"^[ \t]*(?:menu)?config[ \t]+(\w+)|^[ \t]+(transitional)[ \t]*(?:#.*)?$", re.MULTILINE)
TOKEN = re.compile(r'\s*(\|\||&&|!=|<=|>=|[=<>!()]|"(?:[^"\\]|\\.)*"|\$\((?:[^()]|\([^()]*\))*\)|[\w.$-]+)')
COMPARISONS = ("=", "!=", "<", "<=", ">", ">=")


def rewrite(text: str) -> str:
    """`text` with the young constructs spelled as of old; the number of lines is kept."""
    if not YOUNG.search(text):
        return text
    text = MODULES.sub(r"\1option modules", text)
    text = TRANSITIONAL.sub("", text)
    return CONDITIONAL.sub(_unconditional, text) if " if " in text else text


def transitional_symbols(text: str) -> tuple[str, ...]:
    """The symbols of `text` that are marked `transitional`."""
    found: list[str] = []
    current = ""
    for match in CONFIG.finditer(text):
        if match[2] and current:
            found.append(current)
        current = match[1] or current
    return tuple(found)


def is_n(condition: str) -> str:
    """The expression that is y where `condition` is n, as the kernel builds it; ValueError when it does not parse."""
    tokens = [match[1] for match in TOKEN.finditer(condition)]
    if "".join(tokens) != re.sub(r"\s+", "", condition) and '"' not in condition and "$" not in condition:
        raise ValueError(condition)
    parser = _Comparison(tokens)
    result = parser.either(equal=True)
    if parser.tokens:
        raise ValueError(condition)
    return result


def _unconditional(match: re.Match[str]) -> str:
    head, dependency, condition = match[1], match[2], match[3]
    lines = condition.count("\n")
    try:
        negated = is_n(condition.replace("\\\n", " "))
    except ValueError:
        return match[0]  # prose of a help text, or a construct that kconfiglib itself will complain about
    return f"{head}({dependency}) || {negated}" + "\\\n" * lines


class _Comparison:
    """Recursive descent over a condition that turns it into its comparison with n on the way.

    `equal` says which comparison: `= n`, or `!= n` below a negation.
    """

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens

    def either(self, *, equal: bool) -> str:
        terms = [self.both(equal=equal)]
        while self._take("||"):
            terms.append(self.both(equal=equal))
        return _joined(terms, " && " if equal else " || ")

    def both(self, *, equal: bool) -> str:
        terms = [self.one(equal=equal)]
        while self._take("&&"):
            terms.append(self.one(equal=equal))
        return _joined(terms, " || " if equal else " && ")

    def one(self, *, equal: bool) -> str:
        if self._take("!"):
            return self.one(equal=not equal)
        if self._take("("):
            inner = self.either(equal=equal)
            if not self._take(")"):
                raise ValueError("unbalanced parenthesis")
            return inner
        return self.comparison(equal=equal)

    def comparison(self, *, equal: bool) -> str:
        left = self._operand()
        if not self.tokens or self.tokens[0] not in COMPARISONS:
            return f"({left} {'=' if equal else '!='} n)"
        operator, right = self.tokens.pop(0), self._operand()
        return f"!({left} {operator} {right})" if equal else f"({left} {operator} {right})"

    def _take(self, token: str) -> bool:
        if self.tokens and self.tokens[0] == token:
            self.tokens.pop(0)
            return True
        return False

    def _operand(self) -> str:
        if not self.tokens or self.tokens[0] in ("||", "&&", "!", "(", ")", *COMPARISONS):
            raise ValueError("a symbol was expected")
        return self.tokens.pop(0)


def _joined(terms: list[str], operator: str) -> str:
    return terms[0] if len(terms) == 1 else f"({operator.join(terms)})"
