# SPDX-License-Identifier: GPL-2.0-only
"""`crit edit`: an image as JSON in an editor, and back. It is replaced whole, or stays as it is.

Nothing is written where nothing has changed, where what the editor leaves is no image of the same kind, or where
somebody else has written to the image meanwhile. On a terminal one may go back into the editor; else what was written
is kept beside the temporary files, and its name is told.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

from pycriu.errors import ImageError, PycriuError, UserError
from pycriu.images import catalogue, commit, decoded, store

if TYPE_CHECKING:
    import argparse

_EDITORS = ("VISUAL", "EDITOR")
_MAX_SIZE = 256 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `crit edit`."""
    parser.add_argument("image", metavar="IMAGE", help="the file of an image")
    parser.add_argument("--pretty", action="store_true", help="some numbers as a person reads them")
    parser.add_argument("-e", "--editor", metavar="CMD", help="the editor (default: $VISUAL, $EDITOR, vi)")


def run(args: argparse.Namespace, out: TextIO) -> int:
    """Edit."""
    path = os.path.realpath(args.image)
    before = _read(path)
    image = decoded.load(before, args.image, pretty=args.pretty)
    text = json.dumps(image, indent=4) + "\n"
    command = _editor(args.editor)
    fd, draft = tempfile.mkstemp(prefix=f"{os.path.basename(path)}-", suffix=".json")
    with open(fd, "w", encoding="utf-8") as file:
        file.write(text)
    keep = False
    try:
        data = _until_valid(command, draft, args.image, image, out)
        changed = data is not None and data != before
        if changed:
            _write(path, before, data or b"")
        out.write(f"{args.image}: {'written' if changed else 'nothing has changed'}\n")
    except _NotChanged:
        out.write(f"{args.image}: nothing has changed\n")
    except PycriuError as error:
        keep = _differs(draft, text)
        if not keep:
            raise
        raise type(error)(error.message, f"{error.hint or 'nothing was written'}; your text is in {draft}") from None
    finally:
        if not keep:
            with suppress(OSError):  # whatever the editor has made of it
                os.unlink(draft)
    return 0


def _differs(draft: str, text: str) -> bool:
    """Whether an editor has left anything that is worth keeping."""
    try:
        return os.path.isfile(draft) and _text(draft) != text
    except UserError:  # no text at all
        return True


class _NotChanged(Exception):
    """The editor has left the text as it was."""


def _read(path: str) -> bytes:
    kind = catalogue.lookup(os.path.basename(path))
    if kind is not None and kind.framing == catalogue.RAW:
        raise UserError(f"{path}: holds bytes, not entries", "only images of entries can be edited")
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_SIZE + 1)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    if len(data) > _MAX_SIZE:
        raise UserError(f"{path}: larger than {_MAX_SIZE >> 20} MiB, which no editor should see")
    return data


def _editor(named: str | None) -> list[str]:
    """The command of the editor."""
    text = named or next((os.environ[name] for name in _EDITORS if os.environ.get(name)), "vi")
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f"{text!r} is no command: {error}", "EDITOR names the editor") from None
    if not words:
        raise UserError("no editor", "EDITOR names the editor")
    return words


def _until_valid(command: list[str], draft: str, label: str, image: dict[str, Any], out: TextIO) -> bytes | None:
    """What the editor leaves, as an image; asks for another try where there is somebody to ask."""
    text = _text(draft)
    while True:
        _edit(command, draft)
        if _text(draft) == text:
            raise _NotChanged
        try:
            return _valid(_text(draft), label, image)
        except PycriuError as error:
            if not _again(error, out):
                raise


def _edit(command: list[str], draft: str) -> None:
    before = signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is for the editor, which knows what to do with it
    try:
        status = subprocess.run([*command, draft], check=False).returncode
    except OSError as error:
        raise UserError(f"{command[0]}: {error.strerror}", "EDITOR names the editor") from None
    finally:
        signal.signal(signal.SIGINT, before)
    if status:
        raise UserError(f"{command[0]} ended with status {status}", "nothing was written")


def _text(draft: str) -> str:
    try:
        with open(draft, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{draft}: {error}", "nothing was written") from None


def _valid(text: str, label: str, image: dict[str, Any]) -> bytes:
    """The image that the text describes, of the kind that it was."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{label}: not JSON: {error}", "nothing was written") from None
    if not isinstance(values, dict) or any(values.get(key) != image.get(key) for key in ("magic", "img_version")):
        raise ImageError(f"{label}: no longer an image of the same kind", "the magic is to stay as it is")
    data = decoded.dump(values, label)
    decoded.load(data, label)
    return data


def _again(error: PycriuError, out: TextIO) -> bool:
    """Ask, where there is a terminal."""
    if not (sys.stdin.isatty() and out.isatty()):
        return False
    out.write(f"crit: {error}\nEdit again? [Y/n] ")
    out.flush()
    return not sys.stdin.readline().strip().lower().startswith("n")


def _write(path: str, before: bytes, data: bytes) -> None:
    """The new image in the place of the old one, with its owner and mode; nobody dumps or restores meanwhile."""
    folder, name = os.path.split(path)
    directory = commit.open_directory(folder or ".")
    try:
        commit.lock(directory, folder, exclusive=True)
        if commit.unfinished(directory) or _read(path) != before:
            raise UserError(f"{path}: somebody has written to it since it was read", "edit it again")
        status = os.stat(path)
        fresh = f".{name}.crit-{os.getpid()}"
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory)
        try:
            with open(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fchown(file.fileno(), status.st_uid, status.st_gid)
                os.fchmod(file.fileno(), status.st_mode & 0o7777)
                os.fsync(file.fileno())
            os.rename(fresh, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            os.unlink(fresh, dir_fd=directory)
            raise
        os.fsync(directory)
    except OSError as error:
        raise store.refusal(error, path) from None
    finally:
        os.close(directory)
