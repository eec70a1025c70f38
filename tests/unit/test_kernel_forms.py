"""Forms: read strictly, and taken from pages of ours only."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marshmallow import Schema, fields
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request

from services.kernel import forms
from services.kernel.auth import Actor
from services.kernel.errors import BadRequest, EStationError, Forbidden, Invalid, UnsupportedMediaType

ORIGIN = "https://e.example"


class Colours(Schema):
    """A form with a list."""

    name = fields.String()
    colour = fields.List(fields.String())


def read(text: str) -> forms.Given:
    """A form's body."""
    return forms.read(forms.FORM, text.encode())


def test_fields_lists_and_hidden_ones_come_apart() -> None:
    given_ = read("name=%E6%9D%8E+%2B&colour=red&colour=blue&csrf=c&idempotency_key=k")
    assert (given_.csrf, given_.key) == ("c", "k")
    assert given_.values(Colours()) == {"name": "李 +", "colour": ["red", "blue"]}
    assert given_.typed == {"name": "李 +", "colour": "red"}


def test_a_blank_field_was_not_filled_in_but_is_shown_again() -> None:
    given_ = read("name=&colour=")
    assert given_.values(Colours()) == {"colour": []}
    assert given_.typed == {"name": "", "colour": ""}


@pytest.mark.parametrize("body", ["name=a&name=b", "name=&name=b", "other=1&other=2"])
def test_a_field_given_twice_is_refused_where_it_is_no_list(body: str) -> None:
    with pytest.raises(Invalid) as refused:
        read(body).values(Colours())
    assert [error.code for error in refused.value.errors] == ["given_twice"]


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"name=%ff", "bad_utf8"),
        (b"name=\xe6", "bad_utf8"),
        (b"csrf=a&csrf=b", "bad_request"),
        (b"idempotency_key=a&idempotency_key=b", "bad_request"),
        (b"&".join(b"a=1" for _ in range(forms.FIELDS_MAX + 1)), "bad_request"),
    ],
)
def test_what_is_no_form_is_refused(raw: bytes, code: str) -> None:
    with pytest.raises(BadRequest) as refused:
        forms.read(forms.FORM, raw)
    assert refused.value.code == code


@pytest.mark.parametrize("media_type", ["application/json", "multipart/form-data", "text/plain", ""])
def test_another_media_type_is_refused(media_type: str) -> None:
    with pytest.raises(UnsupportedMediaType):
        forms.read(media_type, b"name=a")


@given(st.binary(max_size=200))
def test_whatever_is_sent_is_read_or_refused(raw: bytes) -> None:
    status = 200
    try:
        forms.read(forms.FORM, raw).values(Colours())
    except EStationError as error:
        status = error.status
    assert status in {200, 400, 422}


LOGIN = Actor("a", "person", session="s", csrf="the-token")
PROGRAM = Actor("a", "person")


def sent(method: str = "POST", **headers: str) -> Request:
    """A request with headers; ``_`` stands for ``-``."""
    named: Any = {name.replace("_", "-"): text for name, text in headers.items()}
    return Request(EnvironBuilder(method=method, headers=named).get_environ())


def passes(request: Request, actor: Actor | None, csrf: str | None = None, *, form: bool = True) -> bool:
    """Whether the request is taken."""
    try:
        forms.refuse_forgery(request, actor, forms.Given(csrf=csrf), ORIGIN, form=form)
    except Forbidden as error:
        return error.code != "csrf"
    return True


def test_our_page_with_the_accounts_token_is_taken() -> None:
    assert passes(sent(Origin=ORIGIN), LOGIN, "the-token")
    assert passes(sent(Referer=ORIGIN + "/people/sessions?a=1"), LOGIN, "the-token")
    assert passes(sent(Origin=ORIGIN, X_CSRF_Token="the-token"), LOGIN, form=False)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "null"},
        {"Origin": "https://evil.example"},
        {"Origin": "http://e.example"},
        {"Origin": "https://e.example:444"},
        {"Origin": "https://e.example.evil.example"},
        {"Referer": "https://evil.example/?https://e.example/"},
        {"Referer": "https://[evil"},
        {"Origin": "https://evil.example", "Referer": ORIGIN + "/"},
    ],
)
def test_a_login_is_not_used_from_elsewhere_even_with_the_token(headers: dict[str, str]) -> None:
    assert not passes(sent(**headers), LOGIN, "the-token")
    assert not passes(sent(**headers, X_CSRF_Token="the-token"), LOGIN, form=False)


@pytest.mark.parametrize("token", [None, "", "another", "the-toke", "泰"])
def test_a_login_is_not_used_without_its_accounts_token(token: str | None) -> None:
    assert not passes(sent(Origin=ORIGIN), LOGIN, token)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "POST"])
def test_every_method_that_changes_something_is_looked_at(method: str) -> None:
    assert not passes(sent(method), LOGIN, form=False)
    assert passes(sent(method), PROGRAM, form=False), "no browser sends a program's token along"


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_reading_needs_nothing(method: str) -> None:
    assert passes(sent(method, Origin="https://evil.example"), LOGIN)


def test_a_form_without_a_login_is_refused_from_elsewhere_only() -> None:
    assert passes(sent(), None)
    assert passes(sent(Origin=ORIGIN), None)
    assert not passes(sent(Origin="https://evil.example"), None)
    assert not passes(sent(Origin="null"), None)
