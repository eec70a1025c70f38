"""Where the people service's personal data is sealed and opened: names, ID numbers, phones, and nothing else.

The person of a field is an account, also for a guardian's children: with the account's key all of it ends.
"""

from collections.abc import Sequence
from datetime import date
from typing import Final

from pymongo.database import Database

from services.kernel import crypto
from services.kernel.crypto import BlindIndex, Personal, PersonalFields, SubjectKeys
from services.kernel.erasure import FileLedger
from services.kernel.masterkeys import KeyFile
from services.kernel.mongo import Document
from services.kernel.personal import id_number
from services.kernel.settings import SettingError, Settings
from services.people import rules

NAME: Final = "people"
FIELDS: Final = {"name": Personal(index=True), "id_number": Personal(index=True), "phone": Personal(index=True)}


class Vault:
    """The personal fields of ``persons`` and ``children``, and the keys behind them."""

    def __init__(self, settings: Settings, database: Database[Document]) -> None:
        """Reads the key file.

        Raises:
            SettingError: it is missing or wrong.
        """
        self.file = KeyFile(settings.key_file(NAME), production=settings.production)
        self._federation, self._database = self.file.federation_key, database
        ledger = FileLedger(settings.erasure_ledger(NAME))
        self.keys = SubjectKeys(crypto.keys_database(settings, NAME, database), self.file, ledger)
        self.persons = self._fields("persons", "name", "id_number", "phone")
        self.children = self._fields("children", "name", "id_number")

    def _fields(self, collection: str, *names: str) -> PersonalFields:
        known = {name: FIELDS[name] for name in names}
        return PersonalFields(NAME, collection, known, keys=self.keys, index_key=self.file.index_key, subject="account")

    def index(self, field: str) -> BlindIndex:
        """A keyed index of accounts for what is no personal field: logins, form tokens."""
        return BlindIndex(self.file.index_key, NAME, "accounts", field)

    def ref(self, number: str) -> str:
        """The person_ref of an ID number in its normal form."""
        return crypto.person_ref(self._federation, id_number(number, date.max))

    def shred(self, account: str) -> int:
        """Destroys an account's key, then clears its fields; in how many documents there was something."""
        self.keys.shred(account)
        return self.forget([account])

    def replay(self) -> int:
        """Erases again whom a restored backup brought back; how many keys that destroyed.

        Raises:
            LedgerUnreadable: the ledger is missing or damaged.
        """
        return self.keys.replay(self.forget)

    def forget(self, accounts: Sequence[str]) -> int:
        """Clears what documents hold of these accounts; in how many personal fields there was something."""
        forgotten = self.persons.forget(self._database["persons"], accounts)
        forgotten += self.children.forget(self._database["children"], accounts)
        for collection in ("persons", "children"):
            # a person_ref is a keyed hash of the ID number: it goes with it
            self._database[collection].update_many(
                {"account": {"$in": list(accounts)}, "ref": {"$type": "string"}}, {"$set": {"ref": None}}
            )
        self._database["children"].update_many(
            {"account": {"$in": list(accounts)}, "idempotency": {"$exists": True}}, {"$unset": {"idempotency": ""}}
        )
        self._end_accounts(list(accounts))
        return forgotten

    def _end_accounts(self, accounts: list[str]) -> None:
        """What a restored backup brought back beside the fields: nobody logs in as somebody who was erased."""
        emptied: Document = {"logins": [], "grants": [], "declared": []}
        held: list[Document] = [{name: {"$ne": []}} for name in emptied]
        self._database["accounts"].update_many(
            {"_id": {"$in": accounts}, "$or": held}, {"$set": emptied, "$inc": {"rev": 1}}
        )
        self._database["sessions"].update_many(
            {"account": {"$in": accounts}, "digest": {"$type": "string"}},
            {"$set": {"state": rules.REVOKED, "digest": None}, "$inc": {"rev": 1}},
        )
        self._database["notices"].update_many(
            {
                "account": {"$in": accounts},
                "$or": [{"params": {"$ne": {}}}, {"messages": {"$ne": []}}, {"about": {"$ne": None}}],
            },
            {"$set": {"params": {}, "messages": [], "about": None}, "$inc": {"rev": 1}},
        )


def prepare(settings: Settings, database: Database[Document]) -> None:
    """Makes indexes and an empty erasure ledger where there are none (``estation migrate``).

    Raises:
        SettingError: there are keys but no ledger: an empty one would bring erased people back after a restore.
    """
    vault = Vault(settings, database)
    ledger = settings.erasure_ledger(NAME)
    if not ledger.exists() and vault.keys.any():
        raise SettingError("ESTATION_ERASURES", f"{ledger} is missing, and there are persons: bring it back")
    vault.keys.ensure_indexes()
    vault.persons.ensure_indexes(database["persons"])
    vault.children.ensure_indexes(database["children"])
    FileLedger(ledger).create()
