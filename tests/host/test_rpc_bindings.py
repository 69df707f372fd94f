# SPDX-License-Identifier: GPL-2.0-only
"""CRIU's RPC, asked by upstream's own Python bindings: `pycriu swrk` started by them, and the socket of a service."""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING

import pytest

from pycriu import images
from tests.host import rpc as shared
from tests.host.conftest import DEADLINE, alive, reap, wait_until
from tests.host.rpc import SUBJECT, Client

if TYPE_CHECKING:
    from tests.host.conftest import Subject

client, daemon, found, worker = shared.client, shared.daemon, shared.found, shared.worker


def test_check(client: Client) -> None:
    assert client.run("client().check(); tell('looks good')") == '["looks good"]\n'


def test_configuration_of_the_machine(worker: Client) -> None:
    """What the files of the system and the user say holds, until a request says otherwise."""
    (worker.host.folder / "criu.conf").write_text("log-file from-file.log\nwork-dir .\nleave-running\n")
    subject = worker.host.python(SUBJECT)
    head = "os.environ['CRIU_CONFIG_FILE'] = 'criu.conf'\nclient().check()\n"
    code = f"ask = client(); ask.opts.pid = {subject.pid}; tell(ask.dump().restored)"
    assert worker.run(head + code) == "[false]\n"
    assert "Dumping finished" in (worker.host.folder / "from-file.log").read_text()
    assert subject.go() == ["memory True"]


def dumped(client: Client, subject: Subject, options: str = "") -> str:
    """Dump the subject by the client; what that said."""
    options += f"; ask.opts.pid = {subject.pid}; ask.opts.log_file = 'dump.log'"
    said = client.run(f"ask = client(); {options.lstrip('; ')}\ntell(attempt(lambda: ask.dump().restored))")
    if not alive(subject.pid):
        reap(subject.pid)
    return said


def test_a_process_is_dumped_and_restored(client: Client) -> None:
    subject = client.host.python(SUBJECT)
    assert dumped(client, subject) == "[false]\n"
    assert not alive(subject.pid)
    assert "Dumping finished successfully" in client.log("dump.log")
    said = client.run("ask = client(); ask.opts.log_file = 'restore.log'\ntell(ask.restore().pid)")
    assert said == f"[{subject.pid}]\n"
    assert "Restore finished successfully. Tasks resumed." in client.log("restore.log")
    assert subject.go() == ["memory True"]


def test_a_process_is_left_running(client: Client) -> None:
    subject = client.host.python(SUBJECT)
    assert dumped(client, subject, "ask.opts.leave_running = True") == "[false]\n"
    assert (client.host.images / "inventory.img").exists()
    assert subject.go() == ["memory True"]


def test_log_and_statistics_lie_in_the_work_directory(worker: Client) -> None:
    subject = worker.host.python(SUBJECT)
    (worker.host.folder / "work").mkdir()
    options = "ask.opts.work_dir_fd = os.open('work', os.O_DIRECTORY)"
    said = worker.run(f"ask = client(); {options}; ask.opts.pid = {subject.pid}\ntell(ask.dump().restored)")
    reap(subject.pid)
    assert said == "[false]\n"
    assert sorted(os.listdir(worker.host.folder / "work")) == ["criu.log", "stats-dump"]


@pytest.mark.parametrize(
    ("call", "options", "number"),
    [
        ("dump", "ask.opts.pid = 4194303", errno.ESRCH),
        ("dump", "ask.opts.lazy_pages = True", errno.EBADRQC),
        ("dump", "ask.opts.images_dir_fd = 987", errno.EBADRQC),
        ("dump", "ask.opts.log_file = '../../log'", errno.EBADRQC),
        ("dump", "ask.opts.config_file = 'nowhere.conf'", errno.EBADRQC),
        ("restore", "ask.opts.empty_ns = 1", errno.EBADRQC),
    ],
)
def test_the_bindings_are_told_what_kind_of_error_it_is(client: Client, call: str, options: str, number: int) -> None:
    said = client.run(f"ask = client(); {options}\ntell(attempt(ask.{call})[1])")
    assert said == f"[{int(number)}]\n"


def test_a_pid_that_is_taken_is_told(worker: Client) -> None:
    subject = worker.host.python(SUBJECT)
    assert dumped(worker, subject, "ask.opts.leave_running = True") == "[false]\n"
    said = worker.run("tell(attempt(client().restore)[1])")
    assert said == f"[{int(errno.EEXIST)}]\n"
    assert subject.go() == ["memory True"]


def test_who_asks_for_its_own_dump_and_goes_on_is_answered(client: Client) -> None:
    assert client.run("ask = client(); ask.opts.leave_running = True\ntell(ask.dump().restored)") == "[false]\n"
    assert (client.host.images / "inventory.img").exists()


def test_a_configuration_file_can_say_that_it_goes_on(worker: Client) -> None:
    (worker.host.folder / "rpc.conf").write_text("leave-running\n")
    code = "ask = client(); ask.opts.config_file = 'rpc.conf'\ntell(ask.dump().restored)"
    assert worker.run(code) == "[false]\n"


def test_who_asks_for_its_own_dump_is_answered_when_it_is_restored(client: Client) -> None:
    asking = client.start("ask = client(); before = os.getpid()\ntell(ask.dump().restored, os.getpid() == before)")
    asking.wait(DEADLINE)
    assert asking.returncode == -9, client.said()
    assert client.said() == ""
    restored = client.host.restore()
    assert restored.ok, restored
    wait_until(client.said, "the restored client goes on")
    assert client.said() == "[true, true]\n"
    reap(asking.pid)


REQUEST = """
def asked(**fields):
    return ask._send_req_and_recv_resp(rpc.criu_req(**fields))
ask = client()
"""


def test_the_version_is_one_that_clients_accept(client: Client) -> None:
    code = "version = asked(type=rpc.VERSION).version; tell(version.major_number >= 4, version.name.split()[0])"
    assert client.run(REQUEST + code) == '[true, "pycriu"]\n'


def test_one_connection_serves_several_requests(worker: Client) -> None:
    code = """
for _ in range(3):
    answer = asked(type=rpc.VERSION, keep_open=True)
    tell(answer.success, answer.type)
answer = asked(type=rpc.FEATURE_CHECK, features=rpc.criu_features(lazy_pages=True))
tell(answer.success, answer.features.lazy_pages)
"""
    assert worker.run(REQUEST + code) == "[true, 10]\n" * 3 + "[true, false]\n"


def test_the_words_of_an_error_name_the_object(worker: Client) -> None:
    code = (
        "ask.opts.pid = 4194303; answer = asked(type=rpc.DUMP, opts=ask.opts); tell(answer.success, answer.cr_errmsg)"
    )
    assert "no process has PID 4194303" in worker.run(REQUEST + code)
    code = "ask.opts.lazy_pages = True; tell(asked(type=rpc.DUMP, opts=ask.opts).cr_errmsg)"
    assert "criu_opts.lazy_pages: --lazy-pages" in worker.run(REQUEST + code)


def test_a_directory_by_its_path_and_options_by_a_file(worker: Client) -> None:
    subject = worker.host.python(SUBJECT)
    (worker.host.folder / "rpc.conf").write_text("leave-running\nlog-file from-the-file.log\n")
    code = f"""
ask.opts.images_dir_fd = -1
ask.opts.images_dir = "images"
ask.opts.config_file = "rpc.conf"
ask.opts.log_file = "ignored.log"
ask.opts.pid = {subject.pid}
tell(ask.dump().restored)
"""
    assert worker.run("ask = client()\n" + code) == "[false]\n"
    assert (worker.host.images / "from-the-file.log").exists()
    assert not (worker.host.images / "ignored.log").exists()
    assert subject.go() == ["memory True"]


def test_a_stranger_cannot_be_waited_for(worker: Client) -> None:
    assert worker.run("tell(attempt(lambda: client().wait_pid(1))[1])") == f"[{int(errno.ECHILD)}]\n"


# What a client does that wants to be told: it answers each stage, until something else comes.
TOLD = """
def told(request, refuse=None):
    sock = ask._comm.connect(False)
    sock.send(request.SerializeToString())
    while True:
        answer = rpc.criu_resp.FromString(sock.recv(1 << 16))
        if answer.type != rpc.NOTIFY:
            return answer
        stages.append([answer.notify.script, answer.notify.pid])
        if refuse == answer.notify.script + " by going away":
            os._exit(0)
        sock.send(rpc.criu_req(type=rpc.NOTIFY, notify_success=answer.notify.script != refuse).SerializeToString())
stages = []
ask = client()
ask.opts.notify_scripts = True
"""


def test_a_client_is_told_of_every_stage(client: Client) -> None:
    subject = client.host.python(SUBJECT)
    code = f"ask.opts.pid = {subject.pid}\nanswer = told(rpc.criu_req(type=rpc.DUMP, opts=ask.opts))"
    said = client.run(TOLD + code + "; tell(answer.success, answer.cr_errmsg, stages)")
    reap(subject.pid)
    assert json.loads(said) == [True, "", [["pre-dump", 0], ["post-dump", 0]]]
    code = "answer = told(rpc.criu_req(type=rpc.RESTORE, opts=ask.opts)); tell(answer.restore.pid, stages)"
    expected = [["pre-restore", 0], ["post-restore", subject.pid], ["pre-resume", 0], ["post-resume", 0]]
    assert json.loads(client.run(TOLD + code)) == [subject.pid, expected]
    assert subject.go() == ["memory True"]


@pytest.mark.parametrize("stage", ["pre-dump", "post-dump"])
@pytest.mark.parametrize("how", ["", " by going away"])
def test_a_client_that_objects_leaves_the_tree_as_it_was(worker: Client, stage: str, how: str) -> None:
    subject = worker.host.python(SUBJECT)
    code = f"ask.opts.pid = {subject.pid}\nanswer = told(rpc.criu_req(type=rpc.DUMP, opts=ask.opts), {stage + how!r})"
    said = worker.run(TOLD + code + "; tell(answer.success, answer.cr_errmsg)")
    if not how:
        assert said == f'[false, "the client has reported an error at {stage}"]\n'
    wait_until(lambda: "Dumping FAILED." in worker.log("criu.log"), "the dump has failed")
    assert subject.go() == ["memory True"]


@pytest.mark.parametrize("stage", ["pre-restore", "post-restore"])
@pytest.mark.parametrize("how", ["", " by going away"])
def test_a_client_that_objects_gets_no_tree(worker: Client, stage: str, how: str) -> None:
    subject = worker.host.python(SUBJECT)
    assert dumped(worker, subject) == "[false]\n"
    code = f"answer = told(rpc.criu_req(type=rpc.RESTORE, opts=ask.opts), {stage + how!r}); tell(answer.restore.pid)"
    assert worker.run(TOLD + code) == ("" if how else "[-1]\n")
    wait_until(lambda: "Restoring FAILED." in worker.log("criu.log"), "the restore has failed")
    assert not alive(subject.pid)


def test_who_is_dumped_cannot_be_told(worker: Client) -> None:
    """It would wait for its own answer for ever."""
    code = "ask._comm.daemon = True\nanswer = told(rpc.criu_req(type=rpc.DUMP, opts=ask.opts)); tell(answer.cr_errmsg)"
    said = worker.run(TOLD.replace("connect(False)", "connect(True)") + code)
    assert "the client is in the tree that it has dumped" in said


def test_a_command_takes_the_place_of_the_worker(worker: Client) -> None:
    subject = worker.host.python(SUBJECT)
    assert dumped(worker, subject) == "[false]\n"
    code = """
script = "read -r child rest < /proc/$$/task/$$/children; echo parent of $child; exec sleep 0.2"
ask.opts.exec_cmd.extend(["sh", "-c", script])
ask.opts.log_file = "restore.log"
tell(ask.restore().pid)
"""
    assert worker.run("ask = client()\n" + code) == f"[{subject.pid}]\n"
    wait_until(lambda: f"parent of {subject.pid}" in worker.log("restore.log"), "it has run")
    assert subject.go() == ["memory True"]


def test_the_root_can_become_a_child_of_the_client(worker: Client) -> None:
    subject = worker.host.python(SUBJECT)
    assert dumped(worker, subject) == "[false]\n"
    code = "ask = client(); ask.opts.rst_sibling = True; pid = ask.restore().pid\n"
    code += "open('go', 'w'); tell(os.waitpid(pid, 0)[0])"
    assert worker.run(code) == f"[{subject.pid}]\n"
    assert subject.said()[-1] == "memory True"


def test_pre_dumps_and_the_dump_that_builds_upon_them(client: Client) -> None:
    """First each on a connection of its own, then all on one, as container runtimes do it."""
    subject = client.host.python(SUBJECT)
    (client.host.folder / "first").mkdir()
    (client.host.folder / "second").mkdir()
    code = f"""
ask.opts.pid = {subject.pid}
ask.opts.images_dir_fd = os.open("first", os.O_DIRECTORY)
ask.pre_dump()
sock = ask._comm.connect(False)
def send(kind, images, parent):
    ask.opts.images_dir_fd, ask.opts.parent_img = os.open(images, os.O_DIRECTORY), parent
    sock.send(rpc.criu_req(type=kind, opts=ask.opts).SerializeToString())
    answer = rpc.criu_resp.FromString(sock.recv(1 << 16))
    tell(answer.type == kind, answer.success, answer.cr_errmsg)
send(rpc.PRE_DUMP, "second", "../first")
send(rpc.DUMP, "images", "../second")
"""
    assert client.run("ask = client()\n" + code) == '[true, true, ""]\n' * 2
    reap(subject.pid)
    assert os.readlink(client.host.images / "parent") == "../second"
    assert client.run("tell(client().restore().pid)") == f"[{subject.pid}]\n"
    assert subject.go() == ["memory True"]


def test_after_a_pre_dump_comes_nothing_but_a_dump(worker: Client) -> None:
    subject = worker.host.python(SUBJECT)
    code = f"""
ask.opts.pid = {subject.pid}
sock = ask._comm.connect(False)
sock.send(rpc.criu_req(type=rpc.PRE_DUMP, opts=ask.opts).SerializeToString())
tell(rpc.criu_resp.FromString(sock.recv(1 << 16)).success)
sock.send(rpc.criu_req(type=rpc.CHECK).SerializeToString())
answer = rpc.criu_resp.FromString(sock.recv(1 << 16))
tell(answer.success, answer.cr_errmsg.splitlines()[0])
tell(len(sock.recv(1)))
"""
    assert worker.run("ask = client()\n" + code) == '[true]\n[false, "CHECK cannot follow PRE_DUMP"]\n[0]\n'
    assert subject.go() == ["memory True"]


def test_a_single_pre_dump_is_all_of_a_connection(client: Client) -> None:
    subject = client.host.python(SUBJECT)
    (client.host.folder / "first").mkdir()
    code = f"""
ask.opts.pid = {subject.pid}
ask.opts.images_dir_fd = os.open("first", os.O_DIRECTORY)
sock = ask._comm.connect(False)
sock.send(rpc.criu_req(type=rpc.SINGLE_PRE_DUMP, opts=ask.opts).SerializeToString())
answer = rpc.criu_resp.FromString(sock.recv(1 << 16))
tell(answer.type == rpc.SINGLE_PRE_DUMP, answer.success, len(sock.recv(1)))
"""
    assert client.run("ask = client()\n" + code) == "[true, true, 0]\n"
    assert alive(subject.pid)
    assert not list((client.host.folder / "first").glob("core-*.img"))
    assert dumped(client, subject, "ask.opts.parent_img = '../first'") == "[false]\n"
    assert client.run("tell(client().restore().pid)") == f"[{subject.pid}]\n"
    assert subject.go() == ["memory True"]


@pytest.mark.parametrize("kind", ["PRE_DUMP", "SINGLE_PRE_DUMP"])
def test_a_pre_dump_that_fails_is_told(worker: Client, kind: str) -> None:
    code = f"ask.opts.pid = 4194303; answer = asked(type=rpc.{kind}, opts=ask.opts)"
    tell = f"tell(answer.type == rpc.{kind}, answer.success, answer.cr_errno, answer.cr_errmsg)"
    told = json.loads(worker.run(f"{REQUEST}{code}\n{tell}"))
    assert told[:3] == [True, False, errno.ESRCH]
    assert "no process has PID 4194303" in told[3]


def test_features(worker: Client) -> None:
    wanted = "rpc.criu_features(mem_track=True, lazy_pages=True, pidfd_store=True)"
    code = f"has = asked(type=rpc.FEATURE_CHECK, features={wanted}).features; tell(has.lazy_pages, has.pidfd_store)"
    assert worker.run(REQUEST + code) == "[false, true]\n"


# A page server started by one request, and a dump that sends its pages there by another.
PAGES = """
def serve(kind):
    ask = client()
    ask.opts.images_dir_fd = os.open("server", os.O_DIRECTORY)
    ask.opts.log_file = "server.log"
    ask.opts.ps.address = "127.0.0.1"
    answer = ask._send_req_and_recv_resp(rpc.criu_req(type=kind, opts=ask.opts, keep_open=kind != rpc.PAGE_SERVER))
    return ask, answer
def send(info, pid):
    ask = client()
    ask.opts.pid, ask.opts.ps.address, ask.opts.ps.port = pid, "127.0.0.1", info.port
    return ask.dump().restored
"""


@pytest.mark.parametrize("kind", ["PAGE_SERVER", "PAGE_SERVER_CHLD"])
def test_pages_go_to_a_page_server(client: Client, kind: str) -> None:
    subject = client.host.python(SUBJECT)
    server = client.host.folder / "server"
    server.mkdir()
    if kind == "PAGE_SERVER_CHLD" and client.way == "binary":
        end = "tell(os.waitstatus_to_exitcode(ask.wait_pid(answer.ps.pid)))"
    else:
        end = "tell(0)"
    code = f"ask, answer = serve(rpc.{kind}); tell(answer.cr_errmsg, send(answer.ps, {subject.pid})); {end}"
    assert client.run(PAGES + code) == '["", false]\n[0]\n'
    reap(subject.pid)
    wait_until(lambda: list(server.glob("pages-*.img")), "the pages are there")
    assert not list(client.host.images.glob("pages-*.img"))
    for path in server.glob("*.img"):
        path.rename(client.host.images / path.name)
    assert client.run("tell(client().restore().pid)") == f"[{subject.pid}]\n"
    assert subject.go() == ["memory True"]


def test_a_page_server_that_cannot_be_is_told(worker: Client) -> None:
    (worker.host.folder / "server").mkdir()
    (worker.host.folder / "server" / "inventory.img").touch()
    code = "tell('a whole checkpoint is here' in serve(rpc.PAGE_SERVER)[1].cr_errmsg)"
    assert worker.run(PAGES + code) == "[true]\n"


def test_what_the_cpu_offers(client: Client) -> None:
    """Written down, found to be enough, and found to be too little when the image asks for everything."""
    if os.uname().machine != "x86_64":
        pytest.skip("cpuinfo.img has a place for CPUs of x86 only")
    code = "answer = asked(type=rpc.{}, opts=ask.opts); tell(answer.success, answer.cr_errno)"
    assert client.run(REQUEST + code.format("CPUINFO_DUMP")) == "[true, 0]\n"
    assert client.run(REQUEST + code.format("CPUINFO_CHECK")) == "[true, 0]\n"
    path = client.host.images / "cpuinfo.img"
    image = images.loads(path.read_bytes())
    for cpu in image["entries"][0]["x86_entry"]:
        cpu["capability"] = [0xFFFFFFFF for _ in cpu["capability"]]
    path.write_bytes(images.dumps(image))
    assert client.run(REQUEST + code.format("CPUINFO_CHECK")) == f"[false, {int(errno.ENOTSUP)}]\n"


def test_a_descriptor_of_the_client_takes_the_place_of_what_is_external(worker: Client) -> None:
    """As a container runtime does it with the standard output of a container."""
    reader, writer = os.pipe()
    subject = worker.host.python(f"pause_for_dump()\nos.write({writer}, b'back')", pass_fds=(writer,))
    inode = os.fstat(writer).st_ino
    assert dumped(worker, subject, f"ask.opts.external.append('pipe[{inode}]')") == "[false]\n"
    os.close(reader)
    os.close(writer)
    code = f"""
ours, its = os.pipe()
os.set_inheritable(its, True)
ask = client()
ask.opts.inherit_fd.add(key="pipe[{inode}]", fd=its)
tell(ask.restore().pid)
os.close(its)
open("go", "w").close()
tell(os.read(ours, 100).decode())
"""
    assert worker.run(code) == f'[{subject.pid}]\n["back"]\n'
    wait_until(lambda: not alive(subject.pid), "it ends")
    reap(subject.pid)


def test_what_changes_nothing_is_told_in_the_log(worker: Client) -> None:
    subject = worker.host.python(SUBJECT)
    options = "ask.opts.weak_sysctls = True; ask.opts.skip_file_rwx_check = True; ask.opts.exec_cmd.append('true')"
    assert dumped(worker, subject, options) == "[false]\n"
    log = worker.log("dump.log")
    assert "--weak-sysctls has no effect" in log
    assert "--skip-file-rwx-check means nothing to dump" in log
    assert "exec_cmd means nothing to dump" in log
