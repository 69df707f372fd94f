# SPDX-License-Identifier: GPL-2.0-only
"""The bill of materials of an image, in CycloneDX 1.6. Sorted; no clock, no chance: same image, same bill.

It lists what runs on the target; what only built it (compilers, the build machine's Python) is not in it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

from layer.image.contents import Part

# Where the serial numbers of our bills come from: a name in this space is an image's content.
SPACE = uuid.UUID("6b1e8a5c-5a0c-4f5e-9d5e-70796372a010")


def render(image: str, parts: Iterable[Part]) -> str:
    """The bill of the image called `image`."""
    bom = Bom()
    bom.metadata.timestamp = None  # type: ignore[assignment]  # the library would put in the time of day
    whole = Component(name=image, type=ComponentType.FIRMWARE, bom_ref=image)
    bom.metadata.component = whole
    components = {part.name: _component(part) for part in sorted(parts, key=lambda part: part.name)}
    for component in components.values():
        bom.components.add(component)
    _connect(bom, whole, components, parts)
    bom.serial_number = uuid.uuid5(SPACE, _text(bom, drop="serialNumber"))
    return _text(bom)


def _component(part: Part) -> Component:
    recipe = part.recipe
    component = Component(
        name=part.name,
        version=part.version,
        bom_ref=part.name,
        type=ComponentType.OPERATING_SYSTEM if recipe.kernel else ComponentType.APPLICATION,
        description=recipe.summary,
        licenses=[LicenseFactory().make_from_string(recipe.licence)],
        purl=_purl(part),
        properties=[Property(name="layer:key", value=part.key)],
    )
    if recipe.homepage:
        component.external_references.add(
            ExternalReference(type=ExternalReferenceType.WEBSITE, url=XsUri(recipe.homepage))
        )
    for name, sha256 in (part.pin.files if part.pin else {}).items():
        component.external_references.add(_source(name, sha256))
    return component


def _source(name: str, sha256: str) -> ExternalReference:
    """A file of the source: its name and content say more than an address that may change."""
    return ExternalReference(
        type=ExternalReferenceType.SOURCE_DISTRIBUTION,
        url=XsUri(name),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)],
    )


def _purl(part: Part) -> PackageURL | None:
    if part.pin is None:
        return None
    source = part.recipe.source
    name = getattr(source, "package", part.name)
    if part.pin.origin.startswith("debian"):
        return PackageURL("deb", "debian", name, part.pin.version, {"arch": "source"})
    return PackageURL("pypi", None, name, part.pin.version) if part.pin.origin == "pypi" else None


def _connect(bom: Bom, whole: Component, components: Mapping[str, Component], parts: Iterable[Part]) -> None:
    bom.register_dependency(whole, components.values())
    for part in parts:
        bom.register_dependency(components[part.name], [components[name] for name in part.depends])


def _text(bom: Bom, drop: str = "") -> str:
    """The JSON of a bill, its lists already sorted by the library, its keys by us."""
    data = json.loads(make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string())
    data.pop(drop, None)
    return json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
