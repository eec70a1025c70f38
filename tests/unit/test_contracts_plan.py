"""The year's plan agrees with the vocabulary, the catalogue and the measures."""

import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from contracts import catalogue
from contracts.catalogue import CATALOGUE
from contracts.codes import CITY, COUNTIES
from contracts.measures import MEASURES

PLAN: dict[str, Any] = yaml.safe_load(
    (Path(__file__).resolve().parents[2] / "contracts" / "plan" / "2025.yaml").read_text("utf-8")
)
ROWS = PLAN["measured"] + PLAN["milestones"]
PUBLISHING = [row for row in PLAN["measured"] if row["service"] in catalogue.PUBLISHING]


def test_plan_is_the_citys_of_2025_and_says_where_it_stands() -> None:
    assert PLAN["year"] == 2025
    assert PLAN["federation"]["code"] == CITY
    assert PLAN["source"] == {"newspaper": "Shandong Workers' Daily", "date": date(2025, 8, 13), "page": "A1"}
    assert tuple(PLAN["counties"]) == COUNTIES


def test_keys_are_unique() -> None:
    keys = [row["key"] for row in ROWS]
    assert len(keys) == len(set(keys)) == 24


@pytest.mark.parametrize("row", ROWS, ids=[row["key"] for row in ROWS])
def test_row_is_complete(row: dict[str, Any]) -> None:
    assert re.fullmatch(r"[a-z]+\.[a-z0-9_]+", row["key"])
    assert row["zh"]
    assert row["en"]
    assert row["en"].isascii()
    assert row["unit"]
    assert row["target"] is None or (type(row["target"]) is int and row["target"] > 0)
    assert row.get("per") in {None, "county"}


@pytest.mark.parametrize("row", PLAN["measured"], ids=[row["key"] for row in PLAN["measured"]])
def test_measured_row_names_who_proves_it(row: dict[str, Any]) -> None:
    assert row["service"] in {"childcare", "mixers", "care", "stations", "subsidies"}
    assert row["measure"].split(".")[0] == row["service"]
    assert row["kind"] in {"sum", "stock", "ordinal"}
    assert row["event"]
    assert "minus" in row


@pytest.mark.parametrize("row", PUBLISHING, ids=[row["key"] for row in PUBLISHING])
def test_row_of_a_publishing_service_has_its_measure_and_events(row: dict[str, Any]) -> None:
    measure = MEASURES[row["measure"]]
    assert measure.zh.startswith(row["zh"])
    assert measure.unit == row["unit"]
    assert measure.stock == (row["kind"] == "stock")
    types = {entry.type for entry in CATALOGUE}
    assert {f"{row['service']}.{row[name]}.v1" for name in ("event", "minus")} <= types


def test_stations_prove_their_two_rows() -> None:
    assert [row["key"] for row in PUBLISHING] == ["stations.checkins", "stations.mother_rooms"]


def test_targets_of_the_plan() -> None:
    assert {row["key"]: row["target"] for row in ROWS if row["target"] is not None} == {
        "childcare.classes": 200,
        "childcare.enrolments": 4000,
        "subsidies.degree": 450,
        "mixers.editions": 17,
        "stations.mother_rooms": 10,
        "democracy.city_models": 10,
        "democracy.county_models": 3,
        "homes.upgraded": 15,
        "craft.academies": 10,
        "craft.alliances": 2,
        "craft.national": 1,
        "unions.firms_100": 100,
    }
    assert [row["key"] for row in ROWS if row.get("per") == "county"] == ["democracy.county_models"]
