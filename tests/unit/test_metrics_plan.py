"""The plan's file is read as a whole, and a year without one says whose targets it shows."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from services.metrics.plan import FOLDER, ORDINAL, PlanError, Plans

PUBLISHED: dict[str, Any] = yaml.safe_load((FOLDER / "2025.yaml").read_text("utf-8"))


def _write(folder: Path, year: int, **changes: Any) -> None:
    (folder / f"{year}.yaml").write_text(yaml.safe_dump({**PUBLISHED, "year": year, **changes}), "utf-8")


def _row(**changes: Any) -> dict[str, Any]:
    return {**PUBLISHED["measured"][0], **changes}


def test_published_plan_is_read_in_its_own_order() -> None:
    plan = Plans().of(2025, 2026)
    assert plan is not None
    assert (plan.year, plan.targets_of) == (2025, 2025)
    assert plan.federation["zh"] == "泰安市总工会"
    assert [row.key for row in plan.rows] == [row["key"] for row in PUBLISHED["measured"]]
    by_key = {row.key: row for row in plan.rows}
    assert by_key["stations.mother_rooms"].target == 10
    assert by_key["stations.checkins"].target is None
    assert by_key["childcare.enrolments"].unit == "人次"


def test_year_without_a_file_takes_the_latest_earlier_targets(tmp_path: Path) -> None:
    _write(tmp_path, 2025)
    _write(tmp_path, 2027, measured=[_row(target=220)])
    plans = Plans(tmp_path)
    for year, targets_of in ((2025, 2025), (2026, 2025), (2027, 2027), (2028, 2027)):
        plan = plans.of(year, 2028)
        assert plan is not None
        assert (plan.year, plan.targets_of) == (year, targets_of)
    carried = plans.of(2028, 2028)
    assert carried is not None
    assert [row.target for row in carried.rows] == [220]


def test_target_of_an_ordinal_is_not_carried_over() -> None:
    carried = Plans().of(2026, 2026)
    assert carried is not None
    assert {row.kind: row.target for row in carried.rows if row.key == "mixers.editions"} == {ORDINAL: None}
    assert {row.key: row.target for row in carried.rows if row.key == "childcare.classes"} == {"childcare.classes": 200}


def test_no_plan_before_the_first_one() -> None:
    assert Plans().of(2024, 2026) is None


def test_coming_year_has_only_a_plan_of_its_own(tmp_path: Path) -> None:
    _write(tmp_path, 2025)
    _write(tmp_path, 2027)
    plans = Plans(tmp_path)
    assert plans.of(2026, 2025) is None
    published_early = plans.of(2027, 2025)
    assert published_early is not None
    assert published_early.targets_of == 2027


def test_years_run_from_the_first_plan_to_now() -> None:
    assert list(Plans().years(2027)) == [2025, 2026, 2027]
    assert list(Plans().years(2024)) == []


def test_folder_without_plans_has_none(tmp_path: Path) -> None:
    assert Plans(tmp_path).of(2025, 2025) is None
    assert list(Plans(tmp_path).years(2025)) == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"measured": [_row(target=0)]}, "target"),
        ({"measured": [_row(target=1.5)]}, "target"),
        ({"measured": [_row(kind="average")]}, "kind"),
        ({"measured": [_row(measure="Checkins")]}, "measure"),
        ({"measured": [_row(tagret=3)]}, "tagret"),
        ({"measured": []}, "measured"),
        ({"milestones": [{"key": "a.b"}]}, "milestones"),
        ({"federation": {"code": "3709", "zh": "总工会", "en": "Federation"}}, "code"),
        ({"more": 1}, "more"),
    ],
)
def test_wrong_file_is_refused_by_name_and_field(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    _write(tmp_path, 2025, **changes)
    with pytest.raises(PlanError, match=rf"2025\.yaml: .*{named}"):
        Plans(tmp_path)


def test_file_named_after_another_year_is_refused(tmp_path: Path) -> None:
    _write(tmp_path, 2025)
    (tmp_path / "2025.yaml").rename(tmp_path / "2026.yaml")
    with pytest.raises(PlanError, match=r"2026\.yaml: holds the plan of 2025"):
        Plans(tmp_path)


def test_file_that_is_no_yaml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "2025.yaml").write_text("year: [", "utf-8")
    with pytest.raises(PlanError, match=r"2025\.yaml"):
        Plans(tmp_path)
