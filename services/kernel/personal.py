"""What a person's data must look like: one normal form each, what is refused and why, and how little is shown.

Pure functions and the fields of HTTP schemas over them. What is refused is never quoted: an error has a code only.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final, Literal
from unicodedata import category, normalize

import phonenumbers
from marshmallow import ValidationError, fields
from phonenumbers import NumberParseException, PhoneNumberFormat, PhoneNumberType
from stdnum.cn import uscc
from stdnum.iso7064 import mod_11_2

from services.kernel import clock

Sex = Literal["male", "female"]

HIDDEN: Final = "***"
"""The mask of what is malformed or no longer there."""
BIRTH_YEAR_MIN: Final = 1900
NAME_LENGTHS: Final = (2, 40)
UNION_PREFIX: Final = "81"
_INPUT_MAX: Final = 100
"""No value is that long; what is longer is not even looked at."""

_ID_NUMBER: Final = re.compile(r"(?:1[1-5]|2[1-3]|3[1-7]|4[1-6]|5[0-4]|6[1-5]|71|8[1-3]|9[0-9])[0-9]{15}[0-9X]")
"""By province (GB/T 2260), 81 to 83 for residents from Hong Kong, Macau and Taiwan, 9 for foreign residents."""
_RETIRED_ID_NUMBER: Final = re.compile(r"[0-9]{15}")
_PHONE: Final = re.compile(r"[+0-9 ().-]+")  # the library would read letters and extensions too
_REACHABLE: Final = (PhoneNumberType.MOBILE, PhoneNumberType.FIXED_LINE_OR_MOBILE, PhoneNumberType.FIXED_LINE)
_CHINESE_MOBILE: Final = re.compile(r"\+86(1[0-9]{2})[0-9]{4}([0-9]{4})")
_UNIT_CODE: Final = re.compile(r"[0-9A-HJ-NP-RTUWXY]{2}[0-9]{6}[0-9A-HJ-NP-RTUWXY]{10}")
_DOT: Final = "\u00b7"
_DOTS: Final = str.maketrans(dict.fromkeys("\u2022\u2027\u2219\u22c5\u2e31\u30fb", _DOT))
_IDEOGRAPH: Final = "\u3007\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003fffd"
"""Whole planes: rare names use ideographs that are newer than Python's Unicode tables."""
_IS_IDEOGRAPH: Final = re.compile(f"[{_IDEOGRAPH}]")
_NEEDLESS_BLANK: Final = re.compile(f"(?<=[{_IDEOGRAPH}]) (?=[{_IDEOGRAPH}])| (?={_DOT})|(?<={_DOT}) ")
_NAME_SHAPE: Final = re.compile(r"LM*(?:[ .]?LM*)*")
"""Letters with their marks, one blank or dot at a time between them."""
_VARIATIONS: Final = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")


class Malformed(ValueError):
    """A value is not what it should be; ``code`` says why, nothing says what it was."""

    def __init__(self, code: str) -> None:
        self.code = code
        super().__init__(code)


@dataclass(frozen=True, slots=True)
class IdentityNumber:
    """A citizen's or resident's ID number in normal form, and what it says about the person."""

    number: str = field(repr=False)
    born: date = field(repr=False)
    sex: Sex = field(repr=False)


@dataclass(frozen=True, slots=True)
class PhoneNumber:
    """A telephone number in E.164 form; ``mobile`` says whether a text message may arrive."""

    e164: str = field(repr=False)
    mobile: bool


def id_number(text: str, today: date) -> IdentityNumber:
    """Reads an 18-digit ID number (GB 11643-1999, check digit by ISO 7064 MOD 11-2); ``today`` is Asia/Shanghai's.

    Residence permits of Hong Kong, Macau and Taiwan residents (81 to 83) and of foreigners (9) have the same form.
    The address code is where a person was first registered: counties that were renamed or merged since keep theirs,
    so only the province is checked.

    Raises:
        Malformed: id_15_digit_retired, id_invalid.
    """
    number = _compact(text, "id_invalid")
    if _RETIRED_ID_NUMBER.fullmatch(number):
        raise Malformed("id_15_digit_retired")
    if not _ID_NUMBER.fullmatch(number) or not mod_11_2.is_valid(number):
        raise Malformed("id_invalid")
    try:
        born = date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        raise Malformed("id_invalid") from None
    if born.year < BIRTH_YEAR_MIN or born > today:
        raise Malformed("id_invalid")
    return IdentityNumber(number, born, "male" if int(number[16]) % 2 else "female")


def phone(text: str) -> PhoneNumber:
    """Reads a telephone number that reaches a person; one without ``+`` is taken as Chinese.

    Raises:
        Malformed: phone_invalid.
    """
    if len(text) > _INPUT_MAX:
        raise Malformed("phone_invalid")
    plain = "".join("-" if category(char) == "Pd" else char for char in normalize("NFKC", _visible(text)))
    if not _PHONE.fullmatch(plain):
        raise Malformed("phone_invalid")
    try:
        number = phonenumbers.parse(plain, "CN")
    except NumberParseException:
        raise Malformed("phone_invalid") from None
    kind = phonenumbers.number_type(number)
    if kind not in _REACHABLE or not phonenumbers.is_valid_number(number):
        raise Malformed("phone_invalid")
    return PhoneNumber(
        phonenumbers.format_number(number, PhoneNumberFormat.E164), mobile=kind != PhoneNumberType.FIXED_LINE
    )


def person_name(text: str) -> str:
    """A person's name in normal form: NFKC, one kind of middle dot, no blank beside it or between two ideographs.

    Letters and ideographs of any script, dots and single blanks between them; 2 to 40 characters.

    Raises:
        Malformed: name_invalid.
    """
    if len(text) > _INPUT_MAX:
        raise Malformed("name_invalid")
    name = normalize("NFKC", _visible(text)).translate(_DOTS)
    name = _NEEDLESS_BLANK.sub("", " ".join(name.split()))
    low, high = NAME_LENGTHS
    if not low <= len(name) <= high or not _NAME_SHAPE.fullmatch("".join(map(_shape, name))):
        raise Malformed("name_invalid")
    return name


def unit_code(text: str) -> str:
    """A unified social credit code (GB 32100-2015) in normal form.

    Its first two characters may be letters, as those of rural collectives are.

    Raises:
        Malformed: uscc_invalid.
    """
    code = _compact(text, "uscc_invalid")
    if not _UNIT_CODE.fullmatch(code) or uscc.calc_check_digit(code[:-1]) != code[-1]:
        raise Malformed("uscc_invalid")
    return code


def is_union(code: str) -> bool:
    """Whether the unit of a code is a trade union (registered by a federation: 8, grass-roots union: 1)."""
    return code.startswith(UNION_PREFIX)


def mask_name(text: str | None) -> str:
    """Shows the first character of a name and one ``*`` for each that follows: 张*, 欧***."""
    try:
        name = person_name(text or "")
    except Malformed:
        return HIDDEN
    return name[0] + "*" * (len(name) - 1)


def mask_id_number(text: str | None) -> str:
    """Shows the first three and the last four characters of an ID number: 370***********1234."""
    try:
        number = id_number(text or "", date.max).number
    except Malformed:
        return HIDDEN
    return f"{number[:3]}{'*' * 11}{number[-4:]}"


def mask_phone(text: str | None) -> str:
    """Shows the first three and the last four digits of a Chinese mobile, 138****1234; of others the last two."""
    try:
        number = phone(text or "").e164
    except Malformed:
        return HIDDEN
    mobile = _CHINESE_MOBILE.fullmatch(number)
    return f"{mobile[1]}****{mobile[2]}" if mobile else f"****{number[-2:]}"


class _Normal(fields.String):
    """Text that is loaded in its normal form."""

    def __init__(self, normal: Callable[[str], str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._normal = normal

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        text = super()._deserialize(value, attr, data, **kwargs) or ""
        try:
            return self._normal(text)
        except Malformed as error:
            raise ValidationError(error.code) from None


class IdNumber(_Normal):
    """An ID number of today."""

    def __init__(self, *, now: clock.Clock = clock.now, **kwargs: Any) -> None:
        super().__init__(lambda text: id_number(text, date.fromisoformat(clock.day(now()))).number, **kwargs)


class Phone(_Normal):
    """A telephone number, loaded in E.164 form; with ``mobile`` only one that text messages may reach."""

    def __init__(self, *, mobile: bool = False, **kwargs: Any) -> None:
        super().__init__(_mobile if mobile else lambda text: phone(text).e164, **kwargs)


class PersonName(_Normal):
    """A person's name."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(person_name, **kwargs)


class UnitCode(_Normal):
    """A unified social credit code; with ``union`` only a trade union's."""

    def __init__(self, *, union: bool = False, **kwargs: Any) -> None:
        super().__init__(_union if union else unit_code, **kwargs)


def _mobile(text: str) -> str:
    number = phone(text)
    if not number.mobile:
        raise Malformed("phone_not_mobile")
    return number.e164


def _union(text: str) -> str:
    code = unit_code(text)
    if not is_union(code):
        raise Malformed("uscc_not_a_union")
    return code


def _compact(text: str, code: str) -> str:
    """Without blanks, dashes and invisible characters, in upper case."""
    if len(text) > _INPUT_MAX:
        raise Malformed(code)
    plain = normalize("NFKC", _visible(text))
    return "".join(char for char in plain if not char.isspace() and category(char) != "Pd").upper()


def _visible(text: str) -> str:
    """Without the marks of direction and variation that come along when one copies out of another program."""
    return _VARIATIONS.sub("", "".join(char for char in text if category(char) != "Cf"))


def _shape(char: str) -> str:
    if char == " ":
        return char
    if char == _DOT:
        return "."
    kind = category(char)
    if kind[0] == "L" or _IS_IDEOGRAPH.match(char):
        return "L"
    return "M" if kind in ("Mn", "Mc") else "?"
