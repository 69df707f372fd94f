# SPDX-License-Identifier: GPL-2.0-only
"""Programs in Python that begin where their imports are done: the first start keeps a checkpoint, all others restore
it, with their own arguments, environment, working directory, standard streams and PID, as many at once as are wanted.

identity   which starts are the same, and which files must be as they were
shelf      where checkpoints are kept, and how they come there whole
program    the side of the program: `pycriu.warm_start`
runner     the other side: restore, and stay until it ends
letter     what the one tells the other
boot       programs that know nothing of it: their imports, then they themselves

Whatever goes wrong, the program starts as it does without all this.
"""
