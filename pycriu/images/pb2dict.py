# SPDX-License-Identifier: GPL-2.0-only
"""A message <-> a dictionary, by the functions of CRIU's bindings."""

from __future__ import annotations

from pycriu.images import values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from google.protobuf.message import Message


def pb2dict(pb: Message, pretty: bool = False) -> dict[str, Any]:
    """The fields of a message; `pretty`: numbers as people write them."""
    return values.to_dict(pb, pretty=pretty)


def dict2pb(d: dict[str, Any], pb: Message) -> None:
    """Fill a message with fields; ImageError names one that it does not have."""
    values.fill(pb, d)
