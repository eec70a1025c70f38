"""Being told: in the inbox with the decision, as a text message when it may go out, tried until it is out or cannot."""

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from typing import Any

import bson
import pika
import pytest
from pika.exceptions import ChannelClosedByBroker

from contracts import envelope
from contracts.envelope import Event
from services.kernel import clock, ids, inbox, telemetry
from services.kernel.act import Act
from services.kernel.amqp import Message
from services.kernel.errors import Stale
from services.kernel.settings import Settings
from services.people import channels, rules
from services.people.handlers import grants, notices, persons
from services.people.store import Store
from tests import builders, metrics
from tests.builders import id_number, officer
from tests.gateway import Gateway
from tests.mailbox import Mailbox
from tests.parts import PROJECT, Process, World, outside, until
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
        self.number = id_number(next(_numbers))
        people.identify(self.id, "王小明", self.number, "+8613805480009")
        people.database["persons"].update_one({"_id": self.id}, {"$set": {"verified_at": DAY}})
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


# What other services ask for

ASKED = "childcare.notice_requested.v1"


@pytest.fixture
def at_work(people: People, gateway: Gateway) -> Iterator[Process]:
    """The service, which takes requests and hands messages to the same gateway, by day: at night the test does."""
    people.process._environ["ESTATION_SMS"] = gateway.url
    people.process.start()
    yield people.process
    people.process.stop()


def asking(about: str = "", **data: Any) -> Event:
    """Childcare has an offer for somebody, who has 24 hours."""
    told = {"day": "2025-07-17", "template": "childcare_offered", "params": {"count": 24}, "about": about or ids.new()}
    return builders.event(ASKED, {**told, **data})


def settled(at_work: Process, count: int) -> None:
    """Waits until so many events were taken in all, none of them in vain."""

    def applied() -> bool:
        return at_work.metric("estation_consumed_events_total", outcome="applied") == count

    until(applied, f"{count} events applied")


def ask(people: People, event: Event, at: datetime = DAY) -> None:
    """What the service does with a request."""
    notices.requested(people.store, people.vault, event, at, telemetry.continued(None))


def holding(people: People, needle: str) -> set[str]:
    """The collections of people that hold something."""
    return {
        name
        for name in people.database.list_collection_names()
        for document in people.database[name].find()
        if needle.encode() in bson.encode(document)
    }


def test_a_service_has_people_told_by_ref_and_by_account_once_however_often_it_asks(
    people: People, gateway: Gateway, at_work: Process
) -> None:
    me, number = Reachable(people), id_number(next(_numbers), date(2018, 6, 1))
    people.child(me.id, "王小妹", number)
    events = [
        asking(account=me.id),
        asking(ref=people.vault.ref(me.number), template="childcare_waitlisted", params={"position": 1234}),
        asking(ref=people.vault.ref(number), template="childcare_confirmed", params={"day": "2025-07-21"}),
    ]
    deliveries = events * 3
    random.Random(7).shuffle(deliveries)
    metrics.publish(people.world, deliveries[:4])
    metrics.publish(people.world, deliveries[4:])
    settled(at_work, 9)
    assert people.world.broker.depth("people.dead") == 0
    answer = people.api("GET", "/me/notices", token=people.world.token(me.id, ("worker",), ""))
    said = {
        "托管班有名额了，请在 24 小时内确认，逾期名额将转给下一位；期限不会在 21:00 至次日 9:00 之间届满。",
        "托管班已满，目前候补第 1,234 位。有名额时会通知您。",
        "托管班报名成功，2025年7月21日开班。",
    }
    assert sorted(one["text"] for one in answer.json["items"]) == sorted(said)
    send(people, gateway, max(one["messages"][0]["due"] or DAY for one in people.database["notices"].find()))
    until(lambda: len({one["id"] for one in gateway.taken}) == 3, "all are handed over")
    assert {one["to"] for one in gateway.taken} == {"+8613805480009"}, "which childcare has never known"
    assert {one["text"] for one in gateway.taken} == said


def test_what_became_of_a_request_is_said_with_the_senders_own_name_for_it(
    people: People, gateway: Gateway, at_work: Process
) -> None:
    me, reached, lost = Reachable(people), ids.new(), ids.new()
    tap = people.world.tap("people")
    relay = people.world.process("relay", "people").start()
    try:
        metrics.publish(people.world, [asking(reached, account=me.id), asking(lost, ref="3f" * 32)])
        settled(at_work, 2)
        send(people, gateway, me.sms["due"] or DAY)

        def answers() -> set[tuple[str, ...]]:
            return {
                (one["type"].split(".")[1], one["data"]["about"], one["data"]["channel"], one["data"].get("reason", ""))
                for one in tap.drain()
                if "about" in one["data"]
            }

        until(lambda: len(answers()) >= 3, "three answers are published")
    finally:
        assert relay.stop() == 0
    assert answers() == {
        ("notice_dispatched", reached, "inbox", ""),
        ("notice_dispatched", reached, "sms", ""),
        ("notice_failed", lost, "inbox", "unknown_person"),
    }


def test_a_request_for_nobody_known_is_settled_and_nothing_is_kept_of_what_was_to_be_said(
    people: People, gateway: Gateway, at_work: Process
) -> None:
    erased = Reachable(people)
    ref = people.vault.ref(erased.number)
    people.erase(erased.id)
    gone = [asking(account=erased.id), asking(ref=ref), asking(account=ids.new()), asking(ref="0" * 64)]
    metrics.publish(people.world, gone * 3)
    settled(at_work, 12)
    assert people.world.broker.depth("people.dead") == 0
    found = list(people.database["notices"].find())
    assert len(found) == 4
    for one in found:
        assert (one["account"], one["params"], one["about"], one["messages"]) == (None, {}, None, [])
        [out] = one["out"]
        assert (out["type"], out["data"]["reason"]) == ("people.notice_failed.v1", "unknown_person")
    assert {out["data"]["about"] for one in found for out in one["out"]} == {one["data"]["about"] for one in gone}
    assert holding(people, ref) <= {"erasures"}, "where the event waits for a relay"
    assert holding(people, "0" * 64) == set()
    assert people.api("GET", "/notices").json["items"] == [], "officers see what people of their district were told"


@pytest.mark.parametrize("user", ["stations", "metrics", "people"])
def test_nobody_else_asks_in_childcares_name(people: People, user: str) -> None:
    broker = people.world.broker
    with closing(pika.BlockingConnection(pika.URLParameters(broker.url_for(user)))) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        with pytest.raises(ChannelClosedByBroker, match=r"\(403, "):
            channel.basic_publish("childcare.events", ASKED, b"{}", mandatory=True)


def test_who_asks_in_childcares_name_by_an_exchange_of_its_own_is_parked(
    people: People, gateway: Gateway, at_work: Process
) -> None:
    me = Reachable(people)
    asked = asking(account=me.id)
    message = Message("stations.events", "stations.erasure_confirmed.v1", envelope.dump(asked), envelope.CONTENT_TYPE)
    metrics.send(people.world, [message], "stations")
    [letter] = Mailbox(people.world.broker, "stations", "people").await_parked(asked["id"])
    assert letter.reason == "foreign_exchange"
    assert people.database["notices"].count_documents({"account": me.id, "about": asked["data"]["about"]}) == 0
    metrics.send(people.world, [message], "stations")
    until(lambda: people.world.broker.depth("people.dead") == 1, "it is parked again")
    told = dlq(people, "replay", "people", "--all")
    assert told.splitlines() == [
        "1 stay: foreign_exchange; look where they come from, then discard them",
        "0 given back to people.inbox",
    ]
    assert dlq(people, "discard", "people", "--all", "--reason", "forged").startswith("1 discarded")


def test_who_only_typed_a_number_is_not_told_what_concerns_its_holder(people: People, gateway: Gateway) -> None:
    me, number = Reachable(people), id_number(next(_numbers), date(2018, 6, 1))
    people.child(me.id, "王小妹", number)
    people.database["persons"].update_one({"_id": me.id}, {"$set": {"verified_at": None}})
    for ref in (people.vault.ref(me.number), people.vault.ref(number)):
        ask(people, asking(ref=ref))
    assert people.database["notices"].count_documents({"account": me.id}) == 0
    ask(people, asking(account=me.id))
    assert people.database["notices"].count_documents({"account": me.id}) == 1


def dlq(people: People, *words: str) -> str:
    """``estation dlq ...`` as the broker's administrator."""
    environ = {**outside(), **people.world.environ("people"), "ESTATION_RABBITMQ_URL": people.world.broker.admin_url}
    done = subprocess.run(
        [sys.executable, "-m", "deploy.cli", "dlq", *words], cwd=PROJECT, env=environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_people_alone_is_bound_to_requests(people: People) -> None:
    broker = people.world.broker
    bound = broker.management.call("GET", f"/exchanges/{broker.vhost}/childcare.events/bindings/source")
    assert [(one["destination"], one["routing_key"]) for one in bound] == [("people.inbox", ASKED)]


def test_a_request_by_night_is_in_the_inbox_at_once_and_leaves_the_house_in_the_morning(
    people: People, gateway: Gateway
) -> None:
    me = Reachable(people)
    ask(people, asking(account=me.id), NIGHT)
    assert me.notice["at"] == NIGHT
    assert me.sms["due"] == MORNING
    assert (send(people, gateway, NIGHT), send(people, gateway, MORNING)) == (0, 1)


def test_whoever_has_the_child_is_told(people: People, gateway: Gateway) -> None:
    one, other, number = Reachable(people), Reachable(people), id_number(next(_numbers), date(2018, 6, 1))
    for guardian in (one, other):
        people.child(guardian.id, "王小妹", number)
    event = asking(ref=people.vault.ref(number))
    ask(people, event)
    ask(people, event)
    assert one.notice["about"] == other.notice["about"] == event["data"]["about"]


def test_of_a_request_only_what_its_version_knows_is_kept(people: People, gateway: Gateway) -> None:
    me = Reachable(people)
    ask(people, asking(account=me.id, params={"count": 24, "later": "x"}, later="x"))
    assert me.notice["params"] == {"count": 24}


def test_what_a_notice_was_about_goes_with_its_person_and_with_its_time(people: People, gateway: Gateway) -> None:
    me, other = Reachable(people), Reachable(people)
    for one in (me, other):
        ask(people, asking(account=one.id))
    people.erase(me.id)
    assert (me.notice["params"], me.notice["about"], me.notice["messages"]) == ({}, None, [])
    assert other.notice["about"]
    people.store.empty_notices(DAY + timedelta(days=1))
    assert (other.notice["params"], other.notice["about"]) == ({}, None)


def test_a_notice_to_somebody_who_is_erased_meanwhile_is_emptied(
    people: People, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    me, once = Reachable(people), inbox.once

    def erased_meanwhile(database: Any, event: Event, at: datetime, effect: Callable[[Any], None]) -> bool:
        people.erase(me.id)
        return once(database, event, at, effect)

    monkeypatch.setattr(inbox, "once", erased_meanwhile)
    ask(people, asking(account=me.id))
    assert (me.notice["params"], me.notice["about"], me.notice["messages"]) == ({}, None, [])


@pytest.mark.parametrize("collection", ["persons", "children"])
def test_finding_whose_a_ref_is_reads_no_whole_collection(people: People, collection: str) -> None:
    plan = people.database[collection].find({"ref": {"$eq": "3f" * 32, "$type": "string"}}).explain()
    assert "COLLSCAN" not in str(plan["queryPlanner"]["winningPlan"])
