"""The application object of the metrics service: its plans beside what every service has."""

from collections.abc import Collection

from pymongo.database import Database

from services.kernel import clock
from services.kernel.app import BaseApp
from services.kernel.mongo import Document
from services.kernel.settings import Settings
from services.metrics import store
from services.metrics.plan import Plans


class Metrics(BaseApp):
    """Figures and plans."""

    name = "metrics"

    def __init__(self, settings: Settings, database: Database[Document], now: clock.Clock = clock.now) -> None:
        super().__init__(settings, database, now)
        self.plans = Plans()

    def revoked_sessions(self) -> Collection[str]:
        """The logins that have ended lately; the aggregator has written them down with everything else."""
        return store.revoked_sessions(self.database, self.clock())
