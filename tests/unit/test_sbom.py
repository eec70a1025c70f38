"""What others wrote and we run: pins, licences, the bill of materials, and what is known of our versions.

A server of the test plays the source of advisories (OSV's protocol) and the index (PEP 691); pip-audit and pip's
settings are the real ones.
"""

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner, Result

from deploy import sbom
from deploy.sbom import Pin

DIGEST = "a" * 64
CANARY = ("jinja2", "2.11.2")
OLD = [Pin("idna", "3.20", None, frozenset({DIGEST})), Pin("idna", "3.6", None, frozenset({"b" * 64}))]


@dataclass
class Registry:
    """What the server knows and was asked for."""

    address: str = ""
    advisories: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    yanked: dict[str, str | bool] = field(default_factory=dict)
    broken: set[tuple[str, str]] = field(default_factory=set)
    asked: list[tuple[str, str]] = field(default_factory=list)

    def knows(self, package: tuple[str, str], fixed: str | None = None) -> None:
        """An advisory for one version of a package."""
        events = [{"introduced": "0"}, *([{"fixed": fixed}] if fixed else [])]
        affected = {"package": {"name": package[0], "ecosystem": "PyPI"}}
        self.advisories[package] = {
            "id": f"PYSEC-2026-{len(self.advisories)}",
            "aliases": [f"CVE-2026-{len(self.advisories)}"],
            "summary": "planted",
            "affected": [{**affected, "ranges": [{"type": "ECOSYSTEM", "events": events}]}],
        }


@pytest.fixture
def registry() -> Iterator[Registry]:
    known = Registry()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            package = (query["package"]["name"], query["version"])
            known.asked.append(package)
            said = {"vulns": [known.advisories[package]]} if package in known.advisories else {}
            self._answer(said, 500 if package in known.broken else 200)

        def do_GET(self) -> None:
            files = [{"hashes": {"sha256": one}, "yanked": why} for one, why in known.yanked.items()]
            self._answer({"files": [{"hashes": {"sha256": "c" * 64}, "yanked": False}, *files]})

        def _answer(self, said: dict[str, Any], status: int = 200) -> None:
            body = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        known.address = f"http://127.0.0.1:{server.server_port}"
        yield known
        server.shutdown()
        thread.join()


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address at which nobody answers: bound, so that no one else takes it, and not listening."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, *fields: str) -> None:
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("\n".join(["Metadata-Version: 2.4", f"Name: {name}", "Version: 1.0", *fields, ""]))
    monkeypatch.syspath_prepend(folder)


def check(to: Path, **environment: str) -> Result:
    return CliRunner().invoke(sbom.main, ["--to", str(to)], env={"ESTATION_OSV_URL": None, **environment})


@pytest.mark.parametrize("path", sorted(sbom.REQUIREMENTS.glob("*.txt")), ids=lambda path: path.name)
def test_what_we_install_is_pinned_by_version_and_hash(path: Path) -> None:
    pins, problems = sbom.read(path)
    assert problems == []
    lines = re.findall(r"^[a-z0-9]\S*==(?=\S+ )", path.read_text("utf-8"), re.MULTILINE)
    assert len(pins) == len(lines) > 0


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"idna>=3 --hash=sha256:{DIGEST}", r"run.txt:2: idna: no `==` or no hash"),
        (f"idna==3.* --hash=sha256:{DIGEST}", r"run.txt:2: idna: no `==` or no hash"),
        ("idna==3.20", r"run.txt:2: idna: no `==` or no hash"),
        (f"idna==3.20 --hash=md5:{'a' * 32}", r"run.txt:2: idna: no `==` or no hash"),
        ("--index-url https://index.example/simple", r"run.txt:2: an option"),
        ("--extra-index-url /srv/index", r"run.txt:2: an option"),
        ("# https://index.example/simple", r"run.txt:2: names an address"),
        (f"idna @ https://files.example/idna.whl#sha256={DIGEST}", r"run.txt:2: names an address"),
        ("idna ===== 3", r"run.txt:2: not understood"),
    ],
)
def test_a_planted_line_that_pins_nothing_is_found(tmp_path: Path, line: str, expected: str) -> None:
    path = tmp_path / "run.txt"
    path.write_text(f"six==1.17.0 --hash=sha256:{DIGEST}\n{line}\n")
    pins, problems = sbom.read(path)
    assert any(re.match(expected, problem) for problem in problems)
    assert pins == [Pin("six", "1.17.0", None, frozenset({DIGEST}))]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (["License-Expression: MIT"], ""),
        (["License-Expression: MIT OR GPL-3.0-only"], ""),
        (["License: UNKNOWN", "Classifier: License :: OSI Approved :: MIT License"], ""),
        (["License-Expression: GPL-3.0-only"], "licence GPL-3.0-only is not allowed"),
        (["License-Expression: MIT AND AGPL-3.0-only"], "licence MIT AND AGPL-3.0-only is not allowed"),
        (["License: Do what you like"], "licence 'Do what you like' is none known"),
        (["Classifier: License :: OSI Approved :: BSD License"], "licence 'BSD License' is none known"),
        ([], "licence '' is none known"),
    ],
)
def test_a_planted_licence_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: list[str], expected: str
) -> None:
    install(monkeypatch, tmp_path, "planted", *fields)
    problem = sbom.licence_problem("planted")
    assert problem.startswith(f"planted: {expected}") if expected else problem == ""


def test_a_package_that_is_not_there_and_one_that_changed_since_its_review_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sbom.licence_problem("planted").startswith("planted: not installed")
    assert sbom.licence_problem("certifi") == ""
    install(monkeypatch, tmp_path, "certifi", "License-Expression: SSPL-1.0")
    assert sbom.licence_problem("certifi") == "certifi: reviewed as 'MPL-2.0', says 'SSPL-1.0' now: look again"


def test_the_bill_names_every_package_and_vendored_file_with_digest_and_licence() -> None:
    pins = [pin for pin in sbom.read(sbom.REQUIREMENTS / "run.txt")[0] if pin.holds]
    found = json.loads(sbom.bill(pins))
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.7")
    components = {one["purl"]: one for one in found["components"]}
    assert {purl for purl in components if purl.startswith("pkg:pypi/")} == {
        f"pkg:pypi/{pin.name}@{pin.version}" for pin in pins
    }
    for pin in pins:
        hashes = components[f"pkg:pypi/{pin.name}@{pin.version}"]["hashes"]
        assert {one["content"] for one in hashes if one["alg"] == "SHA-256"} == pin.hashes
    assert all(one["licenses"] for one in components.values())
    files = [file for purl, one in components.items() if purl.startswith("pkg:npm/") for file in one["components"]]
    assert {file["name"] for file in files} >= {"htmx.min.js", "pico.min.css"}
    for file in files:
        content = next(sbom.VENDORED.parent.rglob(file["name"])).read_bytes()
        assert file["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(content).hexdigest()}]
    edges = {one["ref"]: one.get("dependsOn", []) for one in found["dependencies"]}
    assert any(ref.startswith("nameko==") for ref in edges["estation"])
    assert not any(ref.startswith("urllib3==") for ref in edges["estation"])
    reached, left = set(), ["estation"]
    while left:
        reached.add(one := left.pop())
        left += set(edges[one]) - reached
    assert {one["bom-ref"] for one in components.values()} == reached - {"estation"}


def test_the_bill_has_the_same_bytes_from_every_process() -> None:
    script = (
        "import sys; from deploy import sbom; sys.stdout.write(sbom.bill(sbom.read(sbom.REQUIREMENTS / 'run.txt')[0]))"
    )
    made = [
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=sbom.PROJECT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert made[0] == made[1]


def test_a_bill_that_is_not_valid_is_not_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vendored = json.loads(sbom.VENDORED.read_text("utf-8"))
    vendored["htmx.min.js"]["sha256"] = "none"
    (tmp_path / "vendored.json").write_text(json.dumps(vendored))
    monkeypatch.setattr(sbom, "VENDORED", tmp_path / "vendored.json")
    with pytest.raises(ValueError, match="not valid"):
        sbom.bill([])


def test_a_known_vulnerability_is_named_with_version_advisory_and_remedy(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.knows(CANARY)
    registry.knows(("idna", "3.6"), fixed="3.7")
    registry.knows(("idna", "3.20"))
    registry.knows(("six", "1.0"))
    monkeypatch.setattr(sbom, "ACCEPTED", {"CVE-2026-3": "our code does not reach it"})
    found = list(sbom.audit([*OLD, Pin("six", "1.0", None, frozenset())], registry.address, tmp_path))
    assert found == [
        "idna 3.6: PYSEC-2026-1 (CVE-2026-1), mended in 3.7",
        "idna 3.20: PYSEC-2026-2 (CVE-2026-2), mended in no version yet",
    ]
    assert registry.asked[0] == CANARY
    assert sorted(registry.asked[1:]) == [("idna", "3.20"), ("idna", "3.6"), ("six", "1.0")]


def test_a_source_that_answers_without_knowing_any_advisory_is_no_source(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(sbom.UnreachableError, match=r"jinja2==2\.11\.2: it answers, but has no advisories"):
        list(sbom.audit(OLD, registry.address, tmp_path))
    assert registry.asked == [CANARY]


def test_what_was_found_stands_when_the_source_goes_away_in_between(
    registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.knows(CANARY)
    registry.knows(("idna", "3.6"), fixed="3.7")
    registry.broken = {("idna", "3.20")}
    assert sbom._known(OLD, registry.address, tmp_path) == ["idna 3.6: PYSEC-2026-1 (CVE-2026-1), mended in 3.7"]
    assert capsys.readouterr().out.startswith("advisories and yanked versions: NOT LOOKED AT: ")


def test_versions_that_the_registry_does_not_know_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # pip-audit's own answer where the registry says 404; its address of the registry cannot be moved to a test
    def missing(name: str, version: str) -> dict[str, str]:
        return {
            "name": name,
            "skip_reason": f"Dependency not found on PyPI and could not be audited: {name} ({version})",
        }

    monkeypatch.setattr(sbom, "_ask", lambda lines, *_: [missing(*line.split("==")) for line in lines])
    with pytest.raises(sbom.UnreachableError, match=r"jinja2==2\.11\.2: Dependency not found"):
        list(sbom.audit(OLD, None, tmp_path))
    monkeypatch.setattr(
        sbom,
        "_ask",
        lambda lines, *_: [
            {"name": "jinja2", "vulns": [{}]} if line == sbom.CANARY else missing(*line.split("==")) for line in lines
        ],
    )
    assert [said.split(": ")[:2] for said in sbom.audit(OLD[:1], None, tmp_path)] == [
        ["idna 3.20", "Dependency not found on PyPI and could not be audited"]
    ]


def test_a_yanked_version_is_named_with_its_reason(registry: Registry, nobody: str) -> None:
    assert sbom.yanked(OLD, registry.address) == []
    registry.yanked = {DIGEST: "breaks everything", "d" * 64: "another version"}
    assert sbom.yanked(OLD, f"{registry.address}/simple") == ["idna 3.20: yanked: breaks everything"]
    registry.yanked = {DIGEST: True}
    assert sbom.yanked(OLD, registry.address) == ["idna 3.20: yanked: no reason given"]
    with pytest.raises(sbom.UnreachableError):
        sbom.yanked(OLD, nobody)


def test_where_nobody_can_be_asked_the_check_says_so_and_passes(nobody: str, tmp_path: Path) -> None:
    done = check(tmp_path / "build/sbom.cdx.json", ESTATION_OSV_URL=nobody)
    assert (done.exit_code, done.stderr) == (0, "")
    assert [
        line for line in done.stdout.splitlines() if line.startswith("advisories and yanked versions: NOT LOOKED AT: ")
    ]
    pins = sbom.read(sbom.REQUIREMENTS / "run.txt")[0]
    assert (tmp_path / "build/sbom.cdx.json").read_text("utf-8") == sbom.bill(pins)


def test_the_check_fails_for_a_vulnerable_and_a_yanked_version(registry: Registry, tmp_path: Path) -> None:
    run = {pin.name: pin for pin in sbom.read(sbom.REQUIREMENTS / "run.txt")[0]}
    registry.knows(CANARY)
    registry.knows(("nameko", run["nameko"].version), fixed="99")
    registry.yanked = dict.fromkeys(run["kombu"].hashes, "planted")
    done = check(
        tmp_path / "sbom.cdx.json", ESTATION_OSV_URL=registry.address, PIP_INDEX_URL=f"{registry.address}/simple"
    )
    assert done.exit_code == 1
    assert done.stderr.splitlines() == [
        f"{run['nameko']}: PYSEC-2026-1 (CVE-2026-1), mended in 99",
        f"{run['kombu']}: yanked: planted",
    ]
    local = {(pin.name, pin.version) for pin in sbom.read(sbom.REQUIREMENTS / "local.txt")[0]}
    assert set(registry.asked) >= local


def test_the_check_fails_for_a_loose_requirement_and_a_foreign_licence_and_leaves_no_bill(
    nobody: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(sbom.REQUIREMENTS, tmp_path / "requirements")
    (tmp_path / "requirements/bench-profile.txt").write_text("idna>=3\n")
    monkeypatch.setattr(sbom, "REQUIREMENTS", tmp_path / "requirements")
    install(monkeypatch, tmp_path, "six", "License-Expression: GPL-3.0-only")
    (tmp_path / "sbom.cdx.json").write_text("of yesterday")
    done = check(tmp_path / "sbom.cdx.json", ESTATION_OSV_URL=nobody)
    assert done.exit_code == 1
    assert [said.partition(";")[0] for said in done.stderr.splitlines()] == [
        "bench-profile.txt:1: idna: no `==` or no hash",
        "six: licence GPL-3.0-only is not allowed: do without, or list it in REVIEWED of deploy/sbom.py",
    ]
    assert not (tmp_path / "sbom.cdx.json").exists()
