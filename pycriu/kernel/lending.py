# SPDX-License-Identifier: GPL-2.0-only
"""A child of ours that does something in our place, and lends us the descriptors that it got by it."""

from __future__ import annotations

import os

from pycriu.kernel import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Lender:
    """A scope. The child of `fork` does `work` and lives until the end of the scope, or of ours; then it does `last`.

    `answer` is what `work` has returned: nothing if the child ended in it.
    """

    def __init__(
        self, fork: Callable[[], int], work: Callable[[], bytes], last: Callable[[], object] = lambda: None
    ) -> None:
        told, tell = os.pipe2(os.O_CLOEXEC)
        self._waiting, self._let_go = os.pipe2(os.O_CLOEXEC)
        try:
            self._pid = fork()
            if not self._pid:
                _live(work, last, tell, self._waiting, self._let_go)
        except BaseException:
            for fd in (told, self._waiting, self._let_go):
                os.close(fd)
            raise
        finally:
            os.close(tell)
        try:
            with open(told, "rb", buffering=0) as pipe:
                self.answer = pipe.readall()
        except BaseException:  # a signal
            self.__exit__()
            raise

    def __enter__(self) -> Lender:
        return self

    def __exit__(self, *_: object) -> None:
        os.write(self._let_go, b"x")  # closing alone would not do: what other threads fork has the pipe, too
        for fd in (self._let_go, self._waiting):  # the latter is ours, too, lest SIGPIPE comes if the child was killed
            os.close(fd)
        os.waitpid(self._pid, 0)

    def fetch(self, theirs: Iterable[int]) -> tuple[int, ...]:
        """Its descriptors as ours, in their order."""
        return libc.fetch(self._pid, theirs)


def _live(work: Callable[[], bytes], last: Callable[[], object], tell: int, waiting: int, let_go: int) -> None:
    """The child's life. Does not return."""
    try:
        os.close(let_go)
        with open(tell, "wb") as pipe:
            pipe.write(work())
        os.read(waiting, 1)
        last()
    finally:
        os._exit(0)
