# SPDX-License-Identifier: GPL-2.0-only
"""CRIU's RPC messages and enumerators by name: `rpc.criu_opts()`, `rpc.DUMP`, `rpc.criu_req_type.Name(1)`.

What upstream's bindings offer as `pycriu.rpc`. Made on first use, from the `.proto` files in `images`.
"""

from __future__ import annotations

from pycriu.images import schema

ENUMS = ("criu_req_type", "criu_cg_mode", "criu_network_lock_method", "criu_pre_dump_mode")


class Enum:
    """An enum of the protocol, with the methods that protobuf's have."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._values = schema.enum(name)

    def Name(self, number: int) -> str:  # noqa: N802  # protobuf's name for it
        """The enumerator of a number; ValueError if there is none."""
        for name, value in self._values.items():
            if value == number:
                return name
        raise ValueError(f"{self.name} has no name for {number!r}")

    def Value(self, name: str) -> int:  # noqa: N802  # protobuf's name for it
        """The number of an enumerator; ValueError if there is none."""
        if name not in self._values:
            raise ValueError(f"{self.name} has no value {name!r}")
        return self._values[name]

    def keys(self) -> list[str]:
        """All enumerators."""
        return list(self._values)

    def values(self) -> list[int]:
        """All numbers."""
        return list(self._values.values())

    def items(self) -> list[tuple[str, int]]:
        """Both."""
        return list(self._values.items())


def __getattr__(name: str) -> object:
    if name.startswith("__"):
        raise AttributeError(name)
    found = _find(name)
    globals()[name] = found  # the next look-up does not come here
    return found


def _find(name: str) -> object:
    if name in ENUMS:
        return Enum(name)
    for enum in ENUMS:
        values = schema.enum(enum)
        if name in values:
            return values[name]
    try:
        return schema.message(name)
    except KeyError:
        raise AttributeError(f"CRIU's RPC has nothing of the name {name!r}") from None
