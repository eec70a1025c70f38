"""Shapes of the people service's HTTP input and output, and the words for its codes."""

from typing import Final

from marshmallow import EXCLUDE, fields, validate

from contracts import roles
from contracts.codes import PLACES, REPORTING_UNITS
from services.kernel.fields import In, Out, choice, text
from services.kernel.http import Page, ReadQuery
from services.kernel.messages import Message

MESSAGES: Final = {
    "login_failed": Message("登录没有完成，请重新登录。", "The login was not completed; please log in again."),
    "login_expired": Message("登录已超时，请重新登录。", "The login took too long; please log in again."),
    "provider_away": Message("登录服务暂时没有响应，请稍后再试。", "The provider does not answer; try again later."),
    "already_granted": Message("此人已有该角色。", "This person has the role already."),
    "not_granted": Message("此人没有该角色。", "This person does not have the role."),
    "other_district": Message(
        "此人的其他角色属于另一地区，须先撤销。",
        "Other roles of this person are over another district; end those first.",
    ),
    "not_to_oneself": Message("不能为自己授予或撤销角色。", "Nobody grants or ends roles of their own."),
    "not_for_this_role": Message("该角色不能授予此地区。", "The role is not held over such a district."),
    "terms_not_accepted": Message("请阅读并同意服务条款。", "Please read and accept the terms."),
}


class LoginQuery(ReadQuery):
    """Where to go on after the login."""

    next = fields.String(load_default="/", validate=validate.Length(max=2000, error="bad_length_of_text"))


class CallbackQuery(ReadQuery):
    """What a provider sends back; it may add what it likes."""

    class Meta:
        """Ignores what it does not know."""

        unknown = EXCLUDE

    code = fields.String(validate=validate.Length(max=4096, error="bad_length_of_text"))
    state = fields.String(validate=validate.Length(max=512, error="bad_length_of_text"))
    iss = fields.String(validate=validate.Length(max=512, error="bad_length_of_text"))


class TicketQuery(ReadQuery):
    """Which registration."""

    ticket = fields.String(required=True, validate=validate.Length(max=100, error="bad_length_of_text"))


class RegistrationIn(In):
    """The form of a first login."""

    ticket = fields.String(required=True, validate=validate.Length(max=100, error="bad_length_of_text"))
    county = choice(REPORTING_UNITS, required=True)
    parent = fields.Boolean(load_default=False, truthy={"yes"}, falsy={"no"})
    terms = fields.Boolean(
        required=True,
        truthy={"yes"},
        falsy={"no"},
        validate=validate.Equal(True, error="terms_not_accepted"),
        error_messages={"required": "terms_not_accepted"},
    )


class NothingIn(In):
    """A form with a button only."""


class ReasonIn(In):
    """Why; it must name nobody."""

    reason = text(2, 200, required=True)


class GrantIn(ReasonIn):
    """A role over a district."""

    role = choice(roles.GRANTED, required=True)
    scope = choice(PLACES, required=True)


class AccountFilter(Page):
    """Which accounts."""

    county = choice(REPORTING_UNITS)
    role = choice(roles.GRANTED)


class GrantOut(Out):
    """A role that was granted."""

    role = fields.String(required=True)
    scope = fields.String(required=True)
    since = fields.DateTime(required=True)


class AccountOut(Out):
    """An account, as officers see it: nobody's name."""

    id = fields.String(attribute="_id", required=True)
    county = fields.String(required=True)
    declared = fields.List(fields.String(), required=True)
    grants = fields.List(fields.Nested(GrantOut), required=True)
    rev = fields.Integer(required=True)


class MeOut(Out):
    """Who is asking, as the token says."""

    id = fields.String(required=True)
    roles = fields.List(fields.String(), required=True)
    scope = fields.String(required=True)
    session = fields.String(required=True, allow_none=True)


class SessionOut(Out):
    """A login of one's own."""

    id = fields.String(attribute="_id", required=True)
    provider = fields.String(required=True)
    state = fields.String(required=True)
    opened_at = fields.DateTime(required=True)
    seen_at = fields.DateTime(required=True)
    current = fields.Boolean(required=True)


class SessionsOut(Out):
    """One's own logins, oldest first."""

    items = fields.List(fields.Nested(SessionOut), required=True)


class EndedOut(Out):
    """How many logins were ended."""

    ended = fields.Integer(required=True)


class JwksOut(Out):
    """A key set (RFC 7517)."""

    keys = fields.List(fields.Dict(), required=True)


class DemoQuery(ReadQuery):
    """What the login page sends to the demo issuer; ``person``: who was chosen there."""

    client_id = fields.String(required=True)
    redirect_uri = fields.String(required=True)
    response_type = fields.String(required=True)
    scope = fields.String(load_default="openid")
    state = fields.String(required=True, validate=validate.Length(max=512, error="bad_length_of_text"))
    nonce = fields.String(required=True, validate=validate.Length(max=512, error="bad_length_of_text"))
    code_challenge = fields.String(required=True, validate=validate.Length(max=128, error="bad_length_of_text"))
    code_challenge_method = fields.String(required=True)
    person = fields.String(validate=validate.Regexp(r"^demo-[a-z0-9-]{1,60}\Z", error="bad_format"))


class DemoCodeIn(In):
    """The token request of RFC 6749 with PKCE."""

    grant_type = fields.String(required=True, validate=validate.Equal("authorization_code", error="not_a_choice"))
    code = fields.String(required=True)
    code_verifier = fields.String(required=True)
    client_id = fields.String(required=True)
    redirect_uri = fields.String(required=True)


class DemoAccountsOut(Out):
    """How many accounts there are."""

    accounts = fields.Integer(required=True)
