# SPDX-License-Identifier: GPL-2.0-only
"""What is on disk: the messages, the names and magics of the files, and a directory of them.

The format is CRIU's (img_version 2). Names, magics and field numbers are a contract with `criu`, `crit`, `go-criu` and
`checkpointctl`; nothing here may change their meaning.
"""
