# SPDX-License-Identifier: GPL-2.0-only
"""BLCR's commands without a process: options, exit codes, names of contexts, archives, relocation."""

from __future__ import annotations

import errno
import io
import os
import stat
import tarfile
from pathlib import Path
from typing import IO

import pytest

from pycriu.blcr import archive, changes, codes, consent, context, options
from pycriu.blcr.checkpoint import saved_kinds
from pycriu.blcr.codes import Failure
from pycriu.blcr.options import CHECKPOINT, INFO, RESTART, RUN, Command, usage
from pycriu.blcr.workplace import Workplace
from pycriu.edits import rules
from pycriu.errors import (
    HookFailed,
    ImageError,
    KernelError,
    NoProcess,
    OtherCpu,
    OtherVersion,
    PidTaken,
    PycriuError,
    Several,
    TraceeGone,
    Unsupported,
    UserError,
)
from pycriu.restoring.holders import WAYS

# BLCR 0.8.6: what each command takes, with its short form. Flags of one name that stand for others have none.
LONGS = {
    RUN: "help version run omit",
    CHECKPOINT: "verbose quiet help version tree pid process pgid group sid session cwd file fd dir atomic backup "
    "clobber noclobber run signal stop term abort kill cont early-stop early-abrt sync nosync save-exe save-private "
    "save-shared save-all save-none ptraced-error ptraced-skip ptraced-allow ptracer-error ptracer-skip kmsg-none "
    "kmsg-error kmsg-warning time",
    RESTART: "quiet help version file fd dir run signal stop freeze term abort kill cont early-stop early-abrt "
    "omit-maybe omit-always omit-never run-on-success run-on-fail-args run-on-fail-temp run-on-fail-env "
    "run-on-fail-perm run-on-failure relocate restore-pid no-restore-pid restore-pgid no-restore-pgid restore-sid "
    "no-restore-sid kmsg-none kmsg-error kmsg-warning",
}
SHORTS = {RUN: "?", CHECKPOINT: "fdFSpgsTctqvh?", RESTART: "qvhSFdf?", INFO: "h?"}


def parse(command: Command, words: list[str]) -> tuple[options.Values, list[str]]:
    """The fields that words set, and the operands."""
    values: options.Values = {}
    plain = options.parse(command, words, values)
    return values, plain


@pytest.mark.parametrize("command", LONGS, ids=lambda one: one.name)
def test_every_option_is_there(command: Command) -> None:
    assert {option.long for option in command.options} == set(LONGS[command].split())


@pytest.mark.parametrize("command", SHORTS, ids=lambda one: one.name)
def test_every_letter_is_there_once(command: Command) -> None:
    letters = [option.short for option in command.options if option.short]
    assert sorted(letters) == sorted(SHORTS[command])


def test_v_is_the_version_for_a_restart_and_words_for_a_checkpoint() -> None:
    assert parse(RESTART, ["-v"])[0] == {"version": True}
    assert parse(CHECKPOINT, ["-vv", "-v"])[0] == {"verbose": (True, True, True)}


@pytest.mark.parametrize(
    ("command", "words", "values", "plain"),
    [
        (CHECKPOINT, ["--term", "7", "-S", "9"], {"signal": 9}, ["7"]),
        (CHECKPOINT, ["-S10", "--run", "7"], {"signal": 0}, ["7"]),
        (CHECKPOINT, ["-pgsT", "7"], {"scope": "tree"}, ["7"]),
        (CHECKPOINT, ["--gr", "7"], {"scope": "pgid"}, ["7"]),
        (CHECKPOINT, ["--sess", "--", "-7"], {"scope": "sid"}, ["-7"]),
        (CHECKPOINT, ["-f", "x", "7"], {"destination": ("file",), "place": "x"}, ["7"]),
        (CHECKPOINT, ["-F1", "-c", "7"], {"destination": ("fd", "cwd"), "place": "cwd"}, ["7"]),
        (CHECKPOINT, ["--backup", "7"], {"replace": "backup", "backup": ""}, ["7"]),
        (CHECKPOINT, ["--backup=old", "7"], {"replace": "backup", "backup": "old"}, ["7"]),
        (CHECKPOINT, ["--backup=old", "--clobber", "7"], {"replace": "clobber", "backup": ""}, ["7"]),
        (CHECKPOINT, ["--save-exe", "--save-shared", "7"], {"save": ("exe", "shared")}, ["7"]),
        (CHECKPOINT, ["--kmsg-none", "--kmsg-warning"], {"details": "warning"}, []),
        (RESTART, ["--no-restore-pid", "--restore-pid", "x"], {"keep-pid": True}, ["x"]),
        (RESTART, ["--relocate=/a=/b", "--relocate", "/c=/d"], {"relocate": ("/a=/b", "/c=/d")}, []),
        (RUN, ["--omit", "ls", "--omit", "-l"], {"omit": True}, ["ls", "--omit", "-l"]),
        (RUN, ["--omit", "--run", "--", "--help"], {"omit": False}, ["--help"]),
    ],
)
def test_words_become_values(command: Command, words: list[str], values: options.Values, plain: list[str]) -> None:
    assert parse(command, words) == (values, plain)


@pytest.mark.parametrize(
    ("words", "kinds"),
    [
        ([], set()),
        (["--save-exe", "--save-shared"], {"exe", "shared"}),
        (["--save-all"], {"exe", "private", "shared"}),
        (["--save-all", "--save-none"], set()),
        (["--save-exe", "--save-none", "--save-private"], {"private"}),
    ],
)
def test_what_is_saved_adds_up_from_left_to_right(words: list[str], kinds: set[str]) -> None:
    assert saved_kinds(parse(CHECKPOINT, words)[0]) == kinds


def test_the_command_for_every_failure_sets_all_four() -> None:
    values, _ = parse(RESTART, ["--run-on-fail-temp=a", "--run-on-failure=b", "--run-on-fail-env=c"])
    assert [values[f"on-{kind}"] for kind in ("args", "temp", "env", "perm")] == ["b", "b", "c", "b"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--nonsense"], "unrecognized option '--nonsense'"),
        (["-x"], "invalid option -- 'x'"),
        (["--signal"], "requires an argument"),
        (["--signal=TERM"], "takes a number, not 'TERM'"),
        (["-F", "-1"], "takes a number"),
        (["--term=1"], "doesn't allow an argument"),
        (["--ptrace"], "ambiguous; possibilities: '--ptraced-allow' '--ptraced-error'"),
    ],
)
def test_words_that_make_no_sense(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse(CHECKPOINT, words)


@pytest.mark.parametrize("command", [CHECKPOINT, RESTART], ids=lambda one: one.name)
@pytest.mark.parametrize("number", ["0", "65", "999"])
def test_a_signal_that_there_is_not_is_a_wrong_argument(command: Command, number: str) -> None:
    values: options.Values = {}
    with pytest.raises(Failure, match=f"no signal {number}") as caught:
        options.parse(command, ["-q", "-S", number], values)
    assert (caught.value.code, caught.value.kind, values) == (errno.EINVAL, codes.ARGS, {"quiet": True})


def test_what_stands_before_a_wrong_word_counts() -> None:
    values: options.Values = {}
    with pytest.raises(UserError):
        options.parse(RESTART, ["--run-on-fail-args", "exit 3", "-q", "--nonsense", "--run-on-success=x"], values)
    assert values == {"on-args": "exit 3", "quiet": True}


@pytest.mark.parametrize("command", options.COMMANDS, ids=lambda one: one.name)
def test_the_usage_fits_a_terminal(command: Command) -> None:
    text = usage(command)
    assert all(len(line) <= options.WIDTH for line in text.splitlines())
    assert all(f"--{option.long}" in text for option in command.options)


# --------------------------------------------------------------------------------------------------------------- codes


def of_kernel() -> PycriuError:
    """An error that the kernel is behind."""
    try:
        try:
            raise PermissionError(errno.EACCES, "no")
        except OSError:
            raise UserError("it may not be opened") from None
    except UserError as error:
        return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KernelError("clone3", errno.ENOMEM), errno.ENOMEM),
        (PidTaken("PID 7 is in use"), errno.EBUSY),
        (NoProcess("no process"), errno.ESRCH),
        (TraceeGone("it is gone"), errno.ESRCH),
        (Unsupported("io_uring"), codes.CR_ENOSUPPORT),
        (Several([PidTaken("PID 7"), UserError("x")]), errno.EBUSY),
        (UserError("wrong"), errno.EINVAL),
        (ImageError("damaged"), errno.EINVAL),
        (OtherVersion("3 is not known"), codes.CR_EVERSION),
        (OtherCpu("aarch64"), codes.CR_EBADARCH),
        (of_kernel(), errno.EACCES),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, Exception) else "",
)
def test_codes_of_errors(error: PycriuError, code: int) -> None:
    assert codes.of(error) == code


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("no room", "make room there, or let -D name a directory on another disk"), ["make room there"]),
        (PidTaken("PID 7 is in use", f"end it first (kill 7) {WAYS}"), ["end it first (kill 7) or take new PIDs"]),
        (Unsupported("a lock", "--file-locks (-l) keeps locks"), []),
        (Unsupported("a pipe"), []),
        (ImageError("damaged", "take another; cr_restart --dir takes it"), ["take another; cr_restart --dir takes it"]),
        (Several([Unsupported("one", "close it"), Unsupported("two")] * 30), ["one", "close it", "two", "and 40 more"]),
    ],
)
def test_what_is_advised_can_be_done(error: PycriuError, said: list[str]) -> None:
    failure = codes.failure("Restart", error)
    assert failure.message.startswith(f"Restart failed: {error.message}")
    assert all(any(line.startswith(one) for line in failure.details) for one in said)
    assert not any(word in line for line in failure.details for word in ("-D", "--wait-pid", "--file-locks"))
    assert bool(failure.details) == bool(said)


@pytest.mark.parametrize(
    ("status", "code"), [(75, codes.CR_ETEMPFAIL), (77, codes.CR_EPERMFAIL), (1, codes.CR_EPERMFAIL)]
)
def test_a_program_that_says_no_or_not_now(status: int, code: int) -> None:
    refused = consent.refusal(HookFailed("process 7 (x): busy", status))
    assert refused is not None
    assert (refused.code, refused.details) == (code, ("process 7 (x): busy",))
    assert consent.refusal(UserError("x")) is None


def test_classes_of_failures() -> None:
    for number in (errno.ENOMEM, errno.EBUSY):
        assert Failure(number, "").kind == codes.TEMP
    for number in (errno.EACCES, errno.EPERM, errno.ENOENT, errno.EEXIST, errno.EISDIR, errno.ENOTDIR):
        assert Failure(number, "").kind == codes.ENVIRONMENT
    assert Failure(errno.EINVAL, "").kind == codes.PERMANENT
    assert Failure(errno.ENOENT, "", kind=codes.ARGS).kind == codes.ARGS


def test_codes_are_the_low_eight_bits_of_blcrs_errnos() -> None:
    assert [codes.CR_ETEMPFAIL, codes.CR_EPTRACED] == [2354 & 0xFF, 2360 & 0xFF]
    assert (Failure(2354, "").code, Failure(256, "").code) == (codes.CR_ETEMPFAIL, codes.USAGE)


# ------------------------------------------------------------------------------------------------------------ contexts


def test_backups_are_numbered_above_the_highest(tmp_path: Path) -> None:
    path = str(tmp_path / "context.7")
    assert context.next_backup(path) == f"{path}.~1~"
    for name in ("context.7.~3~", "context.7.~x~", "context.7.~9", "context.77.~8~", "context.7.~-1~"):
        (tmp_path / name).touch()
    assert context.next_backup(path) == f"{path}.~4~"


def put(where: context.Destination, content: bytes = b"new") -> None:
    with where:
        where.store(lambda out: out.write(content) and None)


@pytest.mark.parametrize(
    ("words", "left"),
    [
        ([], {"c": b"new"}),
        (["--backup"], {"c": b"new", "c.~1~": b"old"}),
        (["--backup=kept"], {"c": b"new", "kept": b"old"}),
        (["--clobber"], {"c": b"new"}),
        (["--nosync"], {"c": b"new"}),
    ],
)
def test_what_becomes_of_an_old_context(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], left: dict[str, bytes]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c").write_bytes(b"old context")
    values, _ = parse(CHECKPOINT, words)
    put(context.choose(("file",), "c", 7, dict(values)))
    assert {path.name: path.read_bytes()[:3] for path in tmp_path.iterdir()} == left
    if "--clobber" not in words:
        assert stat.S_IMODE(Path("c").stat().st_mode) == 0o400


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    link = tmp_path / "c"
    link.symlink_to("far/context")
    put(context.choose(("file",), str(link), 7, {}))
    put(context.choose(("file",), str(link), 7, {"replace": "backup"}), b"newer")
    assert link.is_symlink()
    assert {path.name: path.read_bytes() for path in (tmp_path / "far").iterdir()} == {
        "context": b"newer", "context.~1~": b"new",
    }  # fmt: skip
    with pytest.raises(Failure) as caught:
        put(context.choose(("file",), str(link), 7, {"replace": "noclobber"}))
    assert caught.value.code == errno.EEXIST


@pytest.mark.parametrize("replace", ["atomic", "backup", "clobber"])
@pytest.mark.parametrize("kind", ["device", "pipe"])
def test_what_is_no_file_is_not_replaced_by_one(tmp_path: Path, kind: str, replace: str) -> None:
    path = tmp_path / "c"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/null")
    before = path.stat()
    with pytest.raises(Failure) as caught:
        put(context.choose(("file",), str(path), 7, {"replace": replace}))
    assert caught.value.code == (errno.ENXIO if (kind, replace) == ("pipe", "clobber") else errno.EINVAL)
    assert (path.stat().st_ino, path.stat().st_mode) == (before.st_ino, before.st_mode)
    assert [one.name for one in tmp_path.iterdir()] == ["c"]


def test_a_context_that_comes_meanwhile_is_not_replaced_under_noclobber(tmp_path: Path) -> None:
    path = tmp_path / "c"
    with pytest.raises(Failure) as caught, context.choose(("file",), str(path), 7, {"replace": "noclobber"}) as where:
        path.write_bytes(b"other")
        where.store(lambda out: out.write(b"new") and None)
    assert caught.value.code == errno.EEXIST
    assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == [("c", b"other")]


def test_places_of_the_dead_are_removed_those_of_the_living_not(tmp_path: Path) -> None:
    first = Workplace(str(tmp_path), "x-")
    killed = os.fork()
    if not killed:
        try:
            forsaken = Workplace(str(tmp_path), "x-")
            Path(forsaken.images, "core-7.img").touch()
        finally:
            os._exit(0)
    os.waitpid(killed, 0)
    (tmp_path / "x-file").touch()
    assert len(list(tmp_path.iterdir())) == 3
    second = Workplace(str(tmp_path), "x-")
    assert {one.name for one in tmp_path.iterdir()} == {
        os.path.basename(first.path), os.path.basename(second.path), "x-file",
    }  # fmt: skip
    for one in (first, second, first):
        one.close()
    assert [one.name for one in tmp_path.iterdir()] == ["x-file"]


@pytest.mark.parametrize("words", [[], ["--backup"]], ids=str)
def test_a_context_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c").write_bytes(b"old")

    def fail(_out: object) -> None:
        raise OSError(errno.ENOSPC, "no room")

    values, _ = parse(CHECKPOINT, words)
    with pytest.raises(Failure) as caught, context.choose(("file",), "c", 7, dict(values)) as where:
        where.store(fail)
    assert caught.value.code == errno.ENOSPC
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"c": b"old"}


@pytest.mark.parametrize("replace", ["clobber", "noclobber"])
def test_half_a_context_does_not_stay(tmp_path: Path, replace: str) -> None:
    path = tmp_path / "c"
    if replace == "clobber":
        path.write_bytes(b"old")

    def fail(out: IO[bytes]) -> None:
        out.write(b"half")
        raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        context.choose(("file",), str(path), 7, {"replace": replace}) as where,
    ):
        where.store(fail)
    assert not list(tmp_path.iterdir())


def test_destinations_that_are_refused(tmp_path: Path) -> None:
    for kinds in (("file", "fd"), ("file", "file"), ("cwd", "fd")):
        with pytest.raises(Failure, match="conflicting") as caught:
            context.choose(kinds, 1, 7, {})
        assert caught.value.code == errno.EINVAL
    with pytest.raises(Failure) as caught, context.choose(("file",), str(tmp_path), 7, {}):
        pass
    assert caught.value.code == errno.EISDIR
    (tmp_path / "there").touch()
    with (
        pytest.raises(Failure) as caught,
        context.choose(("file",), str(tmp_path / "there"), 7, {"replace": "noclobber"}),
    ):
        pass
    assert caught.value.code == errno.EEXIST
    for name, code in (("", errno.ENOENT), (f"{tmp_path}/no/", errno.EISDIR), (f"{tmp_path}/no/x", errno.ENOENT)):
        with pytest.raises(Failure) as caught, context.choose(("file",), name, 7, {}):
            pass
        assert caught.value.code == code
    null = os.open("/dev/null", os.O_WRONLY)
    with pytest.raises(Failure) as caught, context.choose(("fd",), null, 7, {}):
        pass
    os.close(null)
    assert caught.value.code == errno.EINVAL


# ------------------------------------------------------------------------------------------------------------ archives


def images(folder: Path) -> Path:
    """What looks like the images of a dump."""
    folder.mkdir()
    for name, content in {"inventory.img": b"last", "pages-1.img": bytes(70000), "core-7.img": b"core"}.items():
        (folder / name).write_bytes(content)
    (folder / "stats-dump").write_bytes(b"of the run")
    archive.write_meta(str(folder), {"id": 7})
    return folder


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_images_go_into_a_stream_and_come_back(tmp_path: Path, packed: bool) -> None:
    before, stream = images(tmp_path / "before"), io.BytesIO()
    archive.pack(str(before), stream)
    data = stream.getvalue()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getnames() == ["core-7.img", "pages-1.img", archive.META, "inventory.img"]
    if packed:
        import gzip

        data = gzip.compress(data)
    after = tmp_path / "after"
    after.mkdir()
    archive.unpack("x", io.BytesIO(data), str(after))
    assert {path.name: path.read_bytes() for path in after.iterdir()} == {
        path.name: path.read_bytes() for path in before.iterdir() if path.name != "stats-dump"
    }
    assert archive.meta(str(after))["id"] == 7
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in after.iterdir())


@pytest.mark.parametrize("spoiled", ["core-7.img", "pages-1.img", "inventory.img", archive.META])
@pytest.mark.parametrize("how", ["one bit", "left out"])
def test_what_has_been_spoiled_on_its_way_is_refused(tmp_path: Path, spoiled: str, how: str) -> None:
    stream = io.BytesIO()
    archive.pack(str(images(tmp_path / "before")), stream)
    with tarfile.open(fileobj=io.BytesIO(stream.getvalue())) as tar:
        found = {one.name: bytearray(file.read()) for one in tar if (file := tar.extractfile(one))}
    if how == "one bit":
        found[spoiled][-2] ^= 4
    else:
        del found[spoiled]
    after = tmp_path / "after"
    after.mkdir()
    if (how, spoiled) == ("left out", archive.META):  # an archive of somebody else's making
        archive.unpack("x", io.BytesIO(of_members(*found.items())), str(after))
        return
    with pytest.raises(ImageError):
        archive.unpack("x", io.BytesIO(of_members(*found.items())), str(after))


def of_members(*members: tuple[str, bytes]) -> bytes:
    """An archive with such files; a name that ends with @ is a link."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name.removesuffix("@"))
            member.size = len(content)
            if name.endswith("@"):
                member.type, member.linkname, member.size = tarfile.SYMTYPE, "/etc/passwd", 0
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


WHOLE = of_members(("core-7.img", b"x" * 5000), ("inventory.img", b"x"))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not a context file, or cut short"),
        (b"nonsense" * 200, "not a context file"),
        (WHOLE[:3000], "cut short"),
        (of_members(("core-7.img", b"x")), "inventory.img is missing"),
        (of_members(("../core-7.img", b"x")), "is no image"),
        (of_members(("/etc/inventory.img", b"x")), "is no image"),
        (of_members(("sub/core-7.img", b"x")), "is no image"),
        (of_members(("core-7.img@", b"")), "is no image"),
        (of_members(("bash", b"x")), "is no image"),
        (of_members(("core-7.img", b"x"), ("./core-7.img", b"y")), "there twice"),
        (b"\x1f\x8b\x08\0" + bytes(500), "not a context file"),
        (b"BZh9" + bytes(500), "not a context file"),
        (b"\xfd7zXZ\0" + bytes(500), "not a context file"),
    ],
)
def test_archives_that_are_refused(tmp_path: Path, data: bytes, said: str) -> None:
    with pytest.raises(ImageError, match=said):
        archive.unpack("x", io.BytesIO(data), str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} <= {"core-7.img", "inventory.img"}


# ---------------------------------------------------------------------------------------------------------- relocation


@pytest.mark.parametrize(
    ("relocation", "path", "new"),
    [
        ("/old=/new", "/old/file", "/new/file"),
        ("/old=/new", "/old", "/new"),
        ("/old=/new", "/older/file", None),
        ("/old=/new", "/a/old/file", None),
        ("/a\\=b=/c\\\\d", "/a=b/x", "/c\\d/x"),
        ("/100%=/new", "/100%/x", "/new/x"),
        ("/100%=/new", "/100x/x", None),
        ("/=/root", "/any/x", "/root/any/x"),
        ("/old=/", "/old/x", "/x"),
        ("/old/=/new//", "/old/x", "/new/x"),
        ("/a\\b=/c", "/a\\b/x", "/c/x"),
        ("/old=/no/../new", "/old/x", "/new/x"),
    ],
)
def test_relocation_is_of_whole_components(relocation: str, path: str, new: str | None) -> None:
    found = [rules.parse(text) for text in changes.rules(relocation)]
    assert {rule.target for rule in found} == {"files:reg", "files:unix"}
    replaced = [text for rule in found if rule.target == "files:reg" and (text := rule.replacement(path)) is not None]
    assert replaced[:1] == ([] if new is None else [new])


@pytest.mark.parametrize("relocation", ["", "/a", "a=/b", "/a=b", "/a=/b=/c", "/a/../b=/c", "/a\\=/b", "/a//b=/c"])
def test_relocations_that_make_no_sense(relocation: str) -> None:
    with pytest.raises(UserError, match="--relocate"):
        changes.rules(relocation)


def test_a_relocation_to_the_same_place_is_none() -> None:
    assert changes.rules("/a/b=/a/b/") == []
