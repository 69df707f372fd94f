# SPDX-License-Identifier: GPL-2.0-only
"""Runs in the guest: asks for things by CRIU's RPC, with the Python bindings of CRIU, and tells what was answered.

    python3 -B rpc_client.py BINDINGS WAY WHERE USER <calls

BINDINGS is the folder of CRIU's module, which has the name of ours; WAY is `socket` (WHERE: of a service) or `swrk`
(WHERE: the program that the bindings start). As USER it reads a list of calls in JSON: `call` is a method of the
bindings, `images` a directory, the rest are fields of criu_opts; a `pid` of 0 is that of a process that it has started
for itself. For each call it writes an object: `errno` (0: done), `pid` and `stages`, of which it has been notified.
"""

import json
import os
import subprocess
import sys

sys.path.insert(0, sys.argv[1])
sys.path.append("/usr/lib/python3/dist-packages")  # protobuf

import pycriu
from pycriu import rpc

BINDINGS, WAY, WHERE, USER = sys.argv[1:]
assert pycriu.__file__.startswith(BINDINGS), pycriu.__file__
TYPES = {"dump": rpc.DUMP, "restore": rpc.RESTORE}


def become(user):
    """For good, with all ids."""
    if user:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)


def client(images, fields):
    """The object of the bindings."""
    ask = pycriu.criu()
    (ask.use_sk if WAY == "socket" else ask.use_binary)(WHERE)
    if images is not None:
        ask.opts.images_dir_fd = os.open(images, os.O_DIRECTORY)
    ask.opts.log_level = 4
    for name, value in fields.items():
        setattr(ask.opts, name, value)
    return ask


def notified(ask, kind):
    """The answer, and the stages before it; the bindings have the connection and the messages for that, but no loop."""
    ask.opts.notify_scripts = True
    sock = ask._comm.connect(False)
    sock.send(rpc.criu_req(type=kind, opts=ask.opts).SerializeToString())
    stages = []
    while True:
        answer = rpc.criu_resp.FromString(sock.recv(1 << 16))
        if answer.type != rpc.NOTIFY:
            ask._comm.disconnect()
            return answer, stages
        stages.append(answer.notify.script)
        sock.send(rpc.criu_req(type=rpc.NOTIFY, notify_success=True).SerializeToString())


def answer(call, images=None, **fields):
    """What came of one call."""
    ask = client(images, fields)
    if call in TYPES:
        told, stages = notified(ask, TYPES[call])
        pid = told.restore.pid if call == "restore" and told.success else 0
        return {"errno": 0 if told.success else told.cr_errno, "pid": pid, "stages": stages}
    try:
        getattr(ask, call)()
    except pycriu.CRIUExceptionExternal as error:
        return {"errno": error.errno, "pid": 0, "stages": []}
    return {"errno": 0, "pid": 0, "stages": []}


def main():
    """All of them."""
    become(int(USER))
    own = 0
    answers = []
    for fields in json.load(sys.stdin):
        if fields.get("pid") == 0:
            own = own or subprocess.Popen(
                ["sleep", "1000"], start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            ).pid  # fmt: skip
            fields["pid"] = own
        answers.append(answer(**fields))
    if own:
        os.kill(own, 9)
    sys.stdout.write(json.dumps(answers) + "\n")


main()
