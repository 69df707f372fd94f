# SPDX-License-Identifier: GPL-2.0-only
"""Sizes, licences and the bill of materials of an image: complete or refused, and the same each time."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from cyclonedx import spdx
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from layer import recipes
from layer.errors import BuildError, InputError
from layer.fetch.lock import Pin
from layer.image import contents, licences, sbom, sizes
from layer.image.contents import Part
from layer.image.tree import Node

RECIPE = """\
name: {name}
summary: one of the parts
homepage: https://example.org/{name}
licence: {licence}
source: {source}
depends: [{depends}]
steps: [{{name: build, run: [make]}}]
"""


def part(
    folder: Path, name: str, *, licence: str = "MIT", depends: str = "", text: str | None = "do as you like\n"
) -> Part:
    source = "{pypi: protobuf}" if name == "protobuf" else "{debian: zlib, suite: trixie}"
    file = folder / f"{name}.yaml"
    file.write_text(RECIPE.format(name=name, licence=licence, source=source, depends=depends))
    output = folder / name
    (output / "licences").mkdir(parents=True)
    if text is not None:
        (output / "licences" / "LICENSE").write_text(text)
    pin = Pin("1:1.2-3", "debian trixie", {f"{name}.tar.gz": "ab" * 32})
    if name == "protobuf":
        pin = Pin("7.0", "pypi", {"protobuf-7.0.tar.gz": "cd" * 32})
    return Part(recipes.parse(file.read_text(), file), pin.upstream, pin, "f" * 32, output, tuple(depends.split()))


def test_the_bill_is_valid_and_says_what_is_in_the_image(tmp_path: Path) -> None:
    text = sbom.render("x86_64-image", (part(tmp_path, "protobuf", depends="zlib"), part(tmp_path, "zlib")))
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    assert [one["name"] for one in bill["components"]] == ["protobuf", "zlib"]
    protobuf, zlib = bill["components"]
    assert zlib["purl"] == "pkg:deb/debian/zlib@1:1.2-3?arch=source"
    assert zlib["version"] == "1.2"
    assert protobuf["purl"] == "pkg:pypi/protobuf@7.0"
    assert zlib["licenses"] == [{"license": {"id": "MIT"}}]
    hashes = [one["hashes"] for one in zlib["externalReferences"] if one["type"] == "source-distribution"]
    assert hashes == [[{"alg": "SHA-256", "content": "ab" * 32}]]
    depends = {one["ref"]: one.get("dependsOn", []) for one in bill["dependencies"]}
    assert depends == {"protobuf": ["zlib"], "x86_64-image": ["protobuf", "zlib"], "zlib": []}
    assert "timestamp" not in bill.get("metadata", {})


def test_the_same_image_has_the_same_bill(tmp_path: Path) -> None:
    one, two = part(tmp_path, "protobuf", depends="zlib"), part(tmp_path, "zlib")
    assert sbom.render("image", (one, two)) == sbom.render("image", (two, one))
    assert sbom.render("image", (one, two)) != sbom.render("image", (two,))


def test_licence_texts_are_listed_and_copied(tmp_path: Path) -> None:
    licences.write((part(tmp_path, "zlib"), part(tmp_path, "busybox")), tmp_path / "out")
    assert (tmp_path / "out/zlib/LICENSE").read_text() == "do as you like\n"
    assert (tmp_path / "out/index.txt").read_text() == (
        "busybox 1.2\n  MIT\n  busybox/LICENSE\n\nzlib 1.2\n  MIT\n  zlib/LICENSE\n"
    )


def test_a_package_without_a_licence_text_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="zlib is in the image without a licence text"):
        licences.check(part(tmp_path, "zlib", text=None))


def test_a_licence_that_nobody_knows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"zlib.yaml:4: 'Freely Given' is no SPDX expression"):
        licences.check(part(tmp_path, "zlib", licence="Freely Given"))


@pytest.mark.parametrize("name", [name for name in recipes.names() if not recipes.load(name).native])
def test_every_recipe_names_its_licence(name: str) -> None:
    recipe = recipes.load(name)
    assert spdx.is_expression(recipe.licence)
    assert recipe.licence_files


def test_sizes_are_sorted_and_add_up(tmp_path: Path) -> None:
    def node(path: str, package: str, size: int) -> Node:
        content = tmp_path / path
        content.write_bytes(bytes(size))
        return Node(path, stat.S_IFREG | 0o644, content=content, package=package)

    nodes = (node("a", "small", 1), node("b", "large", 30), node("c", "large", 12), Node("dev", stat.S_IFDIR))
    assert sizes.per_package(nodes) == (("large", 2, 42), ("small", 1, 1))
    report = sizes.report(nodes, {"kernel": tmp_path / "b"})
    assert [line.split() for line in report.splitlines() if line.startswith(("all", "kernel"))] == [
        ["all", "packages", "3", "43"],
        ["kernel", "30"],
    ]


def test_the_version_of_a_c_library_is_its_own_word() -> None:
    text = b"\0GNU C Library (Debian GLIBC 2.36-9+deb12u14) stable release version 2.36.\nCopyright"
    found = contents.GLIBC_VERSION.search(text)
    assert found is not None and found[1] == b"2.36"
