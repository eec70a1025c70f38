"""What other services have people told: requests that name one person and leave no gap, and words for each."""

from datetime import UTC, datetime
from string import Formatter
from typing import Any, Final

import pytest

from contracts.catalogue import CATALOGUE, Entry
from contracts.codes import NoticeReason, NoticeTemplate
from contracts.envelope import MalformedError
from contracts.events.notices import NoticeRequested
from services.kernel.web.environment import filters
from services.people import rules
from services.people.handlers import notices
from tests.contract.builders import build, uid

REQUESTS = [entry for entry in CATALOGUE if issubclass(entry.schema, NoticeRequested)]
LANGUAGES = ("zh", "en")
TYPE = "childcare.notice_requested.v1"
TOLD = NoticeTemplate.CHILDCARE_PRIORITY_CHANGED
SAID: Final[dict[str, Any]] = {"position": 3, "reason": "household_roster"}


def names_in(words: str) -> set[str]:
    """The params that a template's words have a place for."""
    return {name for _text, name, _format, _conversion in Formatter().parse(words) if name}


def words(template: str, language: str, **params: object) -> str:
    """A notice in a language."""
    return notices.words({"template": template, "params": params}, language)


@pytest.mark.parametrize("entry", REQUESTS, ids=lambda entry: entry.type)
def test_words_need_what_the_request_must_bring(entry: Entry) -> None:
    assert issubclass(entry.schema, NoticeRequested)
    assert entry.schema.needs
    for template, needed in entry.schema.needs.items():
        assert template.startswith(entry.owner + "_"), "one service's new template widens no other's event"
        for language in LANGUAGES:
            assert names_in(getattr(rules.TEMPLATES[template], language)) == set(needed)
        assert rules.TEMPLATES[template].leaves
        assert not rules.TEMPLATES[template].urgent, "no service wakes people"


def test_every_template_and_reason_is_somebodys_and_has_words() -> None:
    schemas = [entry.schema for entry in REQUESTS]
    assert {template for schema in schemas if issubclass(schema, NoticeRequested) for template in schema.needs} == set(
        NoticeTemplate
    )
    assert rules.REASONS.keys() == set(NoticeReason)
    for reason in rules.REASONS.values():
        assert reason.zh
        assert reason.en.isascii()


@pytest.mark.parametrize("entry", REQUESTS, ids=lambda entry: entry.type)
def test_a_request_is_for_people_alone(entry: Entry) -> None:
    assert entry.schema.restricted
    assert entry.consumers == ("people",)
    assert CATALOGUE.counts(build(entry.type)) == ()


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"account": uid("account")}, "data.account"),
        ({"ref": None}, "data.ref"),
        ({"ref": "3f" * 31}, "data.ref"),
        ({"template": "welcome"}, "data.template"),
        ({"params": {"position": 3}}, "data.params"),
        ({"params": {"position": "3", "reason": "household_roster"}}, "data.params"),
        ({"params": {"position": 0, "reason": "household_roster"}}, "data.params"),
        ({"params": {"position": 3, "reason": "ask at the desk"}}, "data.params"),
        (
            {"params": {**SAID, "moment": "2025-02-30T12:00:00.000Z"}},
            "data.params",
        ),
        ({"params": {**SAID, "moment": "2025-02-20T12:00:00Z"}}, "data.params"),
    ],
)
def test_a_request_that_names_two_or_leaves_a_gap_or_holds_text_is_refused(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(MalformedError) as caught:
        CATALOGUE.check(build(TYPE, **changes))
    assert caught.value.args == (fault,)


def test_a_request_that_names_nobody_is_refused_and_an_account_does() -> None:
    event = build(TYPE)
    del event["data"]["ref"]
    with pytest.raises(MalformedError, match=r"^data\.account$"):
        CATALOGUE.check(event)
    event["data"]["account"] = uid("account")
    CATALOGUE.check(event)


def test_params_are_said_as_pages_say_them() -> None:
    moment = "2025-07-18T12:00:00.000Z"
    for language in LANGUAGES:
        shown = filters(language)
        assert shown["day"]("2025-07-21") in words(NoticeTemplate.CHILDCARE_CONFIRMED, language, day="2025-07-21")
        at = shown["moment"](datetime(2025, 7, 18, 12, tzinfo=UTC))
        assert at in words(NoticeTemplate.CHILDCARE_DRAW_COMMITTED, language, moment=moment)
        assert shown["number"](12345) in words(NoticeTemplate.CHILDCARE_DRAWN, language, position=12345)


def test_a_notice_reads_as_a_sentence() -> None:
    assert words(TOLD, "zh", **SAID) == "您的托管班候补顺序已调整，现为第 3 位，原因：困难职工家庭优先。"
    assert words(TOLD, "en", **SAID).endswith("changed to number 3: households in hardship come first.")
    assert words(TOLD, "zh") == "您的托管班候补顺序已调整，现为第 … 位，原因：…。", "after its person was erased"
