"""What officers do with accounts, which name nobody: see them, grant roles, take those back, end logins."""

from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlencode

from contracts.codes import DISTRICTS
from contracts.roles import GRANTED, OFFICERS, ROLES, Role, may_grant
from services.kernel import web
from services.kernel.errors import Conflict, EStationError, Forbidden, Invalid
from services.kernel.fields import page_of
from services.kernel.http import HTML, Answer, Call, endpoint, found
from services.kernel.mongo import Document
from services.people import schemas
from services.people.entry import BASE, ID, act, choices, see_other
from services.people.handlers import grants, logins

ROLE: Final = f"<any({', '.join(GRANTED)}):role>"
ACCOUNTS_PAGE: Final = "/people/accounts"


def accounts_of(call: Call) -> tuple[list[Document], str | None]:
    """The accounts that the query asks for, and where the next page begins."""
    named = {"county": "county", "role": "grants__role"}
    where = {field: call.query[name] for name, field in named.items() if name in call.query}
    rows, following = call.app.store.accounts(
        call.caller, limit=call.query["limit"], cursor=call.query["cursor"], where=where
    )
    return rows, following


def account_page(call: Call, error: EStationError | None = None) -> Answer:
    """An account, what it may be made, and what can be taken back; ``error``: what is wrong with what was typed."""
    caller, account = call.caller, call.app.store.account(call.path["id"], call.caller)
    grantable = [
        (role, [place for place in ROLES[role].over if may_grant(caller.roles, caller.scope, role, place)])
        for role in GRANTED
    ]
    return web.page(
        call,
        "account.html",
        status=error.status if error else 200,
        form=web.form(call, call.typed, error),
        account=account,
        own=account["_id"] == caller.id,
        roles=ROLES,
        districts=DISTRICTS,
        mine=[
            one["role"] for one in account["grants"] if may_grant(caller.roles, caller.scope, one["role"], one["scope"])
        ],
        role_choices=choices(call, ROLES, [role for role, places in grantable if places]),
        place_choices=choices(
            call, DISTRICTS, [one for one in DISTRICTS if any(one in places for _role, places in grantable)]
        ),
    )


def ending_page(call: Call, error: EStationError | None = None) -> Answer:
    """The step before a role, or all logins, of somebody end; ``error``: what is wrong with what was typed."""
    role = call.path.get("role")
    return web.page(
        call,
        "account_end.html",
        status=error.status if error else 200,
        form=web.form(call, call.typed, error),
        account=call.app.store.account(call.path["id"], call.caller),
        role=ROLES[Role(role)] if role else None,
        action=call.url.partition("?")[0],
    )


def grant(call: Call) -> Document:
    """Makes somebody something; the account."""
    given = call.body
    return grants.grant_role(
        call.app.store,
        call.app.vault,
        act(call),
        call.path["id"],
        given["role"],
        given["scope"],
        given["reason"],
    )


def withdraw(call: Call) -> Document:
    """Takes a role back; the account."""
    return grants.withdraw_role(call.app.store, act(call), call.path["id"], call.path["role"], call.body["reason"])


def sign_out(call: Call) -> int:
    """Ends all logins of somebody; how many."""
    return logins.sign_out(call.app.store, act(call), call.path["id"], call.body["reason"])


def done(call: Call, work: Callable[[Call], object], form: Callable[[Call, EStationError], Answer]) -> Answer:
    """Does what a form asks for and goes back to the account; the form again where that cannot be."""
    if call.invalid is not None:
        return form(call, call.invalid)
    try:
        work(call)
    except (Conflict, Forbidden, Invalid) as error:
        return form(call, error)
    return see_other(f"{ACCOUNTS_PAGE}/{call.path['id']}")


class Accounts:
    """Entry points of accounts and their roles."""

    app: Any

    @endpoint(
        "GET",
        f"{BASE}/accounts",
        "Accounts of your district",
        query=schemas.AccountFilter,
        answers={200: page_of(schemas.AccountOut)},
        roles=OFFICERS,
    )
    def get_accounts(self, call: Call) -> Answer:
        rows, following = accounts_of(call)
        return Answer({"items": schemas.AccountOut(many=True).dump(rows), "next": following})

    @endpoint("GET", f"{BASE}/accounts/{ID}", "One account", answers={200: schemas.AccountOut}, roles=OFFICERS)
    def get_account(self, call: Call) -> Answer:
        account = call.app.store.account(call.path["id"], call.caller)
        return found(schemas.AccountOut().dump(account), account["rev"])

    @endpoint(
        "POST",
        f"{BASE}/accounts/{ID}/grants",
        "Grant a role at or below your own district, never to yourself",
        body=schemas.GrantIn,
        answers={200: schemas.AccountOut},
        roles=OFFICERS,
        conflicts=(409,),
    )
    def post_grants(self, call: Call) -> Answer:
        account = grant(call)
        return found(schemas.AccountOut().dump(account), account["rev"])

    @endpoint(
        "POST",
        f"{BASE}/accounts/{ID}/grants/{ROLE}/withdraw",
        "End a role that was granted",
        body=schemas.ReasonIn,
        answers={200: schemas.AccountOut},
        roles=OFFICERS,
        conflicts=(409,),
    )
    def post_withdraw(self, call: Call) -> Answer:
        account = withdraw(call)
        return found(schemas.AccountOut().dump(account), account["rev"])

    @endpoint(
        "POST",
        f"{BASE}/accounts/{ID}/sign-out",
        "End all logins of somebody who is no more than you could have made them",
        body=schemas.ReasonIn,
        answers={200: schemas.EndedOut},
        roles=OFFICERS,
    )
    def post_sign_out(self, call: Call) -> Answer:
        return Answer(schemas.EndedOut().dump({"ended": sign_out(call)}))

    @endpoint(
        "GET",
        ACCOUNTS_PAGE,
        "Accounts and roles of your district",
        query=schemas.AccountQuery,
        answers={200: None},
        roles=OFFICERS,
        media_type=HTML,
    )
    def get_accounts_page(self, call: Call) -> Answer:
        rows, following = accounts_of(call)
        asked = {name: call.query[name] for name in ("role", "county") if name in call.query}
        return web.page(
            call,
            "accounts.html",
            accounts=rows,
            first=f"{ACCOUNTS_PAGE}?{urlencode(asked)}" if call.query["cursor"] else None,
            following=f"{ACCOUNTS_PAGE}?{urlencode({**asked, 'cursor': following})}" if following else None,
            roles=ROLES,
            districts=DISTRICTS,
            role_choices=choices(call, ROLES, GRANTED),
            place_choices=choices(call, DISTRICTS, call.caller.counties),
            form=web.form(call, asked),
        )

    @endpoint("GET", f"{ACCOUNTS_PAGE}/{ID}", "One account", answers={200: None}, roles=OFFICERS, media_type=HTML)
    def get_account_page(self, call: Call) -> Answer:
        return account_page(call)

    @endpoint(
        "POST",
        f"{ACCOUNTS_PAGE}/{ID}/grants",
        "Grant a role",
        body=schemas.GrantIn,
        form=True,
        answers={303: None},
        roles=OFFICERS,
        conflicts=(409,),
        media_type=HTML,
    )
    def post_grants_page(self, call: Call) -> Answer:
        return done(call, grant, account_page)

    @endpoint(
        "GET",
        f"{ACCOUNTS_PAGE}/{ID}/grants/{ROLE}/withdraw",
        "End a role?",
        answers={200: None},
        roles=OFFICERS,
        media_type=HTML,
    )
    def get_withdraw_page(self, call: Call) -> Answer:
        return ending_page(call)

    @endpoint(
        "POST",
        f"{ACCOUNTS_PAGE}/{ID}/grants/{ROLE}/withdraw",
        "End a role that was granted",
        body=schemas.ReasonIn,
        form=True,
        answers={303: None},
        roles=OFFICERS,
        conflicts=(409,),
        media_type=HTML,
    )
    def post_withdraw_page(self, call: Call) -> Answer:
        return done(call, withdraw, ending_page)

    @endpoint(
        "GET",
        f"{ACCOUNTS_PAGE}/{ID}/sign-out",
        "End all logins of somebody?",
        answers={200: None},
        roles=OFFICERS,
        media_type=HTML,
    )
    def get_sign_out_page(self, call: Call) -> Answer:
        return ending_page(call)

    @endpoint(
        "POST",
        f"{ACCOUNTS_PAGE}/{ID}/sign-out",
        "End all logins of somebody",
        body=schemas.ReasonIn,
        form=True,
        answers={303: None},
        roles=OFFICERS,
        conflicts=(409,),
        media_type=HTML,
    )
    def post_sign_out_page(self, call: Call) -> Answer:
        return done(call, sign_out, ending_page)
