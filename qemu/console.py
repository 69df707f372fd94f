# SPDX-License-Identifier: GPL-2.0-only
"""An interactive console of a built image: `qemu/boot [MACHINE]`; `qemu/boot --attach SOCKET` joins a kept guest."""

import sys

from layer.errors import LayerError
from layer.target import boot

try:
    sys.exit(boot.from_words(sys.argv[1:]))
except LayerError as error:
    sys.stderr.write(f"boot: {error}\n")
    sys.exit(error.exit_code)
