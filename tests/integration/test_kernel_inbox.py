"""inbox.once: an event's id and its effect, both or neither, once."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pymongo.client_session import ClientSession
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from services.kernel import ids, inbox
from services.kernel.mongo import Document
from tests.builders import NOON, event
from tests.kernel import connected
from tests.parts import Parts, World


@pytest.fixture(scope="module")
def database(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database[Document]]:
    world = World(parts, Path(tmp_path_factory.mktemp("inbox")))
    with connected(world.settings("stations"), "inbox", "test") as found:
        inbox.ensure_index(found)
        found.create_collection("effects")
        yield found
    world.close()


def once(database: Database[Document], given: dict[str, Any], effect_id: str | None = None) -> bool:
    def effect(session: ClientSession) -> None:
        document = {"_id": effect_id or ids.new(), "event": given["id"]}
        database["effects"].insert_one(document, session=session)

    return inbox.once(database, given, NOON, effect)


def effects(database: Database[Document], given: dict[str, Any]) -> int:
    return database["effects"].count_documents({"event": given["id"]})


def written() -> dict[str, Any]:
    return event("probe.note_written.v1", {"failures": 0})


def test_a_second_delivery_changes_nothing(database: Database[Document]) -> None:
    given = written()
    assert [once(database, given) for _ in range(3)] == [True, False, False]
    assert effects(database, given) == 1


def test_of_concurrent_deliveries_one_takes_effect(database: Database[Document]) -> None:
    for _ in range(5):
        given = written()
        with ThreadPoolExecutor(8) as pool:
            outcomes = list(pool.map(lambda _n, given=given: once(database, given), range(8)))
        assert sorted(outcomes) == [False] * 7 + [True]
        assert effects(database, given) == 1


def test_an_effect_that_fails_leaves_no_row_and_may_be_tried_again(database: Database[Document]) -> None:
    given = written()

    def fails(session: ClientSession) -> None:
        database["effects"].insert_one({"_id": ids.new(), "event": given["id"]}, session=session)
        raise RuntimeError("after its write")

    with pytest.raises(RuntimeError):
        inbox.once(database, given, NOON, fails)
    assert effects(database, given) == 0
    assert database["inbox"].find_one({"_id": given["id"]}) is None
    assert once(database, given) is True
    assert effects(database, given) == 1


def test_a_duplicate_of_the_effects_own_is_an_error_and_no_repetition(database: Database[Document]) -> None:
    taken, given = ids.new(), written()
    assert once(database, written(), taken)
    with pytest.raises(DuplicateKeyError):
        once(database, given, taken)
    assert once(database, given) is True


def test_rows_are_kept_longer_than_a_year(database: Database[Document]) -> None:
    keep = database["inbox"].index_information()["keep"]
    assert keep["key"] == [("at", 1)]
    assert keep["expireAfterSeconds"] > 366 * 86400
