# SPDX-License-Identifier: GPL-2.0-only
"""crit, the tool for images: it looks at a checkpoint, judges it and changes it. No process is touched.

`cli` has the table of commands, each of which is a module here with

    add_arguments(parser)     its options, for argparse
    run(args, out) -> int     its work: the exit status; words go to the text stream `out`, bytes to `out.buffer`

An error is a PycriuError, which `cli` turns into words. `source` opens what a command works on.
"""
