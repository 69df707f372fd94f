# SPDX-License-Identifier: GPL-2.0-only
"""The configuration inside anything that holds one: a .config, a compressed one, a kernel image built with IKCONFIG.

gzip, xz, bzip2 and lzma are opened here; zstd, lz4 and lzo by their programs. A kernel without IKCONFIG holds none, and
that cannot be told from a kernel in a format that is not known here.
"""

from __future__ import annotations

import bz2
import lzma
import shutil
import subprocess
import zlib
from collections.abc import Callable, Iterator
from struct import unpack_from

from layer.errors import EvaluationError, InputError

IKCONFIG = b"IKCFG_ST\x1f\x8b"  # the start mark, with the gzip file that follows it
BZIMAGE = (0x202, b"HdrS")  # x86 boot protocol: the mark of a header
SECTOR = 512
LARGEST = 512 << 20  # no kernel unpacks to more; a hostile file must not fill the memory

# How a payload begins → what it is called. `lz4` is the legacy frame, the only one the kernel's build makes.
MAGICS = (
    (b"\x1f\x8b\x08", "gzip"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"BZh", "bzip2"),
    (b"\x5d\x00\x00", "lzma"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x02\x21\x4c\x18", "lz4"),
    (b"\x89LZO\x00\x0d\x0a\x1a\x0a", "lzo"),
)
PROGRAMS = {"zstd": ("zstd", "zstd"), "lz4": ("lz4", "lz4"), "lzo": ("lzop", "lzop")}  # program, Debian package


def configuration(data: bytes, name: str) -> str:
    """The text of the configuration in `data`, which was read from `name`.

    InputError when it is nothing of the kind, EvaluationError when a kernel holds none or cannot be unpacked here.
    """
    kind = compression(data)
    if kind and not _is_text(data):
        data = unpack(data, kind, name)
    if _is_text(data):
        return data.decode("utf-8", errors="replace")
    if text := embedded(data):
        return text
    return _inside_kernel(data, name)


def embedded(data: bytes) -> str | None:
    """The text that IKCONFIG put into an unpacked kernel."""
    at = data.find(IKCONFIG)
    if at < 0:
        return None
    unpacker = zlib.decompressobj(wbits=31)
    try:
        return unpacker.decompress(data[at + len(IKCONFIG) - 2 :], LARGEST).decode("utf-8", errors="replace")
    except zlib.error:
        return None


def compression(data: bytes) -> str | None:
    """What `data` is compressed with, by its first bytes."""
    return next((name for magic, name in MAGICS if data.startswith(magic)), None)


def unpack(data: bytes, kind: str, name: str) -> bytes:
    """`data` uncompressed; what follows the compressed stream is ignored, as a kernel image appends its size."""
    try:
        return UNPACKERS[kind](data) if kind in UNPACKERS else _by_program(data, kind, name)
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as error:
        raise InputError(f"{name}: looks like {kind}, but does not unpack: {error}") from error


def _is_text(data: bytes) -> bool:
    return b"\0" not in data[:65536] and b"CONFIG_" in data


def _inside_kernel(data: bytes, name: str) -> str:
    is_kernel = False
    for payload in _payloads(data):
        is_kernel = True
        kind = compression(payload)
        if kind and (text := embedded(unpack(payload, kind, name))):
            return text
    if is_kernel or data[:4] == b"\x7fELF" or data[56:60] == b"ARM\x64":
        raise EvaluationError(
            f"{name}: this kernel holds no configuration",
            hint="it was built without CONFIG_IKCONFIG; give the .config it was built from (/boot/config-*)",
        )
    raise InputError(f"{name} is no configuration and no kernel image that is known here")


def _payloads(data: bytes) -> Iterator[bytes]:
    """The compressed kernel: in a bzImage, by the offsets of the boot protocol (since 2.08); in an EFI zboot image."""
    at, mark = BZIMAGE
    if data[at : at + 4] == mark and len(data) > 0x250 and unpack_from("<H", data, 0x206)[0] >= 0x208:
        sectors = data[0x1F1] or 4  # 0 means 4, for historical reasons
        offset, length = unpack_from("<II", data, 0x248)
        start = (sectors + 1) * SECTOR + offset
        yield data[start : start + length]
    if data[:2] == b"MZ" and data[4:8] == b"zimg":
        start, length = unpack_from("<II", data, 8)
        yield data[start : start + length]


def _gunzip(data: bytes) -> bytes:
    return zlib.decompressobj(wbits=31).decompress(data, LARGEST)


def _unxz(data: bytes) -> bytes:
    return lzma.LZMADecompressor().decompress(data, LARGEST)


def _unbzip2(data: bytes) -> bytes:
    return bz2.BZ2Decompressor().decompress(data, LARGEST)


UNPACKERS: dict[str, Callable[[bytes], bytes]] = {"gzip": _gunzip, "xz": _unxz, "lzma": _unxz, "bzip2": _unbzip2}


def _by_program(data: bytes, kind: str, name: str) -> bytes:
    program, package = PROGRAMS[kind]
    if shutil.which(program) is None:
        hint = f"install the Debian package {package}, or give the .config"
        raise EvaluationError(
            f"{name} is compressed with {kind}, and the program {program} is not installed", hint=hint
        )
    # The size that follows the stream makes the program fail after it has written everything: its output counts.
    result = subprocess.run([program, "-dc"], input=data, capture_output=True, check=False)
    if not result.stdout:
        raise InputError(f"{name}: {program} cannot unpack it: {result.stderr.decode(errors='replace').strip()}")
    return result.stdout[:LARGEST]
