"""SIGTERM under load: no request is cut, no finished work comes again."""

from dataclasses import replace

import pytest

from deploy.commands.simulate import LOST, REFUSED
from tests.faults.conftest import Scale
from tests.faults.rig import HABITS, Rig


@pytest.mark.timeout(1800)
def test_sigterm_under_load_cuts_no_request_and_repeats_no_finished_work(rig: Rig, scale: Scale) -> None:
    """Devices post straight to the service: between them and it, the edge would hide what is cut."""
    names = ["stations", "metrics", "relay-stations", "aggregator"] * scale.terms
    rig.dice.shuffle(names)
    batches = len(_batches(rig))
    faults = dict(rig.ledger.faults)
    rig.start_fleet(
        replace(HABITS, offline_share=0.0, wrong_clock=0.0), edge=f"http://127.0.0.1:{rig.place.ports['stations']}"
    )
    for name in names:
        rig.await_traffic(rig.dice.randint(5, 40))
        rig.restart(name)
    rig.settle()
    new = {what: count - faults.get(what, 0) for what, count in rig.ledger.faults.items()}
    cut = {what: count for what, count in new.items() if count and what not in (LOST, REFUSED)}
    assert not cut, f"requests were cut: {cut}; seed {rig.seed}"
    repeated = [line for line in _batches(rig)[batches:] if line["duplicates"]]
    assert not repeated, f"finished work came again: {repeated}; seed {rig.seed}"


def _batches(rig: Rig) -> list[dict[str, int]]:
    return [line for line in rig.log("aggregator") if line.get("event") == "batch_applied"]
