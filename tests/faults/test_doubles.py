"""Two relays, two aggregators: started by mistake, or woken up with an old belief."""

import os
import signal

import pytest

from tests.faults.conftest import Scale
from tests.faults.rig import Rig
from tests.parts import until


@pytest.mark.timeout(900)
def test_two_relays_and_two_aggregators_have_no_double_effect(rig: Rig, scale: Scale) -> None:
    with rig.doubled("relay-stations"), rig.doubled("aggregator"):
        rig.start_fleet()
        for name in ("relay-stations", "aggregator", "relay-stations"):
            rig.await_traffic(scale.posts // 3)
            rig.await_healed(name, rig.kill(name))
        rig.await_traffic(scale.posts // 3)
        rig.settle()
    rig.await_well()


@pytest.mark.timeout(900)
def test_a_relay_that_wakes_up_with_an_old_belief_has_no_double_effect(rig: Rig, scale: Scale) -> None:
    active = 'estation_relay_active{service="stations"}'
    until(lambda: rig.samples("relay-stations")[active] == 1, "the first relay is active")
    with rig.doubled("relay-stations") as second:
        rig.start_fleet()
        rig.await_traffic(20)
        with rig.hung("relay-stations"):
            beats = rig.database("stations")["leases"]
            holder = (beats.find_one({"_id": "relay"}) or {})["holder"]
            until(lambda: (beats.find_one({"_id": "relay"}) or {})["holder"] != holder, "the second took over", 60)
            rig.say("the second relay is active")
            rig.await_traffic(20)
        rig.await_traffic(20)
        os.kill(second.pid, signal.SIGKILL)
        rig.say("kill -9 the second relay")
        rig.settle()


@pytest.mark.timeout(900)
def test_an_aggregator_that_wakes_up_with_an_old_belief_has_no_double_effect(rig: Rig, scale: Scale) -> None:
    if not scale.full:
        pytest.skip("takes the broker a minute to give up the one that hangs: `make faults` does it")
    with rig.doubled("aggregator"):
        rig.start_fleet()
        rig.await_traffic(20)
        with rig.hung("aggregator"):
            before = rig.database("metrics")["events"].count_documents({})
            until(lambda: rig.database("metrics")["events"].count_documents({}) > before + 50, "the second counts", 180)
            rig.say("the second aggregator counts")
        rig.await_traffic(20)
        rig.settle()
