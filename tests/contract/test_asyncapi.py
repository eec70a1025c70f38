"""The AsyncAPI documents: valid by the official schema, and about exactly what the catalogue says."""

import base64
import hashlib
import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from contracts import generate
from contracts.catalogue import CATALOGUE, Entry, exchange, inbox

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted((generate.HERE / generate.ASYNCAPI).glob("*.yaml"))

# Apache-2.0; fetched, not vendored: the one file needed is 400 kB
PACKAGE, VERSION = "@asyncapi/specs", "6.11.1"
INTEGRITY = "sha512-A3WBLqAKGoJ2+6FWFtpjBlCQ1oFCcs4GxF7zsIGvNqp/klGUHjlA3aAcZ9XMMpLGE8zPeYDz2x9FmO6DSuKraQ=="
MEMBER = "package/schemas/3.0.0.json"


def fetched_package() -> Path:
    """The package's archive under var/cache, fetched once; skips where npm or its registry is absent."""
    cache = ROOT / "var" / "cache"
    archive = cache / f"asyncapi-specs-{VERSION}.tgz"
    if not archive.is_file():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("npm is not on this machine: the official AsyncAPI schema cannot be fetched")
        cache.mkdir(parents=True, exist_ok=True)
        result = subprocess.run(
            [npm, "pack", f"{PACKAGE}@{VERSION}", "--pack-destination", str(cache)],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=cache,
        )
        if result.returncode:
            errors = [line for line in result.stderr.splitlines() if "error" in line]
            pytest.skip(f"npm could not fetch {PACKAGE}@{VERSION}: {errors[0] if errors else result.returncode}")
    return archive


@pytest.fixture(scope="module")
def official() -> Draft7Validator:
    archive = fetched_package()
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    assert f"sha512-{digest}" == INTEGRITY, f"{archive} is not the pinned package: remove it and try again"
    with tarfile.open(archive) as tar:
        member = tar.extractfile(MEMBER)
        assert member is not None
        return Draft7Validator(json.load(member))


def read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    return document


def references(value: Any) -> Iterator[str]:
    """Every $ref in a document."""
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_document_is_valid_by_the_official_schema(path: Path, official: Draft7Validator) -> None:
    assert [f"{list(error.path)}: {error.message[:200]}" for error in official.iter_errors(read(path))] == []


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("asyncapi",), "2.6.0"),
        (("info", "version"), None),
        (("operations", "send.stations.checkin_recorded.v1", "action"), "publish"),
        (("channels", "stations.checkin_recorded.v1", "routing"), "x"),
        (("channels", "stations.checkin_recorded.v1", "bindings", "amqp", "exchange", "type"), "quorum"),
    ],
)
def test_official_schema_refuses_a_spoilt_document(
    place: tuple[str, ...], value: object, official: Draft7Validator
) -> None:
    document = read(generate.HERE / generate.ASYNCAPI / "stations.yaml")
    parent: Any = document
    for step in place[:-1]:
        parent = parent[step]
    parent[place[-1]] = value
    assert not official.is_valid(document)


def test_every_publishing_service_has_a_document() -> None:
    assert [path.stem for path in DOCUMENTS] == list(CATALOGUE.owners)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_every_reference_leads_somewhere(path: Path) -> None:
    document = read(path)
    found = list(references(document))
    assert found
    for reference in found:
        file, _, pointer = reference.partition("#")
        if file:
            assert (path.parent / file).is_file(), reference
            continue
        target: Any = document
        for step in pointer.split("/")[1:]:
            assert step in target, reference
            target = target[step]


@pytest.mark.parametrize("entry", list(CATALOGUE), ids=lambda entry: entry.type)
def test_event_is_sent_singly_and_in_batches_to_its_consumers(entry: Entry) -> None:
    document = read(generate.HERE / generate.ASYNCAPI / f"{entry.owner}.yaml")
    channel = document["channels"][entry.type]
    operation = document["operations"][f"send.{entry.type}"]
    messages = document["components"]["messages"]
    assert channel["address"] == entry.type
    assert channel["bindings"]["amqp"]["exchange"]["name"] == exchange(entry.owner)
    assert operation["channel"]["$ref"] == f"#/channels/{entry.type}"
    assert operation["x-consumers"] == [{"service": name, "queue": inbox(name)} for name in sorted(entry.consumers)]
    assert {
        messages[reference["$ref"].rpartition("/")[2]]["contentType"] for reference in channel["messages"].values()
    } == {
        "application/cloudevents+json",
        "application/cloudevents-batch+json",
    }


def test_document_tells_of_no_event_that_the_catalogue_does_not_have() -> None:
    assert {type_ for path in DOCUMENTS for type_ in read(path)["channels"]} == {entry.type for entry in CATALOGUE}
