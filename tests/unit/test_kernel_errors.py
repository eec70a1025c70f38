"""Errors and messages: each has its status, headers and a text in both languages; no code in use is without one."""

import ast
import inspect
import string
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.kernel import errors, messages
from services.kernel.errors import EStationError, Invalid, MethodNotAllowed, TooLarge, TooManyRequests
from services.kernel.messages import Message

KERNEL = Path(inspect.getfile(errors)).parent
SERVICES = KERNEL.parent
CLASSES = {
    name: value for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, EStationError)
}


def codes_in(path: Path) -> Iterator[str]:
    """The codes a module can raise: of our errors, of fields, of validators."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        given: list[ast.expr] = [word.value for word in node.keywords if word.arg in {"code", "error"}]
        if name in CLASSES.keys() - {"Invalid", "MethodNotAllowed", "TooLarge", "TooManyRequests"}:
            given += node.args[:1]
        elif name in {"FieldError", "Invalid"}:
            given += node.args[1:2]
        elif name == "ValidationError":
            given += node.args[:1]
        for value in given:
            for part in [value.body, value.orelse] if isinstance(value, ast.IfExp) else [value]:
                if isinstance(part, ast.Constant) and isinstance(part.value, str) and part.value:
                    yield part.value


def described_in(path: Path) -> set[str]:
    """The codes a module describes: the keys of its tables of messages."""
    return {
        str(key.value)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values, strict=True)
        if isinstance(key, ast.Constant) and isinstance(value, ast.Call) and getattr(value.func, "id", "") == "Message"
    }


def test_every_code_in_use_is_described() -> None:
    kernel = described_in(KERNEL / "messages.py")
    found = 0
    for service in sorted(path for path in SERVICES.iterdir() if path.is_dir()):
        modules = sorted(service.rglob("*.py"))
        own = {code for module in modules for code in described_in(module)}
        for module in modules:
            for code in codes_in(module):
                found += 1
                assert code in kernel | own, f"{module.name} raises {code}, which no table of messages describes"
    assert found > 40, "the search finds them"


def test_every_class_has_its_own_status_and_a_described_code() -> None:
    tree = inspect.getdoc(errors) or ""
    for name, class_ in CLASSES.items():
        assert messages.is_known(class_.default_code), name
        assert name in tree, "the hierarchy at the top of the module shows it"
        if class_ not in {EStationError, errors.Stale}:
            assert f"{name} {class_.status}" in tree
    assert errors.Stale.status == errors.Conflict.status == 409
    assert EStationError.status == 500


def test_the_codes_of_marshmallows_own_messages_are_described() -> None:
    assert all(map(messages.is_known, errors._CODES.values()))


@pytest.mark.parametrize(
    ("error", "headers"),
    [
        (errors.Unauthenticated(), {"WWW-Authenticate": 'Bearer realm="estation"'}),
        (MethodNotAllowed(["PUT", "GET"]), {"Allow": "GET, PUT"}),
        (TooManyRequests(7), {"Retry-After": "7"}),
        (errors.Unavailable(), {"Retry-After": "2"}),
        (errors.NotFound(), {}),
    ],
)
def test_headers_belong_to_the_error(error: EStationError, headers: dict[str, str]) -> None:
    assert error.headers == headers


def test_params_fill_the_message_and_extend_the_problem() -> None:
    error = TooLarge(65536)
    assert error.extensions == {"limit": 65536}
    assert messages.text(error.code, "en", **error.params) == "Too large; the limit is 65536 bytes."
    assert "65536" in messages.text(error.code, "zh", **error.params)
    assert TooManyRequests(7).extensions == {"retry_after": 7}
    assert str(errors.Conflict("stale", state="closed")) == "stale", "params stay out of tracebacks"


def test_an_invalid_may_stand_without_fields() -> None:
    assert Invalid(code="bad_cursor").errors == ()
    assert Invalid(code="bad_cursor").code == "bad_cursor"


def test_every_message_says_the_same_in_both_languages() -> None:
    for code, message in messages._MESSAGES.items():
        zh, en = ({name for _, name, _, _ in string.Formatter().parse(text) if name} for text in message)
        assert zh == en, code
        assert any("\u4e00" <= char <= "\u9fff" for char in message.zh), code
        assert message.en.isascii(), code


def test_chinese_is_the_default_language() -> None:
    assert messages.text("not_found") == messages.text("not_found", "zh") == messages.text("not_found", "fr")
    assert messages.text("not_found", "en") == "Not found."


def test_a_code_nobody_described_says_nothing_of_itself() -> None:
    assert messages.text("secret_inner_state", "en") == messages.text("invalid", "en")


def test_a_missing_param_does_not_hide_the_message() -> None:
    assert messages.text("too_large", "en") == "Too large; the limit is {limit} bytes."


def test_a_code_has_one_text_only() -> None:
    same = Message("未找到。", "Not found.")
    messages.add({"not_found": same})
    with pytest.raises(ValueError, match="not_found is taken"):
        messages.add({"not_found": Message("没有。", "None.")})
    assert messages.text("not_found", "en") == "Not found."
