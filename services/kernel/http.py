"""HTTP at the edge of a service: entry points, what they take and answer, drain on stop.

One decorator, :func:`endpoint`, declares everything the OpenAPI document says and everything that is checked before
a handler runs: body, query, credentials, roles, Idempotency-Key, If-Match. A handler gets a :class:`Call` and gives
an :class:`Answer`; whatever it raises becomes a problem document (RFC 9457).
"""

import contextlib
import hashlib
import hmac
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.errors import FirstHeaderLineIsContinuationDefect, MissingHeaderBodySeparatorDefect
from functools import wraps
from typing import Any, ClassVar, Final, Protocol
from urllib.parse import quote

import eventlet
import structlog
from eventlet import greenio, wsgi
from eventlet.event import Event as Settled
from marshmallow import RAISE, Schema, ValidationError, fields, validate
from nameko.extensions import DependencyProvider, Entrypoint
from nameko.web.server import WebServer
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import MethodNotAllowed as RoutedMethodNotAllowed
from werkzeug.routing import Map, Rule
from werkzeug.wrappers import Request, Response

from services.kernel import body as strict_json
from services.kernel import clock, forms, logging, messages, mongo, telemetry
from services.kernel.app import caller_address
from services.kernel.auth import Actor
from services.kernel.errors import (
    BadRequest,
    EStationError,
    FieldError,
    Forbidden,
    Invalid,
    MethodNotAllowed,
    NotFound,
    PreconditionRequired,
    TooLarge,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
    field_errors,
    shown,
)
from services.kernel.outbox import Idempotency
from services.kernel.settings import Settings

JSON: Final = "application/json"
HTML: Final = "text/html"
LOGIN_PATH: Final = "/people/login"
LANGUAGE_COOKIE: Final = "lang"
PROBLEM: Final = "application/problem+json"
BODY_BYTES: Final = 64 * 1024
LINGER_SECONDS: Final = 3.0
"""While draining, open connections may still be used that long; the edge closes its idle ones after 1 s."""
DRAIN_SECONDS: Final = 25.0
_KEY: Final = re.compile(r'^"?([A-Za-z0-9_-]{8,64})"?$')
_ETAG: Final = re.compile(r'^(?:W/)?"([0-9]{1,15})"$')
_HEADER_DEFECTS: Final = (MissingHeaderBodySeparatorDefect, FirstHeaderLineIsContinuationDefect)
Handler = Callable[..., Any]


class App(Protocol):
    """What an entry point needs of its service."""

    name: str
    settings: Settings
    clock: clock.Clock
    readiness: telemetry.Readiness

    def authenticate(self, token: str) -> Actor:
        """The actor behind a bearer token or device key; raises Unauthenticated."""

    def admit(self, actor: Actor | None, address: str, route: str) -> None:
        """Raises TooManyRequests where the caller is too fast."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request, checked."""

    app: Any
    actor: Actor | None
    path: Mapping[str, str]
    query: Mapping[str, Any]
    body: Any
    idempotency: Idempotency | None
    if_match: int | None
    language: str
    trace: str
    now: datetime
    url: str = ""
    """Path and query as they were asked for."""
    address: str = ""
    """The caller's network address."""
    cookies: Mapping[str, str] = field(default_factory=dict, repr=False)
    typed: Mapping[str, str] = field(default_factory=dict, repr=False)
    """A form's fields as they were typed, to be shown again in the answer to this same request."""
    invalid: Invalid | None = None
    """What is wrong with a form; then there is no ``body``."""

    @property
    def csrf(self) -> str | None:
        """What every form shown to this caller carries in its field ``csrf``."""
        return self.actor.csrf if self.actor else None

    @property
    def caller(self) -> Actor:
        """The actor of an entry point that demands one."""
        assert self.actor is not None
        return self.actor


@dataclass(frozen=True, slots=True)
class Answer:
    """What a handler answers: a JSON value (or ready bytes) and headers."""

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = JSON
    cookies: tuple[str, ...] = ()
    """Whole ``Set-Cookie`` headers."""


def created(body: Mapping[str, Any], location: str, rev: int) -> Answer:
    """201 with Location and ETag."""
    return Answer(body, 201, {"Location": location, "ETag": etag(rev)})


def found(body: Mapping[str, Any], rev: int) -> Answer:
    """200 with ETag."""
    return Answer(body, 200, {"ETag": etag(rev)})


def etag(rev: int) -> str:
    """The entity tag of a revision."""
    return f'"{rev}"'


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Everything said about one entry point."""

    method: str
    url: str
    summary: str
    body: type[Schema] | None = None
    query: type[Schema] | None = None
    answers: Mapping[int, type[Schema] | None] = field(default_factory=dict)
    roles: frozenset[str] | None = None
    """Roles that may call it; None: public."""
    creates: bool = False
    """Takes an Idempotency-Key, which is required."""
    edits: bool = False
    """Takes If-Match, which is required."""
    conflicts: tuple[int, ...] = ()
    """Further problem statuses of its own: 409, 410."""
    body_bytes: int = BODY_BYTES
    limited: bool = True
    form: bool = False
    """The body is a page's form, not JSON; what is wrong with it reaches the handler, which shows the form again."""
    media_type: str = JSON
    description: str = ""

    @property
    def problems(self) -> tuple[int, ...]:
        """Every status it may answer as a problem document."""
        statuses = {400, 500, 503, *self.conflicts}
        if self.limited:
            statuses.add(429)
        if self.roles is not None:
            statuses |= {401, 403}
        if self.body is not None:
            statuses |= {413, 415, 422}
        if self.query is not None:
            statuses.add(422)
        if "<" in self.url:
            statuses.add(404)
        if self.creates:
            statuses |= {409, 428}
        if self.edits:
            statuses |= {409, 412, 428}
        return tuple(sorted(statuses))


class DrainingWebServer(WebServer):
    """nameko's web server, hardened: no client can kill the container, and a stop cuts no request."""

    @property
    def sharing_key(self) -> str:
        return "estation-web"

    def __init__(self) -> None:
        super().__init__()
        self._drained: Settled | None = None

    @property
    def bind_addr(self) -> Any:
        settings = self.container.config["app"].settings
        return (settings.http_host, settings.http_port)

    def get_wsgi_app(self) -> "Wsgi":
        return Wsgi(self.container.config["app"], self._providers)

    def get_wsgi_server(self, sock: Any, wsgi_app: Any, **_options: Any) -> Any:
        return wsgi.Server(
            sock,
            sock.getsockname(),
            wsgi_app,
            protocol=_Protocol,
            log_output=False,
            debug=False,
            keepalive=60,
            socket_timeout=30,
            url_length_limit=8192,
        )

    def run(self) -> None:
        while self._is_accepting:
            try:
                sock, address = self._sock.accept()
            except OSError:
                if self._is_accepting:  # out of file descriptors, or a client gone before it was accepted
                    logging.get().warning("accept_failed", exc_info=True)
                    eventlet.sleep(0.05)
                continue
            self._take(sock, address)

    def _take(self, sock: Any, address: Any) -> None:
        sock.settimeout(self._serv.socket_timeout)
        eventlet.spawn_n(self._serve, sock, address)

    def _serve(self, sock: Any, address: Any) -> None:
        try:
            self._serv.process_request([address, sock, wsgi.STATE_IDLE])
        except Exception:  # noqa: BLE001 (a broken connection is its client's business alone)
            logging.get().debug("connection_broken", exc_info=True)

    def drain(self) -> None:
        """Refuses new connections, answers what is under way, lets idle connections end. Every entry point asks.

        Connections that wait to be accepted are under way: their clients may have sent a request.
        """
        if self._drained is not None:
            self._drained.wait()
            return
        self._drained = Settled()
        self.container.config["app"].readiness.draining = True
        self._is_accepting = False
        self._gt.kill()
        with contextlib.suppress(OSError):  # none left; nothing else runs between this and the closing
            while True:
                sock, address = self._sock.fd.accept()
                self._take(greenio.GreenSocket(sock), address)
        self._sock.close()
        self._serv.keepalive = False  # from now on every answer says Connection: close
        started = time.monotonic()
        while time.monotonic() - started < DRAIN_SECONDS and (
            time.monotonic() - started < LINGER_SECONDS or self._serv.outstanding_requests
        ):
            eventlet.sleep(0.02)
        self._drained.send(None)

    def stop(self) -> None:
        self.drain()


class _Protocol(wsgi.HttpProtocol):
    """eventlet's HTTP/1.1, without a banner of versions, and without a word of a request that cannot be read."""

    def version_string(self) -> str:
        return "estation"

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        if _is_broken(self.headers):
            self.send_error(BadRequest.status)
            return False
        return True

    def send_error(self, code: int, *_quoting_the_request: str | None) -> None:
        del code  # whatever is wrong with a header
        answer = problem(BadRequest(), "zh")
        self.close_connection, self.request_version = True, "HTTP/1.1"  # to 0.9 it would send no header
        self.send_response(answer.status_code)
        for name, value in [*answer.headers.items(), ("Connection", "close")]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.get_data())

    def log_message(self, *_quoting_the_request: object) -> None:
        return


def _is_broken(headers: Any) -> bool:
    """Whether two readers could disagree on a header or on where the body ends (RFC 9112, sections 5.1 and 6.3)."""
    if any(isinstance(defect, _HEADER_DEFECTS) for defect in headers.defects):
        return True
    lengths, codings = headers.get_all("Content-Length", []), headers.get_all("Transfer-Encoding", [])
    if codings:
        return bool(lengths) or [coding.strip().lower() for coding in codings] != ["chunked"]
    return len(lengths) > 1 or not all(length.strip().isascii() and length.strip().isdecimal() for length in lengths)


class HttpEntrypoint(Entrypoint):
    """The nameko entry point behind :func:`endpoint`."""

    server = DrainingWebServer()

    def __init__(self, about: Endpoint, **kwargs: Any) -> None:
        self.about = about
        super().__init__(about, **kwargs)

    def setup(self) -> None:
        self.server.register_provider(self)

    def stop(self) -> None:
        self.server.drain()
        self.server.unregister_provider(self)

    def handle(self, call: Call) -> "Answer | EStationError":
        """Runs the service's method in a worker and waits for it."""
        settled = Settled()

        def done(_worker: object, result: object, exc_info: Any) -> tuple[object, Any]:
            settled.send(result if exc_info is None else _as_problem(exc_info[1]))
            return result, exc_info

        self.container.spawn_worker(self, (call,), {}, handle_result=done)
        outcome: Answer | EStationError = settled.wait()
        return outcome


def _as_problem(error: BaseException) -> EStationError:
    if isinstance(error, EStationError):
        return error
    if mongo.is_away(error):
        return Unavailable()
    return EStationError()


def endpoint(method: str, url: str, summary: str, **about: Any) -> Callable[[Handler], Handler]:
    """Declares an entry point; ``about`` are the fields of :class:`Endpoint`."""
    described = Endpoint(method, url, summary, **about)

    def register(function: Handler) -> Handler:
        @wraps(function)
        def answer(service: object, call: Call) -> "Answer | EStationError":
            structlog.contextvars.bind_contextvars(trace_id=telemetry.trace_id(call.trace))
            try:
                answered: Answer = function(service, call)
            except EStationError as error:  # expected: not nameko's to log with its traceback
                return error
            except Exception as error:  # noqa: BLE001 (the last net: a caller gets a problem, the log gets the place)
                problem = _as_problem(error)
                logging.get().error("request_failed", route=url, method=method, status=problem.status, exc_info=error)
                return problem
            return answered

        return HttpEntrypoint.decorator(described)(answer)

    return register


class AppProvider(DependencyProvider):
    """Gives every worker of a service the one application object of the process."""

    def get_dependency(self, _worker_ctx: object) -> Any:
        return self.container.config["app"]


class ReadQuery(Schema):
    """Query parameters: each at most once, none unknown."""

    class Meta:
        """Refuses what it does not know."""

        unknown = RAISE


class Page(ReadQuery):
    """Cursor paging: at most ``limit`` items after ``cursor``."""

    LIMIT_MAX: ClassVar[int] = 200
    limit = fields.Integer(
        load_default=50,
        validate=lambda value: _in_range(value, 1, Page.LIMIT_MAX),
        metadata={"minimum": 1, "maximum": 200, "description": "Items at most"},
    )
    cursor = fields.String(
        load_default="",
        validate=validate.Length(max=200, error="bad_cursor"),
        metadata={"description": "`next` of the page before"},
    )


def _in_range(value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValidationError("out_of_range")


class Wsgi:
    """The WSGI application of one service: routing, reading, checking, answering."""

    def __init__(self, app: App, providers: set[HttpEntrypoint]) -> None:
        self._app = app
        self._map = Map(
            [
                Rule(provider.about.url, methods=[provider.about.method], endpoint=provider, strict_slashes=True)
                for provider in providers
            ],
            redirect_defaults=False,
            merge_slashes=False,
        )

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        with telemetry.IN_FLIGHT.labels(self._app.name).track_inprogress():
            response = self._answer(environ)
        return response(environ, start_response)

    def _answer(self, environ: dict[str, Any]) -> Response:
        started = time.perf_counter()
        request = Request(environ)
        route, page = "unmatched", "text/html" in request.headers.get("Accept", "")
        try:
            provider, path = self._route(environ)
            route, page = provider.about.url, provider.about.media_type == HTML
            outcome = provider.handle(self._read(provider.about, path, request))
        except EStationError as error:
            outcome = error
        except Exception as error:  # noqa: BLE001 (the last net, as in endpoint())
            outcome = _as_problem(error)
            logging.get().error(
                "request_failed", route=route, method=request.method, status=outcome.status, exc_info=error
            )
        response = self._render(outcome, request, page=page)
        telemetry.REQUESTS.labels(self._app.name, _method(request), route, response.status_code).observe(
            time.perf_counter() - started
        )
        return response

    def _route(self, environ: dict[str, Any]) -> tuple[HttpEntrypoint, Mapping[str, str]]:
        try:
            provider, path = self._map.bind_to_environ(environ).match()
        except RoutedMethodNotAllowed as error:
            raise MethodNotAllowed(tuple(error.valid_methods or ())) from None
        except HTTPException:
            raise NotFound from None
        return provider, path

    def _read(self, about: Endpoint, path: Mapping[str, str], request: Request) -> Call:
        trace = telemetry.continued(request.headers.get("traceparent"))
        actor = self._admitted(about, request)
        if actor is not None and about.roles is not None and not actor.roles & about.roles:
            raise Forbidden
        query = _load_query(about.query, request) if about.query else {}
        raw = _body(request, about.body_bytes) if about.body else b""
        if_match = _if_match(request) if about.edits else None
        form = forms.read(request.mimetype, raw) if about.form else forms.Given()
        needed = actor if about.roles is not None else None  # what anyone may do needs no login, so none is misused
        forms.refuse_forgery(request, needed, form, self._app.settings.origin, form=about.form)
        loaded, invalid = _load(about, request, raw, form)
        return Call(
            app=self._app,
            actor=actor,
            path=path,
            query=query,
            body=loaded,
            idempotency=_idempotency(request, about, actor, raw, form.key) if about.creates else None,
            if_match=if_match,
            language=language(request),
            trace=trace,
            now=self._app.clock(),
            url=_url(request),
            address=_address(request),
            cookies=request.cookies,
            typed=form.typed,
            invalid=invalid,
        )

    def _admitted(self, about: Endpoint, request: Request) -> Actor | None:
        address = _address(request)
        try:
            actor = self._authenticate(about, request)
        except Unauthenticated:
            if about.limited:  # guessing has a budget too
                self._app.admit(None, address, about.url)
            raise
        if about.limited:
            self._app.admit(actor, address, about.url)
        return actor

    def _authenticate(self, about: Endpoint, request: Request) -> Actor | None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else ""
        if about.roles is None:
            return self._recognised(given) if given and about.media_type == HTML else None
        if not given:
            raise Unauthenticated
        return self._app.authenticate(given)

    def _recognised(self, token: str) -> Actor | None:
        """Whose navigation a page for anyone shows; who is not known is anyone."""
        try:
            return self._app.authenticate(token)
        except Unauthenticated:
            return None

    def _render(self, outcome: "Answer | EStationError", request: Request, *, page: bool) -> Response:
        if isinstance(outcome, EStationError):
            if not page:
                return problem(outcome, language(request))
            outcome = _problem_page(outcome, request)
        raw = outcome.body if isinstance(outcome.body, bytes) else strict_json.dumps(outcome.body)
        response = Response(
            b"" if outcome.status == 204 else raw,  # noqa: PLR2004 (no content)
            status=outcome.status,
            headers=dict(outcome.headers),
            content_type=outcome.content_type,
        )
        response.headers.setdefault("Cache-Control", "no-store")
        for cookie in outcome.cookies:
            response.headers.add("Set-Cookie", cookie)
        return response


def _problem_page(error: EStationError, request: Request) -> "Answer":
    """What a person is shown; whoever has to log in first is led there and back."""
    if isinstance(error, Unauthenticated) and request.method == "GET":
        return Answer(b"", 303, {"Location": f"{LOGIN_PATH}?next={quote(_url(request), safe='')}"}, HTML)
    from services.kernel import web  # which stands on this module

    return web.problem(error, language(request), here=_url(request) if request.method == "GET" else "")


def problem(error: EStationError, tongue: str) -> Response:
    """The problem document of an error (RFC 9457); never the input."""
    document: dict[str, Any] = {
        "type": f"https://estation.example/problems/{error.code}",
        "title": messages.text(error.code, tongue, **error.params),
        "status": error.status,
        "detail": messages.text(error.code, tongue, **error.params),
        "code": error.code,
        **error.extensions,
    }
    if isinstance(error, Invalid):
        document["errors"] = [
            {"field": one.field, "code": one.code, "message": messages.text(one.code, tongue)} for one in error.errors
        ]
    headers = {
        **error.headers,
        "Content-Language": "en" if tongue == "en" else "zh-CN",
        "Vary": "Accept-Language",
        "Cache-Control": "no-store",
    }
    return Response(strict_json.dumps(document), status=error.status, headers=headers, content_type=PROBLEM)


def language(request: Request) -> str:
    """``en`` where the caller chose or prefers English, else ``zh``."""
    chosen = request.cookies.get(LANGUAGE_COOKIE)
    if chosen in {"zh", "en"}:
        return chosen
    return request.accept_languages.best_match(["zh", "zh-CN", "en"], "zh")[:2]


def _method(request: Request) -> str:
    return request.method if request.method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"} else "other"


def _body(request: Request, limit: int) -> bytes:
    """The body, never more of it in memory than the limit allows."""
    if (request.content_length or 0) > limit:
        raise TooLarge(limit)
    stream = request.environ["wsgi.input"]
    parts, size = [], 0
    try:
        while size <= limit and (part := stream.read(min(limit + 1 - size, 65536))):
            parts.append(part)
            size += len(part)
    except (OSError, ValueError):  # the client went away, or its chunks are no chunks
        raise BadRequest("bad_length") from None
    if size > limit:
        raise TooLarge(limit)
    if request.content_length is not None and size < request.content_length:
        raise BadRequest("bad_length")
    return b"".join(parts)


def _load(about: Endpoint, request: Request, raw: bytes, form: forms.Given) -> tuple[Any, Invalid | None]:
    """The body, or what is wrong with a form; a wrong JSON body raises."""
    if about.body is None:
        return None, None
    if not about.form:
        return _load_body(about.body, request, raw), None
    try:
        return _loaded(about.body, form.values(_instance(about.body))), None
    except Invalid as error:
        return None, error


def _load_body(schema: type[Schema], request: Request, raw: bytes) -> Any:
    if request.mimetype != JSON:
        raise UnsupportedMediaType
    value = strict_json.loads(raw)
    if not isinstance(value, dict):
        raise Invalid([FieldError("", "not_an_object")])
    return _loaded(schema, value)


def _loaded(schema: type[Schema], value: Mapping[str, Any]) -> Any:
    try:
        return _instance(schema).load(value)
    except ValidationError as error:
        raise Invalid(field_errors(wrong(error))) from None


def _load_query(schema: type[Schema], request: Request) -> Mapping[str, Any]:
    values = {}
    for name, given in request.args.lists():
        if len(given) > 1:
            raise Invalid([FieldError(shown(name)[:100], "given_twice")])
        values[name] = given[0]
    try:
        query: Mapping[str, Any] = _instance(schema).load(values)
    except ValidationError as error:
        raise Invalid(field_errors(wrong(error))) from None
    return query


def wrong(error: ValidationError) -> dict[str, Any]:
    """Messages of a failed load, nested by field."""
    nested: dict[str, Any] = error.normalized_messages()  # type: ignore[no-untyped-call]  # marshmallow left it so
    return nested


_INSTANCES: dict[type[Schema], Schema] = {}


def _instance(schema: type[Schema]) -> Schema:
    """Building a schema costs more than using it."""
    found_ = _INSTANCES.get(schema)
    if found_ is None:
        found_ = _INSTANCES[schema] = schema()
    return found_


def _address(request: Request) -> str:
    return caller_address(request.remote_addr or "", request.headers.get("X-Forwarded-For"))


def _url(request: Request) -> str:
    path = quote(request.path, safe="/:@!$&'()*+,;=~-._")
    query = request.query_string.decode("ascii", errors="replace")
    return f"{path}?{query}" if query else path


def _idempotency(request: Request, about: Endpoint, actor: Actor | None, raw: bytes, typed: str | None) -> Idempotency:
    given = request.headers.get("Idempotency-Key", typed)
    if given is None:
        raise PreconditionRequired("idempotency_key_required")
    match = _KEY.match(given)
    if match is None:
        raise BadRequest("idempotency_key_invalid")
    scope = f"{actor.id if actor else ''}\x1f{about.method} {request.path}\x1f{match[1]}"
    return Idempotency(hashlib.sha256(scope.encode()).hexdigest(), _body_digest(match[1], raw))


def _body_digest(key: str, raw: bytes) -> str:
    """Under the key, which is not stored: what a person typed cannot be guessed from it."""
    return hmac.digest(key.encode(), raw, "sha256").hex()


def _if_match(request: Request) -> int:
    given = request.headers.get("If-Match")
    if given is None:
        raise PreconditionRequired("if_match_required")
    match = _ETAG.match(given.strip())
    return int(match[1]) if match else -1  # a tag of another form matches no version
