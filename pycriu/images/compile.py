# SPDX-License-Identifier: GPL-2.0-only
"""Makes `schema.binpb` and `messages.pyi` from the `.proto` files, for who changes one of them.

`python -m pycriu.images.compile`. Needs grpcio-tools (the `dev` extra).
A unit test compares what is committed with what this makes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorSet,
)

from pycriu.errors import UserError

HERE = Path(__file__).parent

SCALARS = {
    FieldDescriptorProto.TYPE_BOOL: "bool",
    FieldDescriptorProto.TYPE_STRING: "str",
    FieldDescriptorProto.TYPE_BYTES: "bytes",
}

STUB_HEAD = '''\
# SPDX-License-Identifier: GPL-2.0-only
# ruff: noqa: A002, E501, N801 - generated from the .proto files, whose names are the format's
"""Made by `python -m pycriu.images.compile`; change the .proto files instead."""

from collections.abc import Iterable

from google.protobuf.internal.containers import RepeatedCompositeFieldContainer as Messages
from google.protobuf.internal.containers import RepeatedScalarFieldContainer as Scalars
from google.protobuf.message import Message

# fmt: off
'''


def descriptor_set(protos: Path = HERE) -> FileDescriptorSet:
    """The `.proto` files compiled, dependencies first; UserError if protoc refuses them."""
    from grpc_tools import protoc  # type: ignore[import-untyped]

    names = sorted(path.name for path in protos.glob("*.proto"))
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "set"
        if protoc.main(["protoc", f"-I{protos}", "--include_imports", f"--descriptor_set_out={out}", *names]) != 0:
            raise UserError("protoc refused the .proto files", hint="its messages above name file and line")
        compiled = FileDescriptorSet.FromString(out.read_bytes())
    for file in compiled.file:
        for message in file.message_type:
            _drop_json_names(message)
    return compiled


def serialized(compiled: FileDescriptorSet) -> bytes:
    """The bytes of `schema.binpb`, the same for the same input."""
    return compiled.SerializeToString(deterministic=True)


def stub(compiled: FileDescriptorSet) -> str:
    """The text of `messages.pyi`."""
    messages = [message for file in compiled.file for message in file.message_type]
    classes = [_class(message) for message in sorted(messages, key=lambda message: message.name)]
    aliases = [f"_{name} = {name}" for name in sorted({_type(f) for m in messages for f in m.field if _hidden(f, m)})]
    return "\n".join((STUB_HEAD, *classes, *aliases, ""))


def _drop_json_names(message: DescriptorProto) -> None:
    """JSON names can be derived; without them the set is a quarter smaller."""
    for field in message.field:
        field.ClearField("json_name")


def _class(message: DescriptorProto) -> str:
    lines = [f"class {message.name}(Message):"]
    lines += [f"    {name}: int" for enum in message.enum_type for name in _value_names(enum)]
    types = {field.name: f"_{_type(field)}" if _hidden(field, message) else _type(field) for field in message.field}
    lines += [_attribute(field, types[field.name]) for field in message.field]
    arguments = ", ".join(_argument(field, types[field.name]) for field in message.field)
    lines.append(f"    def __init__(self{', *, ' if arguments else ''}{arguments}) -> None: ...")
    return "\n".join(lines)


def _value_names(enum: EnumDescriptorProto) -> Iterator[str]:
    return (value.name for value in enum.value)


def _type(field: FieldDescriptorProto) -> str:
    if field.type == FieldDescriptorProto.TYPE_MESSAGE:
        return field.type_name.lstrip(".")
    return SCALARS.get(field.type, "int")


def _hidden(field: FieldDescriptorProto, message: DescriptorProto) -> bool:
    """Whether a field of the message has the name of this one's type, so that the type cannot be named there."""
    return field.type == FieldDescriptorProto.TYPE_MESSAGE and any(f.name == _type(field) for f in message.field)


def _attribute(field: FieldDescriptorProto, kind: str) -> str:
    is_message = field.type == FieldDescriptorProto.TYPE_MESSAGE
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        kind = f"{'Messages' if is_message else 'Scalars'}[{kind}]"
    elif not is_message:  # protobuf lets no one assign a message or a list to a field
        return f"    {field.name}: {kind}"
    return f"    @property\n    def {field.name}(self) -> {kind}: ..."


def _argument(field: FieldDescriptorProto, kind: str) -> str:
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"{field.name}: Iterable[{kind}] | None = ..."
    return f"{field.name}: {kind} | None = ..."


def main() -> None:
    """Write both files beside the `.proto` files."""
    compiled = descriptor_set()
    (HERE / "schema.binpb").write_bytes(serialized(compiled))
    (HERE / "messages.pyi").write_text(stub(compiled))


if __name__ == "__main__":
    main()
