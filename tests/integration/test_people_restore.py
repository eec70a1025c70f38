"""Erasure where something is missing: the ledger, the confirmation of a service."""

import subprocess
import sys

from services.people import rules, store
from tests.integration.test_people_erasure import Everything, full, traces
from tests.parts import PROJECT, World, outside
from tests.people import People


def test_a_process_without_its_ledger_does_not_start_and_one_with_it_erases_before_it_is_ready(
    world: World,
) -> None:
    with People(world) as restored:
        me = full(restored)
        left = traces(restored, me)
        everything = Everything(restored)
        backup = {name: everything.copy(name) for name in everything.names()}
        me.call("DELETE", "/me")
        restored.process.stop()
        for name, copy in backup.items():
            everything.restore(name, copy)
        ledger = restored.settings.erasure_ledger("people")
        ledger.rename(ledger.with_suffix(".away"))
        assert "ESTATION_ERASURES" in commands_of_migrate(restored)
        process = restored.process.start(ready=False)
        assert process.popen is not None
        assert process.popen.wait(30) != 0
        assert everything.holding(*left) != set()
        ledger.with_suffix(".away").rename(ledger)
        restored.process.start()
        assert everything.holding(*left) == set()


def commands_of_migrate(people: People) -> str:
    """What ``estation migrate`` says of a missing ledger."""
    environ = {**outside(), **people.world.environ("people"), **people.files}
    done = subprocess.run(
        [sys.executable, "-m", "deploy.cli", "migrate"], cwd=PROJECT, env=environ, capture_output=True, text=True
    )
    assert done.returncode != 0
    return done.stderr


def test_an_erasure_that_nobody_confirms_is_overdue(world: World) -> None:
    with People(world) as people:  # stations does not run here
        me = full(people)
        me.call("DELETE", "/me")
        assert metric(people) == 0
        people.database["erasures"].update_one({"_id": me.id}, {"$set": {"due": "2025-01-01"}})
        assert metric(people) == 1
        known = people.browser().call("GET", f"/api/v1/people/erasures/{me.id}").json
        assert (known["state"], known["waits"]) == (rules.REQUESTED, ["stations"])


def metric(people: People) -> float:
    text = people.browser().call("GET", f"http://127.0.0.1:{people.process.ops_port}/metrics").text
    [line] = [line for line in text.splitlines() if line.startswith("estation_erasures_overdue ")]
    return float(line.split()[1])


def test_an_index_of_an_earlier_version_gives_way(world: World) -> None:
    with People(world) as people:
        accounts = people.database["accounts"]
        accounts.drop_index("logins")
        accounts.create_index([("logins", 1)], name="logins", unique=True)
        store.ensure_indexes(people.database)
        known = accounts.index_information()
        assert known["logins"]["partialFilterExpression"] == {"logins": {"$gt": ""}}
        assert {"outbox", "unsealed", "idempotency"} <= set(known), "the kernel's are there again"


def test_what_the_edge_asks_with_every_request_is_found_by_an_index(world: World) -> None:
    with People(world) as people:
        people.session(people.account("370902"))
        plan = people.database["sessions"].find({"digest": "0" * 64}).explain()["queryPlanner"]["winningPlan"]
        assert "COLLSCAN" not in repr(plan)
        assert "'indexName': 'digest'" in repr(plan)
