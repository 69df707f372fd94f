# SPDX-License-Identifier: GPL-2.0-only
"""A small table, and what its columns add up to."""

import numpy
import pandas

frame = pandas.DataFrame({"a": numpy.arange(10), "b": numpy.arange(10) ** 2})
print(int(frame.b.sum()), flush=True)
