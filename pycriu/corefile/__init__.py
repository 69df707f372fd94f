# SPDX-License-Identifier: GPL-2.0-only
"""Restart from a core dump: ELF core files become checkpoints, and processes leave core files with what these lack.

    reader     an ELF core: headers, segments, notes, threads
    program    what of ELF programs and libraries on the disk is needed
    space      the memory of a core as mappings: segments, NT_FILE, and what is in neither
    clib       what the C library has registered with the kernel for each thread, found in its memory
    layout     heap, stack, arguments and their like
    pages      the pages that a checkpoint of it must have
    descriptors  the text file with descriptors, as libsavefds.so writes it
    sidecar    images beside a core, which have what a core cannot hold
    build      the entries of the images
    asked      what an import is asked for, and what it tells
    importing  the story: core → checkpoint
    restarting the story: core → process; `pycriu.restart_command` is its command
    saving     a core with a side-car of a running process
    seen       what /proc shows of a process that is ending, for a side-car
    handler    what the kernel calls

What a core lacks is listed, never guessed in silence.
"""
