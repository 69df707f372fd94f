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
        waiting, self._let_go = os.pipe2(os.O_CLOEXEC)
        try:
            self._pid = fork()
            if not self._pid:
                os.close(self._let_go)
                _live(work, last, tell, waiting)
        except BaseException:
            for fd in (told, self._let_go):
                os.close(fd)
            raise
        finally:
            for fd in (tell, waiting):
                os.close(fd)
        with open(told, "rb", buffering=0) as pipe:
            self.answer = pipe.readall()

    def __enter__(self) -> Lender:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._let_go)
        os.waitpid(self._pid, 0)

    def fetch(self, theirs: Iterable[int]) -> tuple[int, ...]:
        """Its descriptors as ours, in their order."""
        return libc.fetch(self._pid, theirs)


def _live(work: Callable[[], bytes], last: Callable[[], object], tell: int, waiting: int) -> None:
    """The child's life. Does not return."""
    try:
        with open(tell, "wb") as pipe:
            pipe.write(work())
        os.read(waiting, 1)
        last()
    finally:
        os._exit(0)
