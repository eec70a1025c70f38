"""Shapes of the people service's HTTP input and output, and the words for its codes."""

from collections.abc import Mapping
from typing import Any, Final

from marshmallow import EXCLUDE, ValidationError, fields, pre_load, validate, validates_schema

from contracts import roles
from contracts.codes import PLACES, REPORTING_UNITS
from services.kernel import personal
from services.kernel.fields import In, Out, choice, number, text, uuid_text
from services.kernel.http import Page, ReadQuery
from services.kernel.messages import Message
from services.people import rules

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
    "identity_in_use": Message(
        "该身份证号已用于另一账号，请携带证件到柜台办理。",
        "Another account has this ID number; please bring your card to a counter.",
    ),
    "identity_verified": Message(
        "身份已经核实，不能从账号中取出号码。", "The identity is verified: its number stays in the account."
    ),
    "identity_missing": Message("请先填写身份信息。", "Please say who you are first."),
    "consent_required": Message("需要您同意才能保存。", "It can be kept only with your consent."),
    "child_known": Message("该子女已在您的名下。", "This child is in your account already."),
    "too_many": Message("数量已达上限。", "There are as many as there may be."),
    "age_out_of_range": Message("年龄不符合要求。", "The age is out of range."),
    "exactly_one": Message("请只填写一项。", "Please fill in exactly one."),
    "separation_of_duties": Message("不能由本人办理自己的事项。", "Nobody handles a matter of their own."),
    "terms_not_accepted": Message("请阅读并同意服务条款。", "Please read and accept the terms."),
}


def _ticked(code: str) -> fields.Boolean:
    """A box of a page's form that has to be ticked; else ``code``."""
    return fields.Boolean(
        required=True,
        truthy={"yes"},
        falsy={"no"},
        validate=validate.Equal(True, error=code),
        error_messages={"required": code},
    )


class PersonIn(In):
    """Who one is, and that it may be kept for that."""

    name = personal.PersonName(required=True)
    id_number = personal.IdNumber(required=True)
    phone = personal.Phone(mobile=True, required=True)
    consent = fields.Boolean(required=True, truthy={True}, falsy={False})


class PersonForm(PersonIn):
    """The same, as a page's form."""

    consent = _ticked("consent_required")


class ChildIn(In):
    """A child of one's own, and that it may be kept."""

    name = personal.PersonName(required=True)
    id_number = personal.IdNumber(required=True)
    consent = fields.Boolean(required=True, truthy={True}, falsy={False})


class ChildForm(ChildIn):
    """The same, as a page's form."""

    consent = _ticked("consent_required")


class ConsentForm(In):
    """Yes, or no longer."""

    agree = fields.Boolean(required=True, truthy={"yes"}, falsy={"no"})


class EraseForm(In):
    """That one means it."""

    sure = _ticked("required")


class FindIn(In):
    """Exactly one of them."""

    name = personal.PersonName()
    id_number = personal.IdNumber()
    phone = personal.Phone()

    @validates_schema
    def _one(self, data: Mapping[str, Any], **_kwargs: Any) -> None:
        if len(data) != 1:
            raise ValidationError("exactly_one", "name")


class FindForm(FindIn):
    """The same, as a page's form: what was left empty was not given."""

    @pre_load
    def _filled(self, data: Mapping[str, Any], **_kwargs: Any) -> dict[str, Any]:
        return {name: value for name, value in data.items() if value != ""}


class ConsentOut(Out):
    """What was agreed to."""

    purpose = fields.String(required=True)
    version = fields.String(required=True)
    at = fields.DateTime(required=True)
    by = fields.String(required=True)
    until = fields.DateTime(load_default=None)


class PersonOut(Out):
    """Who somebody is, masked where that suffices; ``id`` is the account's, null where nobody said."""

    id = fields.String(attribute="_id", required=True, allow_none=True)
    county = fields.String(required=True, allow_none=True)
    name = fields.String(required=True, allow_none=True)
    id_number = fields.String(required=True, allow_none=True)
    phone = fields.String(required=True, allow_none=True)
    verified_at = fields.DateTime(required=True, allow_none=True)
    rev = fields.Integer(required=True, allow_none=True)
    consents = fields.List(fields.Nested(ConsentOut), required=True)


class PersonsOut(Out):
    """Who was found, by name; ``more``: not all of them, look by something that fewer have."""

    items = fields.List(fields.Nested(PersonOut), required=True)
    more = fields.Boolean(required=True)


class ChildOut(Out):
    """A child of one's own; the ID number masked."""

    id = fields.String(attribute="_id", required=True)
    name = fields.String(required=True, allow_none=True)
    id_number = fields.String(required=True, allow_none=True)


class ChildrenOut(Out):
    """One's own children."""

    items = fields.List(fields.Nested(ChildOut), required=True)


class NoticeFilter(Page):
    """Which notices of a district."""

    account = fields.String(validate=uuid_text)
    state = choice(rules.MESSAGE_STATES)


class NoticeOut(Out):
    """A notice to oneself."""

    id = fields.String(attribute="_id", required=True)
    template = fields.String(required=True)
    text = fields.String(required=True)
    at = fields.DateTime(required=True)
    read_at = fields.DateTime(required=True, allow_none=True)


class MessageOut(Out):
    """The way of a notice out of the house by one channel."""

    channel = fields.String(required=True)
    state = fields.String(required=True)
    tries = fields.Integer(required=True)
    due = fields.DateTime(required=True, allow_none=True)
    reason = fields.String(required=True, allow_none=True)


class DeliveryOut(Out):
    """A notice as officers see it: not its words."""

    id = fields.String(attribute="_id", required=True)
    account = fields.String(required=True)
    county = fields.String(required=True)
    template = fields.String(required=True)
    at = fields.DateTime(required=True)
    read_at = fields.DateTime(required=True, allow_none=True)
    messages = fields.List(fields.Nested(MessageOut), required=True)


class ReadOut(Out):
    """How many notices were new."""

    read = fields.Integer(required=True)


class HeldOut(Out):
    """Something that law keeps, through the day ``until``; null where that has no end, for it names nobody."""

    what = fields.String(required=True)
    until = fields.String(required=True, allow_none=True, dump_default=None)


class ErasureOut(Out):
    """What became of an erasure: which services have not confirmed, what law keeps and until when."""

    id = fields.String(attribute="_id", required=True)
    state = fields.String(required=True)
    requested_at = fields.DateTime(required=True)
    due = fields.String(required=True)
    waits = fields.List(fields.String(), required=True)
    held = fields.List(fields.Nested(HeldOut), required=True)


class ReasonIn(In):
    """Why; it must name nobody."""

    reason = text(2, 200, required=True)


class VerifyIn(ReasonIn):
    """Why, and which version of the person was held against the card."""

    rev = number(1, 10**9, required=True)


class VerifyForm(ReasonIn):
    """The same, as a page's form."""

    rev = fields.Integer(required=True)


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
    terms = _ticked("terms_not_accepted")


class NothingIn(In):
    """A form with a button only."""


class GrantIn(ReasonIn):
    """A role over a district."""

    role = choice(roles.GRANTED, required=True)
    scope = choice(PLACES, required=True)


class AccountFilter(Page):
    """Which accounts."""

    county = choice(REPORTING_UNITS)
    role = choice(roles.GRANTED)


class AccountQuery(AccountFilter):
    """The same, as a page's filters: what was left open was not given."""

    @pre_load
    def _filled(self, data: Mapping[str, Any], **_kwargs: Any) -> dict[str, Any]:
        return {name: value for name, value in data.items() if value != ""}


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


class LoginOut(Out):
    """A login of one's own."""

    id = fields.String(attribute="_id", required=True)
    provider = fields.String(required=True)
    state = fields.String(required=True)
    opened_at = fields.DateTime(required=True)
    seen_at = fields.DateTime(required=True)


class SessionOut(LoginOut):
    """The same, and whether it is this one."""

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


class TermsOut(Out):
    """The terms that an account agreed to."""

    version = fields.String(required=True)
    at = fields.DateTime(required=True)


class LookOut(Out):
    """A look at one's data by an officer or a counter: over which district, what was shown, why."""

    at = fields.DateTime(required=True)
    action = fields.String(required=True)
    scope = fields.String(required=True)
    fields_ = fields.List(fields.String(), attribute="fields", data_key="fields", required=True)
    reason = fields.String(required=True)


class ToldOut(NoticeOut):
    """A notice, and how it left the house."""

    messages = fields.List(fields.Nested(MessageOut), required=True)


class ExportOut(Out):
    """All that the service keeps of somebody, in full."""

    account = fields.Nested(AccountOut, required=True)
    terms = fields.Nested(TermsOut, required=True)
    person = fields.Nested(PersonOut, required=True, allow_none=True)
    children = fields.List(fields.Nested(ChildOut), required=True)
    sessions = fields.List(fields.Nested(LoginOut), required=True)
    notices = fields.List(fields.Nested(ToldOut), required=True)
    looks = fields.List(fields.Nested(LookOut), required=True)
    exported_on = fields.String(required=True)


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
