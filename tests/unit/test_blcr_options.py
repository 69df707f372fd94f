# SPDX-License-Identifier: GPL-2.0-only
"""BLCR's commands without a process: options, values, exit codes."""

from __future__ import annotations

import errno

import pytest

from pycriu.blcr import codes, consent, options
from pycriu.blcr.checkpoint import saved_kinds
from pycriu.blcr.codes import Failure
from pycriu.blcr.options import CHECKPOINT, INFO, RESTART, RUN, Command, usage
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
