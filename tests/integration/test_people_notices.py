"""Being told: in the inbox with the decision, as a text message when it may go out, tried until it is out or cannot."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.kernel import clock, telemetry
from services.kernel.act import Act
from services.kernel.errors import Stale
from services.kernel.settings import Settings
from services.people import channels, rules
from services.people.handlers import grants, notices, persons
from services.people.store import Store
from tests.builders import id_number, officer
from tests.gateway import Gateway
from tests.parts import World
from tests.people import People

NIGHT = datetime(2025, 7, 16, 14, 30, tzinfo=UTC)
"""22:30 in Tai'an."""
MORNING = datetime(2025, 7, 17, 1, 0, tzinfo=UTC)
DAY = datetime(2025, 7, 17, 4, 0, tzinfo=UTC)
_numbers = iter(range(1, 999))


@pytest.fixture(scope="module")
def people(shared_world: World) -> Iterator[People]:
    """People without its service at work on messages: the tests hand them over themselves."""
    with People(shared_world) as running:
        running.process.stop()
        yield running


@pytest.fixture
def gateway(people: People) -> Iterator[Gateway]:
    """Somebody to hand messages to; what other tests left waiting is gone."""
    people.database["notices"].delete_many({})
    with Gateway() as running:
        yield running


class Reachable:
    """Somebody with a phone who wants messages."""

    def __init__(self, people: People, *, sms: bool = True) -> None:
        self.people, self.id = people, people.account("370902")
        people.identify(self.id, "王小明", id_number(next(_numbers)), "+8613805480009")
        if sms:
            persons.agree(people.store, people.act(self.id), rules.SMS)

    def tell(self, template: str, at: datetime, **params: str) -> None:
        account = self.people.store.own_account(self.id)
        notices.tell(self.people.store, account, template, at, telemetry.continued(None), params=params)

    @property
    def notice(self) -> dict[str, Any]:
        """The one notice of this person."""
        [found] = self.people.database["notices"].find({"account": self.id})
        return dict(found)

    @property
    def sms(self) -> dict[str, Any]:
        """Its way as a text message."""
        [message] = self.notice["messages"]
        return dict(message)

    @property
    def events(self) -> list[tuple[str, str]]:
        """What is said of the notice."""
        return [(out["type"].split(".")[1], out["data"]["channel"]) for out in self.notice["out"]]


def send(people: People, gateway: Gateway, at: datetime) -> int:
    """What the service's timer does."""

    def phone(account: str, channel: str) -> str | None:
        person = people.store.person(account)
        assert person is not None
        return people.vault.persons.open(person)["phone"] if rules.agreed(person, channel) else None

    ports = channels.ports(Settings(sms=gateway.url, chat=gateway.url))
    return notices.send_due(people.store, phone, ports, lambda: at, telemetry.continued(None))


def test_a_message_waits_for_the_morning_and_is_sent_once(people: People, gateway: Gateway) -> None:
    me = Reachable(people)
    me.tell("role_granted", NIGHT, role="volunteer")
    assert me.sms["due"] == MORNING
    assert send(people, gateway, MORNING - timedelta(seconds=1)) == 0
    assert gateway.taken == []
    assert send(people, gateway, MORNING) == 1
    assert send(people, gateway, DAY) == 0
    [got] = gateway.taken
    assert (got["to"], got["text"], got["id"]) == (
        "+8613805480009",
        "您已被授予角色：志愿者。",
        me.notice["_id"] + ".sms",
    )
    assert me.sms | {"due": None} == {"channel": "sms", "state": "sent", "tries": 1, "due": None, "reason": None}
    assert me.events == [("notice_dispatched", "inbox"), ("notice_dispatched", "sms")]


def test_what_is_urgent_wakes_people(people: People, gateway: Gateway) -> None:
    me = Reachable(people)
    me.tell("new_login", NIGHT)
    assert send(people, gateway, NIGHT) == 1


def test_who_does_not_want_messages_gets_none_also_when_that_changes(people: People, gateway: Gateway) -> None:
    quiet, changed = Reachable(people, sms=False), Reachable(people)
    for one in (quiet, changed):
        one.tell("role_granted", DAY, role="volunteer")
    assert quiet.notice["messages"] == []
    persons.withdraw(people.store, people.vault, people.act(changed.id), rules.SMS)
    assert send(people, gateway, DAY) == 1
    assert gateway.taken == []
    assert changed.sms["reason"] == "no_address"
    assert changed.events == [("notice_dispatched", "inbox"), ("notice_failed", "sms")]


def test_a_gateway_in_trouble_is_asked_again_with_growing_pauses_never_at_night_and_then_given_up(
    people: People, gateway: Gateway
) -> None:
    me = Reachable(people)
    me.tell("role_granted", DAY, role="volunteer")
    gateway.answers.extend([503] * rules.TRIES_MAX)
    at, pauses = DAY, []
    for _number in range(rules.TRIES_MAX):
        due = me.sms["due"]
        pauses.append((due - at).total_seconds())
        at = due
        send(people, gateway, at)
    assert pauses == [0, 30, 120, 480, 1920, 7680]
    assert me.sms | {"due": None} == {
        "channel": "sms",
        "state": "failed",
        "tries": rules.TRIES_MAX,
        "due": None,
        "reason": "gateway_unreachable",
    }
    assert len({one["id"] for one in gateway.taken}) == 1, "the gateway can tell that it is the same one"
    late = Reachable(people)
    late.tell("role_granted", NIGHT - timedelta(hours=1, minutes=31), role="volunteer")  # 20:59
    gateway.answers.append(503)
    send(people, gateway, NIGHT - timedelta(hours=1, minutes=30, seconds=15))
    assert late.sms["due"] == MORNING


def test_what_a_gateway_refuses_is_given_up_at_once(people: People, gateway: Gateway) -> None:
    me = Reachable(people)
    me.tell("role_granted", DAY, role="volunteer")
    gateway.answers.append(400)
    assert send(people, gateway, DAY) == 1
    assert me.sms["reason"] == "refused_by_gateway"
    assert send(people, gateway, DAY + timedelta(days=1)) == 0


def test_of_many_that_send_at_a_time_one_sends_each(people: People, gateway: Gateway) -> None:
    everybody = [Reachable(people) for _number in range(10)]
    for one in everybody:
        one.tell("role_granted", DAY, role="volunteer")
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _n: send(people, gateway, DAY), range(6)))
    assert len(gateway.taken) == 10
    assert {one.sms["state"] for one in everybody} == {"sent"}


def test_a_role_and_its_notice_come_together_or_not_at_all(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    me = Reachable(people)
    act = Act(officer(), clock.now(), telemetry.continued(None))
    change = Store.change_account

    def broken(*_args: object, **_kwargs: object) -> None:
        raise Stale

    monkeypatch.setattr(Store, "change_account", broken)
    with pytest.raises(Stale):
        grants.grant_role(people.store, people.vault, act, me.id, "volunteer", "370902", "as planned")
    assert people.database["notices"].count_documents({"account": me.id}) == 0
    monkeypatch.setattr(Store, "change_account", change)
    grants.grant_role(people.store, people.vault, act, me.id, "volunteer", "370902", "as planned")
    assert (me.notice["template"], me.notice["params"]) == ("role_granted", {"role": "volunteer"})
    assert notices.words(me.notice, "en") == "You were given a role: Volunteer."


def test_an_erased_persons_message_is_never_sent(people: People, gateway: Gateway) -> None:
    me = Reachable(people)
    me.tell("role_granted", DAY, role="volunteer")
    people.erase(me.id)
    assert send(people, gateway, DAY) == 0
    assert gateway.taken == []
    assert notices.words(me.notice, "zh") == "您已被授予角色：…。"


def test_who_wants_both_gets_both_and_one_gateways_trouble_is_not_the_others(people: People, gateway: Gateway) -> None:
    me = Reachable(people)
    persons.agree(people.store, people.act(me.id), rules.CHAT)
    me.tell("role_granted", DAY, role="volunteer")
    gateway.answers.append(503)
    assert send(people, gateway, DAY) == 1
    assert {one["channel"]: one["state"] for one in me.notice["messages"]} == {"sms": "waiting", "chat": "sent"}
    assert send(people, gateway, DAY + timedelta(seconds=30)) == 1
    assert {one["state"] for one in me.notice["messages"]} == {"sent"}
    assert me.events == [("notice_dispatched", channel) for channel in ("inbox", "chat", "sms")]


def test_an_old_notice_loses_its_particulars_and_a_younger_one_keeps_them(people: People, gateway: Gateway) -> None:
    old, young = Reachable(people), Reachable(people)
    old.tell("role_granted", DAY - timedelta(days=1), role="volunteer")
    young.tell("role_granted", DAY, role="volunteer")
    assert people.store.empty_notices(DAY) == 1
    assert (old.notice["params"], old.notice["messages"]) == ({}, [])
    assert young.notice["params"] == {"role": "volunteer"}
    assert (people.store.empty_notices(DAY), send(people, gateway, DAY)) == (0, 1)


def test_what_comes_late_waits_until_people_are_awake(people: People, gateway: Gateway) -> None:
    me = Reachable(people)
    me.tell("role_granted", NIGHT - timedelta(hours=2), role="volunteer")  # 20:30, and nobody was there to send it
    assert send(people, gateway, NIGHT) == 0
    assert (gateway.taken, me.sms["due"], me.sms["tries"]) == ([], MORNING, 0)
    assert send(people, gateway, MORNING) == 1


def test_nobody_is_plagued_with_messages_but_the_inbox_has_all(people: People, gateway: Gateway) -> None:
    me = Reachable(people)
    for number in range(8):
        me.tell("new_login", DAY + timedelta(minutes=number))
    assert send(people, gateway, DAY + timedelta(hours=1)) == rules.MESSAGES_A_DAY
    assert people.database["notices"].count_documents({"account": me.id}) == 8
    me.tell("new_login", DAY + timedelta(days=1, hours=1))
    assert send(people, gateway, DAY + timedelta(days=1, hours=1)) == 1
