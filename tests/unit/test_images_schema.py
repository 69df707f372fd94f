# SPDX-License-Identifier: GPL-2.0-only
"""The compiled schema is that of the .proto files; both ways to load it agree; every message survives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from pycriu.images import catalogue, messages, schema

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "pycriu" / "images"

PROBE = """
import sys
from pycriu.images import schema, messages
schema.expect_no_well_known_types()
core = messages.core_entry(mtype=messages.core_entry.AARCH64)
core.tc.task_state = 1
core.thread_core.CopyFrom(messages.thread_core_entry(futex_rla=16, futex_rla_len=24))
print(core.SerializePartialToString().hex(), schema.enum("fd_types")["PIDFD"], *sorted(sys.modules))
"""


def names() -> list[str]:
    sets = (sys.modules["google.protobuf.descriptor_pb2"].FileDescriptorProto.FromString(f) for f in files())
    return [message.name for file in sets for message in file.message_type]


def files() -> list[bytes]:
    import google.protobuf.descriptor_pb2  # noqa: F401 - `names` finds it in sys.modules

    return list(schema.descriptor_files(schema.compiled()))


def fill(message: Message, depth: int = 0) -> Message:
    """Put a value that is not the default into every field; nested ones down to where recursion is endless."""
    for field in message.DESCRIPTOR.fields:
        target = getattr(message, field.name)
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            if depth < 4:
                fill(target.add() if hasattr(target, "extend") else target, depth + 1)
            continue
        value = sample(field)
        if hasattr(target, "extend"):
            target.extend([value, value])
        else:
            setattr(message, field.name, value)
    return message


def sample(field: FieldDescriptor) -> object:
    if field.type == FieldDescriptor.TYPE_ENUM:
        return field.enum_type.values[-1].number
    kinds = {
        FieldDescriptor.TYPE_BOOL: True,
        FieldDescriptor.TYPE_STRING: f"näme {field.name}",
        FieldDescriptor.TYPE_BYTES: bytes(range(256)),
        FieldDescriptor.TYPE_UINT64: (1 << 64) - field.number,
        FieldDescriptor.TYPE_FIXED64: (1 << 64) - field.number,
        FieldDescriptor.TYPE_UINT32: (1 << 32) - field.number,
    }
    return kinds.get(field.type, -field.number)  # the signed ones


@pytest.mark.parametrize("name", names() if files() else [])
def test_every_message_survives(name: str) -> None:
    full = fill(schema.message(name)())
    data = full.SerializeToString()
    again = schema.message(name).FromString(data)
    assert again == full
    assert again.SerializeToString() == data
    assert data or not full.DESCRIPTOR.fields


def test_there_are_all_messages() -> None:
    assert len(names()) == len(set(names())) == 195


def test_the_committed_set_and_stub_are_what_the_compiler_makes() -> None:
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed (the dev extra has it)")
    from pycriu.images import compile as compiler

    made = compiler.descriptor_set()
    assert compiler.serialized(made) == (IMAGES / "schema.binpb").read_bytes()
    assert compiler.stub(made) == (IMAGES / "messages.pyi").read_text()


def test_every_proto_file_names_its_purpose_and_licence() -> None:
    protos = sorted(IMAGES.glob("*.proto"))
    assert len(protos) == 77
    for path in protos:
        first, second = path.read_text().splitlines()[:2]
        assert first == "// SPDX-License-Identifier: GPL-2.0-only", path
        assert second.startswith("// "), path


def test_every_kind_of_image_has_its_message() -> None:
    for kind in catalogue.KINDS:
        for name in filter(None, (kind.message, kind.head)):
            assert schema.message(name).DESCRIPTOR.name == name


def test_field_numbers_that_other_tools_rely_on() -> None:
    numbers = {field.name: field.number for field in schema.message("core_entry").DESCRIPTOR.fields}
    assert numbers == {
        "mtype": 1, "thread_info": 2, "ti_arm": 6, "ti_aarch64": 8, "ti_ppc64": 9, "ti_s390": 10, "ti_mips": 11,
        "ti_loongarch64": 12, "ti_riscv64": 13, "tc": 3, "ids": 4, "thread_core": 5,
    }  # fmt: skip


def test_enums() -> None:
    assert schema.enum("core_entry.march")["RISCV64"] == 8
    assert schema.enum("fd_types")["CTL_TTY"] == 65534
    with pytest.raises(KeyError):
        schema.enum("no_such_enum")


def test_unknown_messages_are_unknown() -> None:
    with pytest.raises(AttributeError, match="no message 'no_such_entry'"):
        _ = messages.no_such_entry  # type: ignore[attr-defined]
    with pytest.raises(KeyError):
        schema.message("no_such_entry")


def run(environment: dict[str, str]) -> list[str]:
    path = ":".join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        env={"PYTHONPATH": f"{ROOT}:{path}", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_the_light_way_leaves_the_heavy_modules_out_and_agrees_with_the_public_way() -> None:
    from google.protobuf.internal import api_implementation

    if api_implementation.Type() != "upb":
        pytest.skip(f"this protobuf is of the kind {api_implementation.Type()}, without the C extension")
    data, number, *modules = run({})
    assert "google.protobuf.descriptor_pool" not in modules
    assert "google.protobuf.internal.well_known_types" not in modules
    assert "datetime" not in modules
    other, same_number, *public_modules = run({"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"})
    assert "google.protobuf.descriptor_pool" in public_modules
    assert (data, number) == (other, same_number) == ("08031a0208012a0408101018", "20")


def test_the_light_way_declines_where_protobuf_is_loaded_already() -> None:
    import google.protobuf.internal.well_known_types  # noqa: F401

    assert schema.light_way(files()) is None


def test_the_public_way_makes_the_same_messages() -> None:
    make, values = schema.public_way(files())
    assert values("fd_types") == schema.enum("fd_types")
    assert make("fs_entry")(cwd_id=1, root_id=2).SerializeToString() == b"\x08\x01\x10\x02"


THREADS = """
import sys, threading
from pycriu.images import messages as m, schema
sys.setswitchinterval(1e-6)
if sys.argv[1] == "light":
    schema.expect_no_well_known_types()
together = threading.Barrier(2)
def use(name):
    together.wait()
    schema.message(name)
threads = [threading.Thread(target=use, args=(name,)) for name in ("core_entry", "task_core_entry")]
for thread in threads: thread.start()
for thread in threads: thread.join()
task = m.task_core_entry(task_state=1, exit_code=0, personality=0, flags=0, blk_sigset=0, comm="x")
m.core_entry(mtype=1).tc.CopyFrom(task)
"""


@pytest.mark.parametrize("way", ["light", "public"])
def test_two_threads_that_begin_at_once_get_messages_that_fit_into_each_other(way: str) -> None:
    subprocess.run([sys.executable, "-c", THREADS, way], check=True, cwd=ROOT)
