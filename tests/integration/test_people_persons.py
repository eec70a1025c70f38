"""Who people are: what they say, what officers may look at, and what each of them is asked to agree to."""

import json
from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest

from services.kernel import clock, telemetry
from services.kernel.act import Act
from services.kernel.auth import Actor
from services.people import rules
from services.people.handlers import logins, notices, persons
from tests.builders import id_number
from tests.parts import World, until
from tests.people import People, Reply

NAME, OTHER = "王小明", "李大海"
PHONE = "13805481234"
HERE, ELSEWHERE = "370902", "370982"
NO_TRACE = telemetry.continued(None)


@pytest.fixture(scope="module")
def people(shared_world: World) -> Iterator[People]:
    with People(shared_world) as running:
        yield running


class Somebody:
    """An account with a token of its own."""

    def __init__(self, people: People, county: str = HERE, *grants: tuple[str, str]) -> None:
        self.people = people
        self.id = people.account(county, *grants)
        roles = tuple(role for role, _scope in grants) or ("worker",)
        self._token = people.world.token(self.id, roles, grants[0][1] if grants else "")

    def call(self, method: str, path: str, body: object = None, **headers: str) -> Reply:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named |= {"Authorization": f"Bearer {self._token}", "Accept": "application/json"}
        return self.people.browser().call(method, f"/api/v1/people{path}", body=body, headers=named)

    def identify(self, number: str, name: str = NAME, *, consent: bool = True) -> Reply:
        body = {"name": name, "id_number": number, "phone": PHONE, "consent": consent}
        return self.call("PUT", "/me/person", body)

    def add_child(self, number: str, key: str, *, consent: bool = True) -> Reply:
        body = {"name": "王小妹", "id_number": number, "consent": consent}
        return self.call("POST", "/children", body, Idempotency_Key=key)


def stored(people: People, collection: str, account: str) -> list[dict[str, Any]]:
    return list(people.database[collection].find({"account": account}))


def test_what_somebody_says_comes_back_to_them_and_lies_sealed(people: People) -> None:
    me, number = Somebody(people), id_number(1)
    nobody = me.call("GET", "/me/person")
    assert (nobody.status, nobody.json["name"], nobody.json["consents"]) == (200, None, [])
    answer = me.identify(number)
    assert answer.status == 200, answer.text
    known = me.call("GET", "/me/person").json
    assert known == answer.json
    assert (known["name"], known["phone"], known["id_number"]) == (NAME, "+86" + PHONE, f"370***********{number[-4:]}")
    assert [(one["purpose"], one["by"], one["until"]) for one in known["consents"]] == [("identity", "oneself", None)]
    [kept] = stored(people, "persons", me.id)
    assert not any(value in repr(kept) for value in (NAME, number, PHONE))
    assert len(kept["ref"]) == 64
    agreed = {"identity": [None, rules.PURPOSES["identity"]]}
    assert [row["changed"] for row in kept["audit"]] == [{"id_number": None, "name": None, "phone": None, **agreed}]


def test_nothing_is_kept_without_consent(people: People) -> None:
    me = Somebody(people)
    refused = me.identify(id_number(2), consent=False)
    assert (refused.status, refused.code) == (403, "consent_required")
    assert stored(people, "persons", me.id) == []
    assert me.identify(id_number(2)).status == 200
    refused = me.add_child(id_number(3, date(2018, 6, 1)), "k" * 20, consent=False)
    assert (refused.status, refused.code) == (403, "consent_required")
    assert stored(people, "children", me.id) == []


def test_of_two_accounts_one_has_an_id_number(people: People) -> None:
    first, second, number = Somebody(people), Somebody(people, ELSEWHERE), id_number(4)
    assert first.identify(number).status == 200
    refused = second.identify(number)
    assert (refused.status, refused.code) == (409, "identity_in_use")
    assert NAME not in refused.text
    assert first.call("POST", "/me/consents/identity/withdraw").status == 200
    assert second.identify(number).status == 200, "who withdraws gives it free"


@pytest.mark.parametrize(
    ("number", "code"),
    [
        ("370902199001010010", "id_invalid"),
        (id_number(5, date(1990, 1, 1))[:-1] + "A", "id_invalid"),
        ("370902900101001", "id_15_digit_retired"),
        ("370902199002300018", "id_invalid"),
        ({"$ne": "1"}, "not_a_string"),
    ],
)
def test_a_wrong_id_number_is_refused_and_never_repeated(people: People, number: Any, code: str) -> None:
    body = {"name": NAME, "id_number": number, "phone": PHONE, "consent": True}
    refused = Somebody(people).call("PUT", "/me/person", body)
    assert (refused.status, [(one["field"], one["code"]) for one in refused.json["errors"]]) == (
        422,
        [("id_number", code)],
    )
    assert str(number) not in refused.text


def test_who_tries_many_id_numbers_is_stopped(people: People) -> None:
    me = Somebody(people)
    statuses = [me.identify(id_number(100 + number)).status for number in range(21)]
    assert set(statuses) == {200, 429}, "two hours' budgets are less than that"


def test_who_goes_through_phone_numbers_is_stopped(people: People) -> None:
    officer = Somebody(people, HERE, ("county_officer", HERE))
    answers = [officer.call("POST", "/persons/find", {"phone": f"1380548{number:04}"}) for number in range(61)]
    assert {answer.status for answer in answers} == {200, 429}, "two minutes' budgets are less than that"
    assert all("Retry-After" in answer.headers for answer in answers if answer.status == 429)


def test_withdrawing_a_consent_ends_what_was_kept_on_its_ground(people: People) -> None:
    me = Somebody(people)
    me.identify(id_number(6))
    assert me.call("POST", "/me/consents/sms").status == 200
    assert me.add_child(id_number(7, date(2018, 6, 1)), "a" * 20).status == 201
    known = me.call("POST", "/me/consents/identity/withdraw").json
    assert (known["name"], known["id_number"], known["phone"]) == (None, None, None)
    assert {one["purpose"]: one["until"] is None for one in known["consents"]} == {
        "identity": False,
        "sms": False,
        "children": False,
    }
    [kept] = stored(people, "persons", me.id)
    assert {kept[name] for name in ("name", "name_index", "id_number", "id_number_index", "phone", "ref")} == {None}
    assert me.call("GET", "/children").json["items"] == []
    [child] = stored(people, "children", me.id)
    assert (child["name"], child["name_index"], child["ref"]) == (None, None, None)
    assert me.call("POST", "/me/consents/sms").code == "identity_missing"


def test_a_child_is_the_guardians_alone_and_in_one_account_once(people: People) -> None:
    me, other = Somebody(people), Somebody(people)
    number = id_number(8, date(2018, 6, 1))
    assert me.add_child(number, "b" * 20).code == "identity_missing"
    me.identify(id_number(9))
    other.identify(id_number(10))
    first = me.add_child(number, "c" * 20)
    assert first.status == 201
    again = me.add_child(number, "c" * 20)
    assert (again.status, again.json["id"]) == (201, first.json["id"]), "the same request, the same answer"
    assert me.add_child(number, "d" * 20).code == "child_known"
    assert other.add_child(number, "e" * 20).status == 201, "a second guardian"
    assert other.call("DELETE", f"/children/{first.json['id']}").status == 404
    assert me.call("DELETE", f"/children/{first.json['id']}").status == 204
    assert me.call("GET", "/children").json["items"] == []
    assert me.add_child(number, "f" * 20).status == 201, "and back again"
    refs = {
        one["ref"]
        for one in people.database["children"].find({"ref": {"$ne": None}, "account": {"$in": [me.id, other.id]}})
    }
    assert len(refs) == 1, "the same child is known as the same person in both accounts"


def test_who_is_grown_up_is_no_child_and_there_are_ten_at_most(people: People) -> None:
    me = Somebody(people)
    me.identify(id_number(11))
    grown = me.add_child(id_number(12, date(2001, 1, 1)), "g" * 20)
    assert (grown.status, grown.json["errors"][0]["code"]) == (422, "age_out_of_range")
    answers = [me.add_child(id_number(20 + n, date(2015, 5, 5)), f"child-{n}-{'0' * 12}").status for n in range(11)]
    assert answers == [201] * 10 + [409]


def test_officers_find_masked_people_of_their_district_and_every_look_is_noted(people: People) -> None:
    near, far = Somebody(people), Somebody(people, ELSEWHERE)
    number = id_number(30)
    near.identify(number, "欧阳小小")
    far.identify(id_number(31), "欧阳小小")
    officer = Somebody(people, HERE, ("county_officer", HERE))
    for wanted in ({"name": "欧阳小小"}, {"id_number": number}):
        found = officer.call("POST", "/persons/find", wanted)
        assert [one["id"] for one in found.json["items"]] == [near.id]
        [one] = found.json["items"]
        assert (one["name"], one["id_number"], one["phone"]) == ("欧***", f"370***********{number[-4:]}", "138****1234")
    assert officer.call("POST", "/persons/find", {"name": "欧阳小小", "phone": PHONE}).status == 422
    assert officer.call("GET", f"/persons/{far.id}").status == 404
    looks = list(people.database["audit_looks"].find({"actor": officer.id}))
    assert [(look["action"], look["subjects"]) for look in looks] == [("person.find", [near.id])] * 2
    assert not any(value in repr(looks) for value in ("欧阳", number, PHONE))


def test_who_sees_all_of_it_says_why_and_the_person_is_told(people: People) -> None:
    me, number = Somebody(people), id_number(32)
    me.identify(number)
    officer = Somebody(people, HERE, ("county_officer", HERE))
    assert officer.call("POST", f"/persons/{me.id}/reveal", {}).status == 422
    whole = officer.call("POST", f"/persons/{me.id}/reveal", {"reason": "to fill in the form"})
    assert (whole.json["name"], whole.json["id_number"]) == (NAME, number)
    [look] = people.database["audit_looks"].find({"actor": officer.id})
    assert (look["action"], look["reason"], look["fields"]) == (
        "person.reveal",
        "to fill in the form",
        ["id_number", "name", "phone"],
    )
    told = me.call("GET", "/me/notices").json["items"]
    assert [one["template"] for one in told] == ["identity_seen"]


def test_staff_at_a_counter_verify_others_and_a_new_name_or_number_has_to_be_verified_again(people: People) -> None:
    me, number = Somebody(people), id_number(33)
    me.identify(number)
    staff = Somebody(people, HERE, ("station_staff", HERE))
    staff.identify(id_number(34))
    assert staff.call("POST", f"/persons/{me.id}/reveal", {"reason": "curious"}).status == 403
    [seen] = staff.call("POST", "/persons/find", {"id_number": number}).json["items"]
    card = {"reason": "card shown", "rev": seen["rev"]}
    verified = staff.call("POST", f"/persons/{me.id}/verify", card)
    assert verified.json["verified_at"] is not None
    again = {**card, "rev": verified.json["rev"]}
    assert staff.call("POST", f"/persons/{me.id}/verify", again).json == verified.json
    looks = people.database["audit_looks"].count_documents({"actor": staff.id, "subjects": me.id})
    assert looks == 3, "each time somebody was shown"
    own = staff.call("POST", f"/persons/{staff.id}/verify", {"reason": "my own", "rev": 1})
    assert (own.status, own.code) == (403, "separation_of_duties")
    assert [one["template"] for one in me.call("GET", "/me/notices").json["items"]] == ["identity_verified"]
    assert me.identify(number).json["verified_at"] == verified.json["verified_at"], "nothing new"
    renamed = me.identify(number, OTHER).json
    assert renamed["verified_at"] is None
    assert staff.call("POST", f"/persons/{me.id}/verify", {**card, "rev": renamed["rev"]}).json["verified_at"]
    assert me.identify(id_number(720), OTHER).json["verified_at"] is None


def test_a_card_is_held_against_what_the_staff_saw_and_nothing_newer(people: People) -> None:
    me = Somebody(people)
    me.identify(id_number(50))
    staff = Somebody(people, HERE, ("station_staff", HERE))
    seen = staff.call("GET", f"/persons/{me.id}").json
    me.identify(id_number(51))
    refused = staff.call("POST", f"/persons/{me.id}/verify", {"reason": "card shown", "rev": seen["rev"]})
    assert refused.status == 412
    assert me.call("GET", "/me/person").json["verified_at"] is None


def test_the_export_has_all_of_it_in_full_and_nobody_elses(people: People) -> None:
    me, other, number = Somebody(people), Somebody(people), id_number(35)
    me.identify(number)
    other.identify(id_number(36), OTHER)
    me.add_child(id_number(37, date(2018, 6, 1)), "h" * 20)
    answer = me.call("GET", "/me/export")
    assert answer.headers["Content-Disposition"].startswith('attachment; filename="estation-people-20')
    assert answer.headers["Cache-Control"] == "no-store"
    kept = answer.json
    assert (kept["person"]["name"], kept["person"]["id_number"], kept["person"]["phone"]) == (
        NAME,
        number,
        "+86" + PHONE,
    )
    assert [child["id_number"] for child in kept["children"]] == [id_number(37, date(2018, 6, 1))]
    assert kept["account"]["id"] == me.id
    assert OTHER not in answer.text


def test_the_export_says_what_was_agreed_to_told_looked_at_and_ended(people: People, monkeypatch: Any) -> None:
    me, officer = Somebody(people), Somebody(people, HERE, ("county_officer", HERE))
    me.identify(id_number(38))
    people.session(me.id)
    logins.end_all_sessions(people.store, people.act(me.id), me.id, "logout")
    people.session(me.id)
    assert officer.call("POST", f"/persons/{me.id}/reveal", {"reason": "as planned"}).status == 200
    monkeypatch.setattr(persons, "PAGE", 1)
    account = people.store.own_account(me.id)
    for _notice in range(3):
        notices.tell(people.store, account, "welcome", clock.now(), NO_TRACE)
    assert len(persons.export(people.store, people.vault, people.act(me.id).actor)["notices"]) == 4, "page by page"
    kept = me.call("GET", "/me/export").json
    assert kept["terms"]["version"] == account["terms"]["version"]
    assert [one["purpose"] for one in kept["person"]["consents"]] == ["identity"]
    assert sorted(one["state"] for one in kept["sessions"]) == ["open", "revoked"]
    assert [one["template"] for one in kept["notices"]] == ["welcome"] * 3 + ["identity_seen"]
    assert [(one["action"], one["scope"], one["reason"]) for one in kept["looks"]] == [
        ("person.reveal", HERE, "as planned")
    ]
    assert officer.id not in json.dumps(kept), "an officer is a person too"


def test_a_number_that_is_somebody_elses_is_taken_out_at_a_counter(people: People) -> None:
    first, holder = Somebody(people), Somebody(people)
    officer, elsewhere = (Somebody(people, place, ("county_officer", place)) for place in (HERE, ELSEWHERE))
    staff = Somebody(people, HERE, ("station_staff", HERE))
    number = id_number(39)
    assert first.identify(number).status == 200
    assert holder.identify(number).code == "identity_in_use"
    [found] = officer.call("POST", "/persons/find", {"id_number": number}).json["items"]
    asked = {"reason": "another has shown the card", "rev": found["rev"]}
    address = f"/persons/{found['id']}/release"
    assert staff.call("POST", address, asked).status == 403
    assert elsewhere.call("POST", address, asked).status == 404
    assert officer.call("POST", address, {**asked, "rev": found["rev"] + 1}).status == 412
    assert officer.call("POST", address, asked).status == 200
    assert officer.call("POST", address, {**asked, "rev": found["rev"] + 1}).code == "identity_missing", "once"
    assert first.call("GET", "/me/person").json["id_number"] is None
    assert first.call("GET", "/me/person").json["name"] == NAME, "the rest stays"
    assert first.call("GET", "/me/notices").json["items"][0]["template"] == "identity_released"
    [kept] = stored(people, "persons", first.id)
    assert (kept["audit"][-1]["action"], kept["audit"][-1]["changed"]) == ("person.release", {"id_number": None})
    known = holder.identify(number)
    assert known.status == 200, "it is free for its holder"
    verified = {"reason": "card shown", "rev": known.json["rev"]}
    assert officer.call("POST", f"/persons/{holder.id}/verify", verified).status == 200
    again = {**asked, "rev": known.json["rev"] + 1}
    assert officer.call("POST", f"/persons/{holder.id}/release", again).code == "identity_verified"


def test_a_search_that_finds_too_many_says_so(people: People, monkeypatch: Any) -> None:
    officer = Somebody(people, ELSEWHERE, ("county_officer", ELSEWHERE))
    for number in range(700, 703):
        Somebody(people, ELSEWHERE).identify(id_number(number), "欧阳同名")
    found = officer.call("POST", "/persons/find", {"name": "欧阳同名"}).json
    assert (len(found["items"]), found["more"]) == (3, False)
    monkeypatch.setattr(persons, "FOUND_MAX", 2)
    act = Act(Actor(officer.id, "person", frozenset({"county_officer"}), ELSEWHERE), clock.now(), NO_TRACE)
    some, more = persons.find(people.store, people.vault, act, {"name": "欧阳同名"})
    assert (len(some), more) == (2, True)


def test_the_answer_about_the_last_child_may_be_lost(people: People) -> None:
    me = Somebody(people)
    me.identify(id_number(710))
    given = {"name": "王小妹", "id_number": id_number(711, date(2018, 6, 1)), "consent": True}
    for number in range(711, 711 + rules.CHILDREN_MAX):
        child = id_number(number, date(2018, 6, 1))
        assert me.add_child(child, f"child-{number}-" + "c" * 20).status == 201
    again = me.add_child(child, f"child-{number}-" + "c" * 20)
    assert again.status in {200, 201}, again.text
    assert len(me.call("GET", "/children").json["items"]) == rules.CHILDREN_MAX
    refused = me.call(
        "POST", "/children", {**given, "id_number": id_number(799, date(2018, 6, 1))}, Idempotency_Key="n" * 20
    )
    assert (refused.status, refused.code) == (409, "too_many")


def test_who_looked_at_deliveries_is_on_record(people: People) -> None:
    me, officer = Somebody(people), Somebody(people, HERE, ("county_officer", HERE))
    people.session(me.id)
    notices.tell(people.store, people.store.own_account(me.id), "welcome", clock.now(), NO_TRACE)
    assert officer.call("GET", f"/notices?account={me.id}").status == 200
    looks = [one["action"] for one in people.store.looks_at(me.id)]
    assert looks == ["notice.look"]


def test_the_running_service_sends_what_is_due_and_officers_see_what_became_of_it(people: People) -> None:
    me, stranger = Somebody(people), Somebody(people, ELSEWHERE)
    me.identify(id_number(40))
    me.call("POST", "/me/consents/sms")
    account = people.store.own_account(me.id)
    notices.tell(people.store, account, "new_login", clock.now(), telemetry.continued(None))
    officer = Somebody(people, HERE, ("county_officer", HERE))

    def state() -> Any:
        [row] = officer.call("GET", f"/notices?account={me.id}").json["items"]
        return row["messages"][0]["state"]

    until(lambda: state() == "sent", "the timer has sent it")
    lines = [json.loads(line) for line in (people.world.folder / "sms.jsonl").read_text().splitlines()]
    assert [line["to"] for line in lines] == ["+86" + PHONE]
    assert officer.call("GET", f"/notices?account={stranger.id}").json["items"] == []
    assert "text" not in officer.call("GET", f"/notices?account={me.id}").json["items"][0]


def test_the_inbox_is_the_newest_first_and_read_once(people: People) -> None:
    me = Somebody(people)
    account = people.store.own_account(me.id)
    for template in ("welcome", "identity_seen", "identity_verified"):
        notices.tell(people.store, account, template, clock.now(), telemetry.continued(None))
    first = me.call("GET", "/me/notices?limit=2").json
    assert [one["template"] for one in first["items"]] == ["identity_verified", "identity_seen"]
    rest = me.call("GET", f"/me/notices?limit=2&cursor={first['next']}").json
    assert ([one["template"] for one in rest["items"]], rest["next"]) == (["welcome"], None)
    assert [me.call("POST", "/me/notices/read").json["read"] for _time in range(2)] == [3, 0]
    english = me.call("GET", "/me/notices", Accept_Language="en").json["items"]
    assert english[0]["text"] == "Your identity was verified at a counter."
