# SPDX-License-Identifier: GPL-2.0-only
"""`python -m layer`: see `layer.cli`."""

from layer.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
