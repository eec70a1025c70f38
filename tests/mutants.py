"""Planted faults, each of which a test must find: ``make mutants``.

A mutant is one change of one line. It is planted in a copy of the project, the tests that claim to guard the line run
there, and must fail. Prints each mutant's place, its change and the test that found it; exit code 1 if one survives.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
ROOMS = ("contracts", "services", "deploy", "tests", "pyproject.toml", "README.md", "requirements", "Makefile")
SECONDS = 400


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault: where, what, and who should find it (arguments to pytest)."""

    file: str
    line: str
    change: str
    tests: str


MUTANTS = (
    Mutant(
        "contracts/codes.py",
        "return tuple(code for code, unit in UNITS.items() if scope in (code, unit.parent))",
        "return tuple(code for code, unit in UNITS.items() if scope == code)",
        "tests/unit/test_contracts_codes.py",
    ),
    Mutant(
        "contracts/events/stations.py",
        'if facility["kind"] == Facility.MOTHER_ROOM and facility["since"][:4] == day[:4]',
        'if facility["kind"] == Facility.MOTHER_ROOM',
        "tests/unit/test_contracts_counts.py",
    ),
    Mutant(
        "contracts/catalogue.py",
        "if entry.schema.restricted and METRICS in entry.consumers:",
        "if entry.schema.restricted and METRICS in entry.consumers and not entry.consumers:",
        "tests/unit/test_contracts_catalogue.py tests/contract/test_privacy.py",
    ),
    Mutant(
        "services/kernel/body.py",
        "if len(found) != len(pairs):",
        "if len(found) > len(pairs):",
        "tests/unit/test_kernel_body.py",
    ),
    Mutant(
        "services/kernel/auth.py",
        'ALGORITHMS: Final = ["ES256", "Ed25519", "EdDSA", "RS256"]',
        'ALGORITHMS: Final = ["ES256", "Ed25519", "EdDSA", "RS256", "HS256", "none"]',
        "tests/unit/test_kernel_auth.py",
    ),
    Mutant(
        "services/kernel/retry.py",
        "parked = final or failed >= len(PAUSES)",
        "parked = failed >= len(PAUSES)",
        "tests/unit/test_kernel_retry.py tests/unit/test_metrics_reading.py",
    ),
    Mutant(
        "services/kernel/mongo.py",
        "rider.settle([index not in known for index in own], None if broken.isdisjoint(own) else error)",
        "rider.settle([True for index in own], None if broken.isdisjoint(own) else error)",
        "tests/integration/test_kernel_mongo.py -k learns",
    ),
    Mutant(
        "services/kernel/mongo.py",
        "if not free and now - self._seen[1] < self._ttl:",
        "if not free and now - self._seen[1] < self._ttl / 2:",
        "tests/integration/test_kernel_mongo.py -k challengers",
    ),
    Mutant(
        "services/kernel/outbox.py",
        '{"_id": current["_id"], "rev": current["rev"]},',
        '{"_id": current["_id"]},',
        "tests/integration/test_kernel_outbox.py -k older",
    ),
    Mutant(
        "services/kernel/outbox.py",
        '{"_id": {"$in": group}, "seq": seq}, {"$set": {"open": False, "sent": seq, "out": []}}',
        '{"_id": {"$in": group}}, {"$set": {"open": False, "sent": seq, "out": []}}',
        "tests/integration/test_kernel_outbox.py -k gained",
    ),
    Mutant(
        "services/kernel/relay.py",
        'if event["seq"] > document.get("sent", 0):',
        "if True:",
        "tests/integration/test_kernel_relay.py -k own_first_event",
    ),
    Mutant(
        "services/kernel/topology.py",
        '"configure": "^$",',
        '"configure": ".*",',
        "tests/unit/test_kernel_topology.py tests/integration/test_kernel_topology.py -k least or declares",
    ),
    Mutant(
        "services/stations/rules.py",
        "if captured_at > received_at + FUTURE_TOLERANCE:",
        "if captured_at > received_at + AGE_MAX:",
        "tests/unit/test_stations_rules.py",
    ),
    Mutant(
        "services/stations/rules.py",
        "if abs(clock_offset) > CLOCK_TOLERANCE:\n        return captured_at + clock_offset",
        "if abs(clock_offset) > CLOCK_TOLERANCE:\n        return captured_at - clock_offset",
        "tests/unit/test_stations_rules.py",
    ),
    Mutant(
        "services/stations/handlers.py",
        'any(sent[name] != stored[name] for name in ("captured_at", "kind", "people", "station"))',
        'any(sent[name] != stored[name] for name in ("captured_at", "kind", "station"))',
        "tests/integration/test_stations_handlers.py tests/integration/test_stations_bad_input.py -k changed",
    ),
    Mutant(
        "services/stations/handlers.py",
        '"people": 0 if waiting else -current["people"],',
        '"people": 0 if waiting else -1,',
        "tests/integration/test_stations_handlers.py tests/integration/test_stations_http.py -k back",
    ),
    Mutant(
        "services/stations/store.py",
        "return model.objects(county__in=list(actor.counties))",
        "return model.objects()",
        "tests/integration/test_stations_handlers.py -k not_yours",
    ),
    Mutant(
        "services/metrics/log.py",
        'return [fact for fact in facts if fact.event["id"] not in known]',
        "return list(facts)",
        "tests/integration/test_metrics_log.py -k known",
    ),
    Mutant(
        "services/metrics/rebuild.py",
        "return (self.expected or 0) - (self.found or 0)",
        "return (self.found or 0) - (self.expected or 0)",
        "tests/integration/test_metrics_rebuild.py -k mended",
    ),
    Mutant(
        "services/metrics/figures.py",
        "return Figure(row, status, None)",
        "return Figure(row, status, {})",
        "tests/unit/test_metrics_figures.py",
    ),
    Mutant(
        "contracts/roles.py",
        "inside = over == scope or over in within(scope)",
        "inside = True",
        "tests/integration/test_people_accounts.py",
    ),
    Mutant(
        "services/kernel/crypto.py",
        "            self._ledger.append(erasure)\n",
        "",
        "tests/integration/test_people_erasure.py -k after_delete_me",
    ),
    Mutant(
        "services/kernel/forms.py",
        "if not hmac.compare_digest(brought.encode(), actor.csrf.encode()):",
        "if not brought:",
        "tests/integration/test_people_login.py -k another_site or needs_the_accounts_token",
    ),
    Mutant(
        "services/people/handlers/erasure.py",
        "return store.erasure(account) is not None or vault.keys.destroyed(account)",
        "return store.erasure(account) is not None",
        "tests/integration/test_people_erasure.py -k after_delete_me",
    ),
    Mutant(
        "services/people/handlers/persons.py",
        'if {"name", "id_number"} & set(changed):',
        'if {"name"} & set(changed):',
        "tests/integration/test_people_persons.py -k verif",
    ),
    Mutant(
        "services/people/rules.py",
        "if template.urgent or QUIET_UNTIL <= local.time() < QUIET_FROM:",
        "if template.urgent or QUIET_UNTIL <= local.time():",
        "tests/integration/test_people_notices.py -k waits_for_the_morning",
    ),
    Mutant(
        "services/people/rules.py",
        'now < session["opened_at"] + longest and now < session["seen_at"] + unused)',
        'now < session["opened_at"] + longest)',
        "tests/unit/test_people_rules.py tests/integration/test_people_login.py -k ends_by_itself",
    ),
    Mutant(
        "services/people/store.py",
        "return _first(Person.objects(pk=account, county__in=list(actor.counties)))",
        "return _first(Person.objects(pk=account))",
        "tests/integration/test_people_persons.py -k taken_out_at_a_counter",
    ),
)


def main(only: set[int]) -> int:
    """Plants each mutant in turn (or only those of the given numbers); how many survive."""
    survivors = 0
    with tempfile.TemporaryDirectory(prefix="mutants") as folder:
        copy = copy_project(Path(folder))
        chosen = [(number, mutant) for number, mutant in enumerate(MUTANTS, start=1) if not only or number in only]
        for number, mutant in chosen:
            survivors += not _killed(copy, number, mutant)
    print(f"{len(chosen) - survivors} of {len(chosen)} mutants killed")
    return survivors


def copy_project(folder: Path) -> Path:
    """Copies what tests need into a folder, with a way to a RabbitMQ that was unpacked under var/; the folder."""
    for room in ROOMS:
        source = PROJECT / room
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
        if source.is_dir():
            shutil.copytree(source, folder / room, ignore=ignored)
        else:
            shutil.copy(source, folder / room)
    (folder / "var").mkdir()
    (folder / "var" / "rabbitmq").symlink_to(PROJECT / "var" / "rabbitmq")
    return folder


def plant(path: Path, line: str, change: str) -> str:
    """Changes the one place that holds ``line``; the text as it was."""
    text = path.read_text("utf-8")
    if text.count(line) != 1:
        raise SystemExit(f"{path.name} holds this {text.count(line)} times, not once: {line}")
    path.write_text(text.replace(line, change), "utf-8")
    return text


def _killed(copy: Path, number: int, mutant: Mutant) -> bool:
    path = copy / mutant.file
    text = plant(path, mutant.line, mutant.change)
    place = f"{mutant.file}:{text[: text.index(mutant.line)].count(chr(10)) + 1}"
    try:
        files, _, chosen = mutant.tests.partition(" -k ")
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header", "--tb=no"),
                *(("-k", chosen) if chosen else ()),
                *[file for file in files.split() if (copy / file).exists()],
            ],
            cwd=copy,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(copy)},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    finally:
        path.write_text(text, "utf-8")
    found = re.search(r"^FAILED (\S+)", done.stdout, flags=re.MULTILINE)
    killed = done.returncode == 1 and found is not None
    print(f"{number:2} {'killed  ' if killed else 'SURVIVED'} {place}", flush=True)
    print(f"   - {mutant.line.strip()}\n   + {mutant.change.strip()}")
    print(f"   found by {found[1]}" if found else done.stdout[-2000:] + done.stderr[-500:], flush=True)
    return killed


if __name__ == "__main__":
    sys.exit(1 if main(set(map(int, sys.argv[1:]))) else 0)
