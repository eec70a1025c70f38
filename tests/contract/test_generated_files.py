"""The committed schemas and AsyncAPI documents are what the classes say today."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from contracts import generate


@pytest.fixture
def copy_of_contracts(tmp_path: Path) -> Path:
    for folder in (generate.SCHEMAS, generate.ASYNCAPI):
        shutil.copytree(generate.HERE / folder, tmp_path / folder)
    return tmp_path


def test_committed_files_are_up_to_date() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "contracts.generate", "--check"],
        cwd=generate.HERE.parent,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_check_names_what_differs_and_writes_nothing(
    copy_of_contracts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = copy_of_contracts / "schemas" / "stations.checkin_recorded.v1.json"
    changed.write_text(changed.read_text("utf-8").replace('"maximum": 500', '"maximum": 501'), "utf-8")
    (copy_of_contracts / "asyncapi" / "stations.yaml").unlink()
    left_over = copy_of_contracts / "schemas" / "stations.withdrawn.v1.json"
    left_over.write_text("{}", "utf-8")
    assert generate.main(["--check"], copy_of_contracts) == 1
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "contracts/asyncapi/stations.yaml",
        "contracts/schemas/stations.checkin_recorded.v1.json",
        "contracts/schemas/stations.withdrawn.v1.json",
    ]
    assert '"maximum": 501' in changed.read_text("utf-8")
    assert left_over.exists()


def test_generating_mends_what_check_complained_of(copy_of_contracts: Path) -> None:
    (copy_of_contracts / "schemas" / "stations.checkin_recorded.v1.json").unlink()
    (copy_of_contracts / "schemas" / "stations.withdrawn.v1.json").write_text("{}", "utf-8")
    assert generate.main([], copy_of_contracts) == 0
    assert generate.main(["--check"], copy_of_contracts) == 0
    assert not (copy_of_contracts / "schemas" / "stations.withdrawn.v1.json").exists()


def test_generating_starts_from_nothing(tmp_path: Path) -> None:
    assert generate.main([], tmp_path) == 0
    assert generate.main(["--check"], tmp_path) == 0
