# SPDX-License-Identifier: GPL-2.0-only
"""Programs that are told of checkpoints: their side (light to import, without the engine), and the engine's.

channel    the memory through which both speak, and how it is found
page       the program's end of it
registry   hooks, their order, their errors
moment     what hooks are told
listener   the program's side of a conversation
standing   its wait for the end
sections   critical sections, which keep it waiting
fresh      what a restored program must not have twice: randomness; what it must not believe any more: its pid, its host
asking     a program that has itself dumped
rehearsal  hooks without a checkpoint, for unit tests of programs
interface  what a program calls
program    a program with hooks, seen from the engine
audience   the engine's side: asks before the freeze, tells afterwards
"""
