# SPDX-License-Identifier: GPL-2.0-only
"""The little of QEMU's machine protocol that is needed: ask for the state, quit. Events are passed over."""

from __future__ import annotations

import json
import socket
from types import TracebackType
from typing import Self, cast

from layer.target.faults import QemuDied


class Qmp:
    """A connection to a running emulator; greets it on entry."""

    def __init__(self, path: str, timeout: float = 10.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        self._socket.connect(path)
        self._lines = self._socket.makefile("r", encoding="utf-8")

    def __enter__(self) -> Self:
        self._read()  # the greeting
        self.execute("qmp_capabilities")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        self._socket.close()

    def execute(self, command: str) -> dict[str, object]:
        """The answer to a command without arguments."""
        self._socket.sendall(json.dumps({"execute": command}).encode() + b"\n")
        while True:
            answer = self._read()
            if "return" in answer:
                return cast("dict[str, object]", answer["return"])
            if "error" in answer:
                raise QemuDied(f"QMP {command}: {answer['error']}")

    def _read(self) -> dict[str, object]:
        line = self._lines.readline()
        if not line.endswith("\n"):
            raise QemuDied("QEMU closed its control socket")
        return cast("dict[str, object]", json.loads(line))
