# SPDX-License-Identifier: GPL-2.0-only
"""`restore --new-pid`: a tree under its own PIDs while others have them, in a PID namespace (pid_namespaces(7)).

    pycriu ── init, which is PID 1 in there ── the tree

The restore is the ordinary one, done by `init` within the namespace, so that whatever has a PID in it (owners of files,
credentials, robust futexes, links in /proc) is right there. A mount namespace comes with it, in which /proc is that of
the PID namespace; mounts from outside go on to arrive in it. `outside` waits for word of it and tells the PID that the
root has here; `init` stays, reaps, and ends when the last task has.
"""

# What a restore cannot do at the same time, by the option of the command line, and why.
NOT_TOGETHER = {
    "dry-run": "what there will be in a PID namespace can be seen only in it",
    "exec-cmd": "the parent of the root is the init of the PID namespace",
    "restore-sibling": "the parent of the root is the init of the PID namespace",
    "action-script": "a script would have to know two PIDs of the root",
    "wait-pid": "in a new PID namespace all PIDs are free",
}
