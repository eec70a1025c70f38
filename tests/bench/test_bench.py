"""The benchmark runs and tells what it should; how fast anything was decides nothing here."""

import json

import pytest

from tests.bench.__main__ import main
from tests.bench.rows import HEAD, Goal, Row, table
from tests.bench.scene import Facts
from tests.parts import Parts

QUICK = ["--quick", "--seed", "7", "--only", "relay,aggregator"]


@pytest.mark.slow
def test_two_figures_quickly(parts: Parts, capsys: pytest.CaptureFixture[str]) -> None:
    path = main(QUICK, parts)
    assert path is not None
    told = json.loads(path.read_text("utf-8"))
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    path.unlink()
    assert [cell.strip() for cell in printed[0].strip("|").split("|")] == list(HEAD)
    assert [row["figure"] for row in told["rows"]] == [line.strip("|").split("|")[0].strip() for line in printed[1:]]
    assert told["figures"] == ["relay", "aggregator"]
    assert told["options"]["seed"] == 7
    assert told["machine"]["cores"] >= 1
    assert {"python", "mongod", "rabbitmq", "nameko", "pymongo"} <= told["machine"]["versions"].keys()
    for row in told["rows"]:
        assert row["median"] > 0
        assert row["ratio"] > 0
        assert row["reached"] in ((True, False) if row["goal"] else (None,))


def test_an_unknown_figure_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "speed"])
    assert "no figure is named speed" in capsys.readouterr().err


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    row = Row("a", "req/s", [1.0, 20.0, 3.0], "b", [2.0, 10.0, 4.0], Goal(">=", 0.8))
    assert row.ratio == 0.75
    assert row.median == 3
    assert row.reached is False
    assert table([row]).splitlines()[2].strip("|").split("|")[3].strip() == "0.75"


def test_a_figure_against_nothing_is_held_against_its_goal_itself() -> None:
    assert Row("a", "ms", [3.0, 1.0, 2.0], goal=Goal("<", 2.5)).reached is True
    assert Row("a", "ms", [3.0, 1.0, 2.0], goal=Goal("<", 2)).reached is False
    assert Row("a", "ms", [3.0]).reached is None


def test_facts_are_the_seeds_and_do_not_repeat() -> None:
    one, same, other = Facts(1).documents(300), Facts(1).documents(300), Facts(2).documents(300)
    assert [document["people"] for document in one] == [document["people"] for document in same]
    assert [document["people"] for document in one] != [document["people"] for document in other]
    assert len({document["_id"] for document in one}) == 300
    assert {document["status"] for document in one} == {"accepted"}
    assert len({document["station"] for document in one}) > 100
    assert len({document["day"] for document in one}) > 5
