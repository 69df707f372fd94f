# SPDX-License-Identifier: GPL-2.0-only
"""Where sources come from: the host's apt files in both spellings, and a package index in both formats."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from layer.cache import Cache
from layer.fetch import aptsources, debian, pypi
from layer.fetch.aptsources import Archive

ONE_LINE = """\
# a comment
deb [arch=amd64 signed-by=/etc/keys/a.gpg] http://mirror.example/debian bookworm main contrib # words
 deb-src http://mirror.example/debian bookworm main
#deb http://off.example/debian bookworm main
deb http://other.example/x stable main
"""

DEB822 = """\
# the archive
Types: deb
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://off.example/debian
Suites: trixie
Components: main
Enabled: no

Types: deb
URIs: http://a.example/debian
 http://b.example/debian
Suites: sid
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
"""


def test_one_line_sources_with_options_comments_and_source_lines() -> None:
    assert tuple(aptsources.parse_list(ONE_LINE)) == (
        Archive("http://mirror.example/debian", ("bookworm",), ("main", "contrib"), "/etc/keys/a.gpg"),
        Archive("http://mirror.example/debian", ("bookworm",), ("main",), ""),
        Archive("http://other.example/x", ("stable",), ("main",), ""),
    )


def test_deb822_sources_with_several_values_continuations_and_disabled_stanzas() -> None:
    found = tuple(aptsources.parse_deb822(DEB822))
    assert [archive.uri for archive in found] == [
        "http://mirror.example/debian",
        "http://a.example/debian",
        "http://b.example/debian",
    ]
    assert found[0].suites == ("bookworm", "bookworm-updates")
    assert found[0].signed_by == "/usr/share/keyrings/debian-archive-keyring.gpg"
    assert found[1].signed_by == "", "a key inside the file is not a keyring's path"


def test_the_archive_of_a_release_is_told_from_foreign_ones_and_its_own_updates() -> None:
    foreign = Archive("http://x.example", ("cloud-bookworm",), ("main",), "")
    updates = Archive("http://u.example", ("bookworm-security",), ("main",), "")
    own = Archive("http://mirror.example/debian", ("bookworm", "bookworm-updates"), ("main",), "")
    assert aptsources.debian([foreign, updates, own], "bookworm") == own
    assert aptsources.debian([foreign, updates], "bookworm") is None


def test_the_files_of_an_apt_that_others_may_be_running_are_not_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAYER_DEBIAN_ARCHIVE", "http://mirror.example/debian")
    monkeypatch.setattr(debian, "KEYRING", __file__)
    apt = debian.Apt(Cache(tmp_path), "trixie")
    root = tmp_path / "apt/trixie"
    (root / "lists").mkdir(parents=True)
    (root / "lists/mirror_Sources").touch()
    apt.prepare(refresh=False)
    before = [(root / name).stat().st_mtime_ns for name in ("sources.list", "apt.conf")]
    apt.prepare(refresh=False)
    assert [(root / name).stat().st_mtime_ns for name in ("sources.list", "apt.conf")] == before


SHA = "a" * 64
JSON_PAGE = f"""{{"files": [
  {{"filename": "pkg-1.0.tar.gz", "url": "../../f/pkg-1.0.tar.gz", "hashes": {{"sha256": "{SHA}"}}}},
  {{"filename": "pkg-1.0-py3-none-any.whl", "url": "w", "hashes": {{"sha256": "{SHA}"}}}},
  {{"filename": "pkg-0.9.tar.gz", "url": "old", "hashes": {{}}}}]}}"""
HTML_PAGE = f"""<!DOCTYPE html><body>
<a href="../../f/pkg-1.0.tar.gz#sha256={SHA}" data-requires-python="&gt;=3.8">pkg-1.0.tar.gz</a><br/>
<a href="w#sha256={SHA}">pkg-1.0-py3-none-any.whl</a>
<a href="old">pkg-0.9.tar.gz</a></body>"""


@pytest.mark.parametrize("page", [JSON_PAGE, HTML_PAGE], ids=["json", "html"])
def test_an_index_page_gives_sdists_with_a_hash_only(page: str) -> None:
    (found,) = pypi.parse(page, "https://index.example/simple/pkg/")
    assert found == pypi.Sdist("pkg-1.0.tar.gz", "https://index.example/f/pkg-1.0.tar.gz", SHA)
    assert found.version == "1.0"


@pytest.mark.parametrize("failures", [1, 3])
def test_a_connection_that_is_dropped_is_made_again(failures: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(pypi.time, "sleep", pauses.append)
    with socket.create_server(("127.0.0.1", 0)) as server:
        answering = threading.Thread(target=_drop_then_answer, args=(server, failures))
        answering.start()
        assert pypi.read(f"http://127.0.0.1:{server.getsockname()[1]}/file") == b"content"
        answering.join()
    assert len(pauses) == failures


WHOLE = b"HTTP/1.0 200 OK\r\nContent-Length: 7\r\n\r\ncontent"


@pytest.mark.parametrize("first", [WHOLE[:-4], b"HTTP/1.0 503 Busy\r\nContent-Length: 0\r\n\r\n"], ids=["cut", "busy"])
def test_a_download_that_is_cut_short_and_a_busy_server_are_asked_again(
    first: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _read([first, WHOLE], monkeypatch) == b"content"
    with pytest.raises(OSError, match=r"503|more expected"):
        _read([first] * 4, monkeypatch)


def test_what_a_server_does_not_have_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="404"):
        _read([b"HTTP/1.0 404 None\r\nContent-Length: 0\r\n\r\n"], monkeypatch)


def _read(answers: list[bytes], monkeypatch: pytest.MonkeyPatch) -> bytes:
    """What is read from a server with these answers, each of which must have been asked for."""
    monkeypatch.setattr(pypi.time, "sleep", lambda _: None)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        answering = threading.Thread(target=_answer, args=(server, answers))
        answering.start()
        try:
            return pypi.read(f"http://127.0.0.1:{server.getsockname()[1]}/file")
        finally:
            answering.join()
            assert not answers


def _answer(server: socket.socket, answers: list[bytes]) -> None:
    while answers:
        client, _ = server.accept()
        with client:
            client.recv(4096)
            client.sendall(answers.pop(0))


def _drop_then_answer(server: socket.socket, failures: int) -> None:
    for left in range(failures, -1, -1):
        client, _ = server.accept()
        with client:
            client.recv(4096)
            if not left:
                client.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 7\r\n\r\ncontent")
