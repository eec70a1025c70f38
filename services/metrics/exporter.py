"""The business figures for Prometheus, read at every scrape: a bounded number of documents and of label sets."""

from collections.abc import Iterable
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from pymongo.database import Database
from pymongo.errors import PyMongoError

from services.kernel import clock, logging
from services.kernel.mongo import Document
from services.metrics import store
from services.metrics.figures import Knowledge, figures, levels
from services.metrics.plan import Plans

PREFIX: Final = "estation_"


class PlanCollector(Collector):
    """Plan, measures and freshness. Without the database there are no figures, and ``estation_exporter_up`` is 0."""

    def __init__(self, database: Database[Document], plans: Plans, now: clock.Clock) -> None:
        self._database, self._plans, self._now = database, plans, now

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not ask the database."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """All families; figures of a service that was never heard of are absent, not 0."""
        up = GaugeMetricFamily(PREFIX + "exporter_up", "1: the figures of this scrape are the database's")
        try:
            known = store.knowledge(self._database, self._now())
        except PyMongoError as error:
            logging.get().warning("figures_not_read", exc_info=error)
            up.add_metric([], 0)
            return [up]
        up.add_metric([], 1)
        return [up, *self._plan(known), _measures(known), *_freshness(known)]

    def _plan(self, known: Knowledge) -> Iterable[Metric]:
        target = GaugeMetricFamily(PREFIX + "plan_target", "What the year's plan promises", labels=["key", "year"])
        actual = GaugeMetricFamily(
            PREFIX + "plan_actual", "What was reached of it so far", labels=["key", "county", "year"]
        )
        this_year = known.this_year
        for year in self._plans.years(this_year):
            plan = self._plans.of(year, this_year)
            for figure in figures(plan, known) if plan else ():
                if figure.row.target is not None:
                    target.add_metric([figure.row.key, str(year)], figure.row.target)
                for county, value in (figure.by_county or {}).items():
                    actual.add_metric([figure.row.key, county, str(year)], value)
        return target, actual


def _measures(known: Knowledge) -> Metric:
    family = GaugeMetricFamily(
        PREFIX + "measure",
        "A measure in a year; of a level, where it stood at the year's end or stands now",
        labels=["measure", "programme", "county", "year"],
    )
    for cell, value in levels(known).items():
        family.add_metric(list(cell), value)
    return family


def _freshness(known: Knowledge) -> Iterable[Metric]:
    heard = GaugeMetricFamily(
        PREFIX + "freshness_seconds", "Since the newest fact that a service has told", labels=["service"]
    )
    for service, at in known.heard.items():
        heard.add_metric([service], max(0.0, (known.now - at).total_seconds()))
    lag = GaugeMetricFamily(PREFIX + "figures_lag_seconds", "Since the aggregator last saw its inbox empty")
    if known.current_at is not None:
        lag.add_metric([], max(0.0, (known.now - known.current_at).total_seconds()))
    return heard, lag
