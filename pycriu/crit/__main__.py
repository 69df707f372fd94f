# SPDX-License-Identifier: GPL-2.0-only
"""`python -m pycriu.crit`."""

import sys

from pycriu.crit.cli import main

if __name__ == "__main__":
    sys.exit(main())
