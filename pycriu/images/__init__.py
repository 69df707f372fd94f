# SPDX-License-Identifier: GPL-2.0-only
"""What is on disk: the messages, the names and magics of the files, and a directory of them.

The format is CRIU's (img_version 2). Names, magics and field numbers are a contract with `criu`, `crit`, `go-criu` and
`checkpointctl`; nothing here may change their meaning.

For scripts written for CRIU's bindings, `load`, `loads`, `dump`, `dumps`, `info` and `MagicException` (see `interface`)
and the messages can be had from here, too; `magic` and `pb2dict` are modules of theirs.
"""

_INTERFACE = ("MagicException", "dump", "dumps", "info", "load", "loads")


def __getattr__(name: str) -> object:
    if name in _INTERFACE:
        return getattr(__import__("pycriu.images.interface", fromlist=_INTERFACE), name)
    if name.endswith("_entry") or name in ("pagemap_head", "ipc_msg"):
        return getattr(__import__("pycriu.images.messages", fromlist=["*"]), name)
    if name in ("magic", "pb", "pb2dict"):
        return __import__(f"pycriu.images.{'messages' if name == 'pb' else name}", fromlist=["*"])
    raise AttributeError(f"module 'pycriu.images' has no attribute {name!r}")
