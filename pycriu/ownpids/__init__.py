# SPDX-License-Identifier: GPL-2.0-only
"""`restore --new-pid`: a tree under its own PIDs while others have them, in a PID namespace (pid_namespaces(7)).

    pycriu ── init, which is PID 1 in there ── the tree

The restore is the ordinary one, done by `init` within the namespace, so that whatever has a PID in it (owners of files,
credentials, robust futexes, links in /proc) is right there. A mount namespace comes with it, in which /proc is that of
the PID namespace; mounts from outside go on to arrive in it. `outside` waits for word of it and tells the PID that the
root has here; `init` stays, reaps, and ends when the last task has.
"""
