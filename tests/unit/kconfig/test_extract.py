# SPDX-License-Identifier: GPL-2.0-only
"""A configuration out of anything that holds one. The kernels here are made by the tests, as the formats say."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import struct
import subprocess
from collections.abc import Callable

import pytest

from layer.errors import EvaluationError, InputError
from layer.kconfig import dotconfig
from layer.kconfig.extract import configuration

TEXT = "# Linux/x86 6.12.7 Kernel Configuration\nCONFIG_X86_64=y\n# CONFIG_NET is not set\n"
ELF = b"\x7fELF" + bytes(200)


def vmlinux(text: str = TEXT) -> bytes:
    """An unpacked kernel, as far as IKCONFIG goes."""
    return ELF + b"IKCFG_ST" + gzip.compress(text.encode()) + b"IKCFG_ED" + bytes(100)


def bzimage(payload: bytes) -> bytes:
    """An x86 boot image of protocol 2.15 with one set-up sector."""
    head = bytearray(1024 + 64)  # the payload lies 64 bytes into the protected-mode code
    head[0x1F1] = 1
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x206, 0x20F)
    struct.pack_into("<II", head, 0x248, 64, len(payload))
    return bytes(head) + payload + bytes(512)


def with_size(data: bytes) -> bytes:
    """The kernel's build appends the unpacked size to the payload."""
    return data + struct.pack("<I", 123456)


@pytest.mark.parametrize(
    "packed", [bytes, gzip.compress, lzma.compress, bz2.compress], ids=["plain", "gzip", "xz", "bzip2"]
)
def test_a_config_is_read_however_it_is_packed(packed: Callable[[bytes], bytes]) -> None:
    assert configuration(packed(TEXT.encode()), "config") == TEXT


def lzma_alone(data: bytes) -> bytes:
    return lzma.compress(data, format=lzma.FORMAT_ALONE)


@pytest.mark.parametrize(
    "packed", [gzip.compress, lzma.compress, bz2.compress, lzma_alone], ids=["gzip", "xz", "bzip2", "lzma"]
)
def test_a_bzimage_is_unpacked(packed: Callable[[bytes], bytes]) -> None:
    assert configuration(bzimage(with_size(packed(vmlinux()))), "bzImage") == TEXT


@pytest.mark.parametrize("program", ["zstd", "lz4"])
def test_other_packings_take_their_program(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"the program {program} is not installed")
    words = [program, "-c", *(["-l"] if program == "lz4" else [])]
    packed = subprocess.run(words, input=vmlinux(), capture_output=True, check=True).stdout
    assert configuration(bzimage(with_size(packed)), "bzImage") == TEXT


def test_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(EvaluationError, match="compressed with zstd, and the program zstd is not installed") as refused:
        configuration(bzimage(b"\x28\xb5\x2f\xfd" + bytes(100)), "bzImage")
    assert refused.value.exit_code == 3
    assert "Debian package zstd" in (refused.value.hint or "")


@pytest.mark.parametrize("data", [vmlinux(), gzip.compress(vmlinux())], ids=["Image", "Image.gz"])
def test_an_unpacked_kernel_is_searched(data: bytes) -> None:
    assert configuration(data, "Image") == TEXT


def test_an_efi_zboot_image_is_unpacked() -> None:
    payload = gzip.compress(vmlinux())
    data = b"MZ\0\0zimg" + struct.pack("<II", 64, len(payload)) + bytes(48) + payload
    assert configuration(data, "vmlinuz.efi") == TEXT


@pytest.mark.parametrize(
    "kernel",
    [ELF, bzimage(gzip.compress(ELF, mtime=0)), bytes(56) + b"ARM\x64" + bytes(64)],
    ids=["vmlinux", "bzImage", "Image"],
)
def test_a_kernel_without_ikconfig_cannot_be_evaluated(kernel: bytes) -> None:
    with pytest.raises(EvaluationError, match="holds no configuration"):
        configuration(kernel, "bzImage")


@pytest.mark.parametrize(
    "data",
    [b"", b"root:x:0:0\n", bytes(5000), gzip.compress(b"hello\0", mtime=0)],
    ids=["empty", "text", "zeros", "gzip"],
)
def test_anything_else_is_bad_input(data: bytes) -> None:
    with pytest.raises(InputError, match="no configuration and no kernel"):
        configuration(data, "file")


@pytest.mark.parametrize("data", [b"\x1f\x8b\x08" + b"x" * 90, b"\xfd7zXZ\x00" + b"x" * 90])
def test_a_damaged_file_is_bad_input(data: bytes) -> None:
    with pytest.raises(InputError, match="does not unpack"):
        configuration(data, "file")


def test_a_dotconfig_tells_its_kernel_and_what_its_later_lines_override() -> None:
    parsed = dotconfig.parse(f"{TEXT}CONFIG_NET=y\nCONFIG_HZ=100\n", "config")
    assert (parsed.release, parsed.arch, parsed.complete) == ("6.12.7", "x86_64", False)
    assert (parsed.value("NET"), parsed.value("HZ"), parsed.value("ABSENT")) == ("y", "100", "n")
    assert parsed.earlier["NET"].number == 3


def test_a_text_without_assignments_is_no_dotconfig() -> None:
    with pytest.raises(InputError, match="no line assigns"):
        dotconfig.parse("see CONFIG_NET\n", "notes")
