# SPDX-License-Identifier: GPL-2.0-only
"""One file per thing that a task has: how it is read while the task is stopped, written to an image, and put back.

Nothing here imports another resource. Halves of one resource stand in one file, in this order:

    look / ask      read it from a stopped task (ask: through calls that the task makes itself, gathered in one table)
    entries         the image, built when nobody waits
    rows            the calls that a new task makes to have it again
"""
