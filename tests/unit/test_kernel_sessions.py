"""A process's copy of the logins that have ended: fresh enough, asked seldom, never guessed."""

from collections.abc import Collection

import pytest

from contracts.catalogue import CATALOGUE
from deploy.run import SERVICES
from services.kernel.auth import TOKEN_SECONDS, Actor
from services.kernel.errors import Unauthenticated
from services.kernel.sessions import KEEP_SECONDS, REFRESH_SECONDS, RevokedSessions


class Source:
    """What is noted, how often it was read, and a clock."""

    def __init__(self) -> None:
        self.noted: set[str] = set()
        self.reads, self.now = 0, 1000.0

    def read(self) -> Collection[str]:
        """All that is noted."""
        self.reads += 1
        return set(self.noted)

    def copy(self) -> RevokedSessions:
        """A process's copy."""
        return RevokedSessions(self.read, lambda: self.now)


def of_login(session: str) -> Actor:
    """Somebody with a token of a login."""
    return Actor("a", "person", session=session)


def test_an_ended_login_is_refused_and_others_go_on() -> None:
    source = Source()
    source.noted.add("ended")
    copy = source.copy()
    copy.refuse(of_login("alive"))
    with pytest.raises(Unauthenticated):
        copy.refuse(of_login("ended"))


def test_it_is_heard_of_within_the_refresh_and_not_asked_for_in_between() -> None:
    source = Source()
    copy = source.copy()
    copy.refuse(of_login("s"))
    source.noted.add("s")
    source.now += REFRESH_SECONDS - 0.1
    copy.refuse(of_login("s"))
    assert source.reads == 1
    source.now += 0.1
    with pytest.raises(Unauthenticated):
        copy.refuse(of_login("s"))
    assert source.reads == 2


def test_a_token_without_a_login_asks_nobody() -> None:
    source = Source()
    source.copy().refuse(of_login(""))
    assert source.reads == 0


def test_when_nobody_can_say_no_token_is_believed() -> None:
    def away() -> Collection[str]:
        raise TimeoutError

    copy = RevokedSessions(away)
    for _time in range(2):
        with pytest.raises(TimeoutError):
            copy.refuse(of_login("s"))


def test_it_is_kept_until_no_token_can_be_good_any_more_and_effective_within_a_minute() -> None:
    assert KEEP_SECONDS > TOKEN_SECONDS
    assert REFRESH_SECONDS <= 15


def test_every_service_that_takes_tokens_hears_of_ended_logins() -> None:
    told = CATALOGUE["people.session_revoked.v1"].consumers
    assert set(SERVICES) - {"people"} <= set(told), "people itself looks at its sessions"
