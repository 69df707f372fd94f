# SPDX-License-Identifier: GPL-2.0-only
"""The data disk: small, empty, sparse ext4 for what must survive a power cut. The same bytes each time."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from layer import process

SIZE = 64 << 20
LABEL = "data"
# Fixed, so that two builds are alike. Each guest works on a copy of its own.
UUID = "6b1e8a5c-5a0c-4f5e-9d5e-70796372a00d"
HASH_SEED = "6b1e8a5c-5a0c-4f5e-9d5e-70796372a00e"
EPOCH = "1735689600"
# Said in full, as the build machine's own defaults are kept out. The journal is what a power cut is about.
FEATURES = (
    "none,has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize,"
    "sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr"
)
JOURNAL = "size=4"  # MiB


def make(path: Path, *, content: Path | None = None) -> None:
    """Write the disk to `path`; with the files below `content`, whose times and owners it then has."""
    program = shutil.which("mke2fs", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        raise process.missing("mke2fs")
    with path.open("wb") as file:
        file.truncate(SIZE)
    options = f"hash_seed={HASH_SEED},lazy_itable_init=0,lazy_journal_init=0,nodiscard,root_owner=0:0"
    layout = ["-b", "4096", "-I", "256", "-O", FEATURES, "-J", JOURNAL]
    layout += [] if content is None else ["-d", str(content)]
    command = [program, "-q", "-F", "-t", "ext4", "-L", LABEL, "-U", UUID, *layout, "-E", options, str(path)]
    # MKE2FS_CONFIG: the build machine's own defaults must not show in the result.
    process.output(
        command, env={"E2FSPROGS_FAKE_TIME": EPOCH, "MKE2FS_CONFIG": "/dev/null", "LC_ALL": "C", "TZ": "UTC"}
    )
