# SPDX-License-Identifier: GPL-2.0-only
"""`python -m pycriu`."""

import sys

from pycriu.cli import main

sys.exit(main())
