"""Where a failed event goes: growing pauses, then parked with the reason."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import catalogue, envelope
from services.kernel import retry
from tests.builders import event

WRITTEN = event("probe.note_written.v1", {"failures": 0})


def test_the_pauses_grow_and_then_it_is_parked() -> None:
    headers: dict[str, Any] = {}
    keys = []
    for tried in range(1, 5):
        step = retry.step("probe", WRITTEN, headers, "why")
        headers = dict(step.message.headers)
        assert headers == {retry.ATTEMPT: tried, retry.REASON: "why"}
        assert step.message.exchange == "probe.retry"
        assert step.message.content_type == envelope.CONTENT_TYPE
        assert json.loads(step.message.body) == WRITTEN
        keys.append((step.message.routing_key, step.parked))
    assert keys == [("5s", False), ("30s", False), ("5m", False), ("dead", True)]
    pauses = [catalogue.WAITS[key] for key, parked in keys if not parked]
    assert pauses == sorted(set(pauses))


def test_a_database_that_is_away_costs_pauses_and_no_tries_for_about_a_day() -> None:
    headers: dict[str, Any] = {retry.ATTEMPT: 2}
    waited = 0
    for met in range(retry.AWAY_MAX):
        step = retry.step("probe", WRITTEN, headers, "AutoReconnect", away=True)
        assert not step.parked
        headers = dict(step.message.headers)
        assert headers == {retry.ATTEMPT: 2, retry.AWAY: met + 1, retry.REASON: "AutoReconnect"}
        waited += catalogue.WAITS[step.message.routing_key]
    assert 23 < waited / 3600 < 25
    step = retry.step("probe", WRITTEN, headers, "AutoReconnect", away=True)
    assert step.message.routing_key == "5m", "after that it is a failure like others"
    assert step.message.headers == {retry.ATTEMPT: 3, retry.AWAY: retry.AWAY_MAX, retry.REASON: "AutoReconnect"}
    assert retry.step("probe", WRITTEN, step.message.headers, "AutoReconnect", away=True).parked


@pytest.mark.parametrize("failed", [3, 4, 10**9])
def test_no_count_lets_an_event_go_round_again(failed: int) -> None:
    assert retry.step("probe", WRITTEN, {retry.ATTEMPT: failed}, "why").parked


@given(st.none() | st.text() | st.binary() | st.floats() | st.integers(max_value=0) | st.lists(st.integers()))
def test_a_count_of_another_form_counts_as_none(value: object) -> None:
    assert retry.attempt_of({retry.ATTEMPT: value}) == 0


def test_a_message_without_headers_has_not_failed() -> None:
    assert retry.attempt_of(None) == retry.attempt_of({}) == 0


def test_what_no_repetition_mends_is_parked_at_once() -> None:
    step = retry.step("probe", WRITTEN, None, "unknown_type", final=True)
    assert (step.parked, step.message.routing_key) == (True, "dead")


def test_what_json_cannot_carry_strictly_is_parked_all_the_same() -> None:
    odd = {**WRITTEN, "data": {"surrogate": "\ud800", "endless": float("inf")}}
    step = retry.step("probe", odd, None, "data.surrogate", final=True)
    assert json.loads(step.message.body) == odd


def test_what_could_not_be_read_is_parked_as_it_came() -> None:
    step = retry.step_raw("probe", b"\xff{", "text/x", "not_json")
    assert step.parked
    assert (step.message.body, step.message.content_type) == (b"\xff{", "text/x")
    assert step.message.headers == {retry.ATTEMPT: 1, retry.REASON: "not_json"}


def test_a_reason_stays_short() -> None:
    assert len(retry.step("probe", WRITTEN, None, "x" * 500).message.headers[retry.REASON]) == 200
