# SPDX-License-Identifier: GPL-2.0-only
"""`make demo`, as a person sees it: it ends well on the image, and says what went wrong where it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from layer.target import bootfile, demo


def test_it_shows_the_loop_come_back(boot: bootfile.Boot, capsys: pytest.CaptureFixture[str]) -> None:
    status = demo.main(boot.file)
    shown = capsys.readouterr().out
    assert status == 0, shown
    for words in ("the log grows", "Killed", "stands still", "under the same PID", "one gap of", "✓"):
        assert words in shown
    assert "\x1b" not in shown, "colours where there is no terminal"


def test_it_fails_with_the_reason_where_there_is_no_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(tmp_path / "images" / "boot.json") == 1
    shown = capsys.readouterr().out
    assert "there is no image to boot" in shown and "./configure --template" in shown
