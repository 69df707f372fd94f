# SPDX-License-Identifier: GPL-2.0-only
"""BLCR's commands: cr_run, cr_checkpoint, cr_restart, cr_info, with their options, defaults and exit codes (0.8.6).

    options      tables of options, and what reads words by them
    codes        exit codes, and the classes of failures that a restart tells apart
    messages     what is said on standard error, and how much of it
    rights       what the kernel demands
    scope        which processes: a tree, one alone, a group, a session, less those that stay out
    workplace    a directory for what is needed meanwhile; those of the dead are removed
    context      where a context goes, and what becomes of the one that was there
    archive      the images in one file: a tar archive, which crit reads, too
    checkpoint   the story of cr_checkpoint
    changes      what of the images is another at a restart: paths, groups, sessions, files that have grown
    restart      the story of cr_restart
    parent       the life of cr_restart as the parent of what it has restarted
    pidspace     new PIDs, by a PID namespace
    info         the story of cr_info
    cli          the four commands

The engine and the images are pycriu's. Nothing of pycriu's own commands imports this.
"""
