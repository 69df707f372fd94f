# SPDX-License-Identifier: GPL-2.0-only
"""`python -m layer VERB …`: one verb, one call. Exit codes are the error families'; a traceback means a bug of ours."""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Callable, Sequence

from layer.cli import building, configuring, hosting, locking, running
from layer.errors import LayerError

Verb = Callable[[argparse.Namespace], int]
# Errors that are no bug of ours, wherever they come up: a disk that is full or broken, a cache of somebody else's.
SURROUNDINGS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words[:1] == ["audit"]:
            return running.audit(words[1:])
        arguments = _parser().parse_args(words)
        verb: Verb = arguments.verb
        return verb(arguments)
    except LayerError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        return 141  # what a shell says of a program killed by SIGPIPE
    except OSError as error:
        if error.errno not in SURROUNDINGS:
            raise
        print(f"error: {error.filename or 'output'}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="layer", description="Build an embedded-Linux image from templates and recipes."
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for module in (configuring, building, locking, hosting, running):
        module.add_verbs(verbs)
    return parser
