# SPDX-License-Identifier: GPL-2.0-only
"""`import pycriu`: cheap for the command, complete for scripts, theirs and ours."""

from __future__ import annotations

import errno
import inspect
import io
import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import pycriu
from pycriu import api, bindings, images, rpc
from pycriu.errors import ImageError
from pycriu.images import interface, magic, pb2dict
from pycriu.images import messages as m
from pycriu.options import DumpOptions, RestoreOptions

# What only a service, the command line, or warm starts need of the options.
NOT_FOR_PYTHON = {
    "progress", "service_socket", "may_dump", "detached", "images_dir", "pid", "page_server", "settled", "new_life",
    "message",
    "find", "signal", "pipes_outside", "edits", "outer_group", "terminal", "embed",  # of BLCR's commands
}  # fmt: skip


PROMISED = [
    *("criu", "CRIUException", "CRIUExceptionInternal", "CRIUExceptionExternal", "CR_DEFAULT_SERVICE_ADDRESS"),
    *("rpc", "images", "dump", "restore", "check", "pre_dump", "DumpResult", "RestoreResult", "PreDumpResult"),
    *("before_checkpoint", "after_checkpoint", "after_restore", "checkpoint", "checkpoint_async", "critical_section"),
    *("NotNow", "Refusal", "Outcome", "Moment", "Report", "forget_hook", "keep_randomness", "listen", "moment"),
    *("simulate", "simulate_async", "warm_start"),
    *("PycriuError", "UserError", "Unsupported", "ImageError", "HookFailed", "Missing", "__version__"),
]


def told(code: str) -> list[str]:
    """What a fresh Python prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_importing_costs_nothing() -> None:
    loaded = told("import sys; before = set(sys.modules); import pycriu; print(*(set(sys.modules) - before))")
    assert loaded == ["pycriu"]


def test_everything_that_is_promised_is_there() -> None:
    assert told(f"import pycriu\nfor name in {PROMISED}: print(hasattr(pycriu, name))") == ["True"] * len(PROMISED)
    assert told("import pycriu; print(hasattr(pycriu, 'nothing'), hasattr(pycriu.images, 'nothing'))") == ["False"] * 2


def test_names_of_functions_are_not_those_of_modules() -> None:
    """Whoever imports the module would find it in the place of the function; these three are seen to."""
    names = {name for names in pycriu._NAMES.values() for name in names}
    folder = Path(pycriu.__file__).parent
    modules = {name for name in names if (folder / f"{name}.py").exists() or (folder / name).is_dir()}
    assert modules == {"check", "dump", "restore"}


@pytest.mark.parametrize(
    "line",
    [
        "import pycriu; pycriu.rpc.criu_opts; pycriu.images.load",
        "import pycriu.rpc as rpc; rpc.DUMP",
        "import pycriu.rpc_pb2 as rpc; rpc.criu_req(type=rpc.CHECK)",
        "from pycriu import rpc, images, criu",
        "import pycriu.images; pycriu.images.core_entry; pycriu.images.pagemap_head",
        "from pycriu.images import pb2dict, magic; magic.by_name['CORE']; pb2dict.dict2pb",
        "from pycriu import dump, restore, check; assert callable(dump) and callable(restore) and callable(check)",
        "import pycriu; pycriu.check; pycriu.dump; assert callable(pycriu.restore) and callable(pycriu.dump)",
    ],
)
def test_ways_to_import(line: str) -> None:
    assert told(line + "; print('done')") == ["done"]


def test_two_threads_at_once_leave_the_limit_of_descriptors_as_it_was() -> None:
    """And whoever ends first does not lower it for the other."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    raised = before[0] - 1, before[1]
    one, other = api._surroundings(None, 1), api._surroundings(None, 1)
    one.__enter__()
    resource.setrlimit(resource.RLIMIT_NOFILE, raised)
    other.__enter__()
    one.__exit__(None, None, None)
    during = resource.getrlimit(resource.RLIMIT_NOFILE)
    other.__exit__(None, None, None)
    after = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert (during, after) == (raised, before)


def test_keywords_are_the_options() -> None:
    """Each option that a live process can use is a keyword, with the same default."""
    for call, options in ((api.dump, DumpOptions), (api.restore, RestoreOptions)):
        fields = (
            inspect.signature(options).parameters if hasattr(options, "__dataclass_fields__") else options.__slots__
        )
        keywords = inspect.signature(call).parameters
        missing = set(fields) - set(keywords) - NOT_FOR_PYTHON
        assert not missing, f"{call.__name__} lacks {missing}"
        for name in set(fields) & set(keywords) - {"work_dir", "images_dir", "pid"}:
            assert keywords[name].default == options._defaults[name], name  # type: ignore[attr-defined]


def test_enums_of_the_protocol() -> None:
    assert rpc.criu_req_type.Name(rpc.DUMP) == "DUMP"
    assert rpc.criu_req_type.Value("WAIT_PID") == 11
    assert ("RESTORE", 2) in rpc.criu_req_type.items()
    assert rpc.criu_req_type.keys()[0] == "EMPTY"
    assert rpc.criu_cg_mode.values() == list(range(7))
    with pytest.raises(ValueError, match="99"):
        rpc.criu_req_type.Name(99)
    with pytest.raises(ValueError, match="NOTHING"):
        rpc.criu_req_type.Value("NOTHING")
    with pytest.raises(AttributeError, match="nothing"):
        rpc.nothing  # noqa: B018
    assert not hasattr(rpc, "NOTHING")


def test_exceptions_say_what_upstreams_say_and_more() -> None:
    error = bindings.CRIUExceptionExternal(rpc.DUMP, rpc.DUMP, errno.ESRCH)
    assert str(error) == "DUMP failed: Error(3): No process with such pid"
    error = bindings.CRIUExceptionExternal(rpc.RESTORE, rpc.NOTIFY, errno.EEXIST, "PID 7 is in use by sh")
    assert str(error) == (
        "RESTORE failed: Unexpected response type 6: Error(17): Process with requested pid already exists: "
        "PID 7 is in use by sh"
    )
    assert (error.typ, error.resp_typ, error.errno, error.errmsg) == (2, 6, 17, "PID 7 is in use by sh")
    assert str(bindings.CRIUExceptionExternal(rpc.DUMP, rpc.DUMP, errno.EBADRQC)).endswith("Bad options")
    internal = bindings.CRIUExceptionInternal(rpc.CHECK, "no socket")
    assert str(internal) == "CHECK failed with internal error: no socket"
    assert isinstance(internal, bindings.CRIUException)


def test_a_service_that_is_not_there() -> None:
    ask = bindings.criu()
    ask.use_sk("/nonexistent/socket")
    with pytest.raises(bindings.CRIUExceptionInternal, match="CHECK failed with internal error"):
        ask.check()
    ask.use_binary("/nonexistent/criu")
    with pytest.raises(bindings.CRIUExceptionInternal):
        ask.check()


# ------------------------------------------------------------------------------------------------------------- images

PSTREE = {"magic": "PSTREE", "entries": [{"pid": 7, "ppid": 0, "pgid": 7, "sid": 7, "threads": [7]}]}


def test_images_come_and_go_as_dictionaries(tmp_path: Path) -> None:
    path = tmp_path / "pstree.img"
    with open(path, "wb") as file:
        images.dump(json.loads(json.dumps(PSTREE)), file)
    with open(path, "rb") as file:
        assert images.load(file) == PSTREE
    with open(path, "rb") as file:
        assert images.info(file) == {"magic": "PSTREE", "count": 1}
    assert images.dumps(PSTREE) == path.read_bytes()
    assert images.loads(path.read_bytes()) == PSTREE
    assert images.loads(path.read_bytes(), True)["magic"] == "PSTREE"


def test_what_is_no_image() -> None:
    with pytest.raises(interface.MagicException) as caught:
        images.load(io.BytesIO(b"\x7fELF\0\0\0\0"))
    assert caught.value.magic == 0x464C457F
    with pytest.raises(interface.MagicException):
        images.loads(b"")
    with pytest.raises(ImageError):
        images.loads(images.dumps(PSTREE)[:-1])


def test_a_file_stays_as_it_is_if_the_image_cannot_be(tmp_path: Path) -> None:
    out = io.BytesIO()
    with pytest.raises(ImageError, match="pdi"):
        images.dump({"magic": "PSTREE", "entries": [{"pdi": 7}]}, out)
    assert out.getvalue() == b""


def test_magics_and_messages_by_name() -> None:
    assert magic.by_val[magic.by_name["CORE"]] == "CORE"
    assert magic.by_name["IMG_COMMON"] == 0x54564319
    entry = m.pstree_entry(pid=7, ppid=0, pgid=7, sid=7)
    assert pb2dict.pb2dict(entry) == {"pid": 7, "ppid": 0, "pgid": 7, "sid": 7}
    again = m.pstree_entry()
    pb2dict.dict2pb({"pid": 7, "ppid": 0, "pgid": 7, "sid": 7}, again)
    assert again == entry
