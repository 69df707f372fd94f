# SPDX-License-Identifier: GPL-2.0-only
"""`pycriu.rpc` under the name that protoc's module has in upstream's bindings."""

from __future__ import annotations

from pycriu import rpc


def __getattr__(name: str) -> object:
    return getattr(rpc, name)
