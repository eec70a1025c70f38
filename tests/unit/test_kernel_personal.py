"""Personal data: one normal form, a code for each refusal, masks that show no more than they promise."""

import re
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from marshmallow import ValidationError

from services.kernel import messages, personal
from services.kernel.errors import FieldError, field_errors
from services.kernel.fields import In
from services.kernel.http import wrong
from services.kernel.personal import HIDDEN, IdNumber, Malformed, PersonName, Phone, UnitCode

TODAY = date(2025, 7, 16)
NATIONAL_EXAMPLE = "11010519491231002X"
"""The example of GB 11643-1999."""
UNIT = "91110000600037341L"


def with_check_digit(body: str) -> str:
    """A body of 17 digits with its check digit, by the tables of GB 11643-1999."""
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    return body + "10X98765432"[sum(int(digit) * weight for digit, weight in zip(body, weights, strict=True)) % 11]


def with_check_character(body: str) -> str:
    """A body of 17 characters with its check character, by GB 32100-2015 (weights 3^i mod 31)."""
    alphabet = "0123456789ABCDEFGHJKLMNPQRTUWXY"
    total = sum(alphabet.index(char) * pow(3, place, 31) for place, char in enumerate(body))
    return body + alphabet[-total % 31]


def code_of(call: Any, *given_: object) -> str:
    """The code of the refusal, which quotes nothing."""
    with pytest.raises(Malformed) as error:
        call(*given_)
    assert error.value.args == (error.value.code,)
    assert error.value.__cause__ is None
    return error.value.code


id_numbers = st.builds(
    lambda region, born, number: with_check_digit(f"{region}{born:%Y%m%d}{number:03d}"),
    st.sampled_from(
        ["370902", "370911", "370983", "110105", "659004", "710000", "810000", "820000", "830000", "931156"]
    ),
    st.dates(date(1900, 1, 1), TODAY),
    st.integers(0, 999),
)
names = st.one_of(
    st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FA5), min_size=2, max_size=6),
    st.text(st.sampled_from("abcXYZéñ"), min_size=2, max_size=12),
)


class TestIdNumber:
    """GB 11643-1999."""

    @given(id_numbers)
    def test_says_birth_and_sex(self, number: str) -> None:
        found = personal.id_number(number, TODAY)
        assert found.number == number
        assert f"{found.born:%Y%m%d}" == number[6:14]
        assert found.sex == ("female" if number[16] in "02468" else "male")

    def test_the_standards_own_example(self) -> None:
        found = personal.id_number(NATIONAL_EXAMPLE, TODAY)
        assert (found.born, found.sex) == (date(1949, 12, 31), "female")

    @pytest.mark.parametrize("born", ["19840229", "19841231", "19600101", "19000101"])
    @pytest.mark.parametrize("region", ["370901", "370902", "370911", "370982", "372601", "372621"])
    def test_older_people_of_the_city_are_taken(self, region: str, born: str) -> None:
        """The city's codes are of 1985; people got them later, and the prefecture's codes before are no more."""
        number = with_check_digit(f"{region}{born}123")
        assert personal.id_number(number, TODAY).number == number

    @pytest.mark.parametrize("prefix", ["810000", "820000", "830000"])
    def test_residence_permits_have_the_same_form(self, prefix: str) -> None:
        assert personal.id_number(with_check_digit(f"{prefix}19920305004"), TODAY).born == date(1992, 3, 5)

    @pytest.mark.parametrize(
        "text",
        [
            "11010519491231002x",
            " 110105 19491231 002X ",
            "110105-19491231-002X",
            "110105\u201319491231\u2014002X",
            "１１０１０５１９４９１２３１００２Ｘ",
            "\ufeff110105\u200b19491231002X\u202c",
            "110105\u300019491231\u00a0002X\t",
            "11010519491231002Ⅹ",
        ],
    )
    def test_every_spelling_has_one_normal_form(self, text: str) -> None:
        assert personal.id_number(text, TODAY).number == NATIONAL_EXAMPLE

    @pytest.mark.parametrize(
        "body",
        [
            pytest.param("37090219900230123", id="30 February"),
            pytest.param("37090219900229123", id="29 February, no leap year"),
            pytest.param("37090219000229123", id="29 February 1900"),
            pytest.param("37090219901301123", id="month 13"),
            pytest.param("37090219900001123", id="month 0"),
            pytest.param("37090219900100123", id="day 0"),
            pytest.param("37090218991231123", id="before 1900"),
            pytest.param("44052418800101001", id="1880, the standard's second example"),
            pytest.param("37090220250717123", id="tomorrow"),
            pytest.param("37090229990101123", id="in a thousand years"),
            pytest.param("37090200000101123", id="year 0"),
            pytest.param("00090219900101123", id="no such province"),
            pytest.param("38090219900101123", id="no such province either"),
            pytest.param("84000019900101123", id="no such permit"),
        ],
    )
    def test_a_right_check_digit_is_not_enough(self, body: str) -> None:
        assert code_of(personal.id_number, with_check_digit(body), TODAY) == "id_invalid"

    def test_who_is_born_today_has_a_number(self) -> None:
        number = with_check_digit("37090220250716123")
        assert personal.id_number(number, TODAY).born == TODAY
        assert code_of(personal.id_number, number, TODAY - timedelta(days=1)) == "id_invalid"

    @given(id_numbers, st.integers(0, 17), st.sampled_from("0123456789X"))
    def test_a_wrong_character_is_noticed(self, number: str, place: int, char: str) -> None:
        assume(number[place] != char)
        assert code_of(personal.id_number, number[:place] + char + number[place + 1 :], TODAY) == "id_invalid"

    @given(id_numbers, st.integers(0, 16))
    def test_two_neighbours_that_changed_places_are_noticed(self, number: str, place: int) -> None:
        assume(number[place] != number[place + 1])
        swapped = number[:place] + number[place + 1] + number[place] + number[place + 2 :]
        assert code_of(personal.id_number, swapped, TODAY) == "id_invalid"

    @pytest.mark.parametrize("text", ["370902900101123", " 370902 900101 123 ", "３７０９０２９００１０１１２３"])
    def test_fifteen_digits_are_refused_by_name(self, text: str) -> None:
        assert code_of(personal.id_number, text, TODAY) == "id_15_digit_retired"

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "X" * 18,
            NATIONAL_EXAMPLE[:-1],
            NATIONAL_EXAMPLE + "0",
            "٣٧٠٩٠٢١٩٩٠٠١٠١١٢٣٤",
            "1101051949123100X2",
            "$ne",
            "1" * 10**6,
            "\ud800",
        ],
    )
    def test_anything_else_is_invalid(self, text: str) -> None:
        assert code_of(personal.id_number, text, TODAY) == "id_invalid"

    def test_what_it_found_is_not_in_its_repr(self) -> None:
        shown = repr(personal.id_number(NATIONAL_EXAMPLE, TODAY))
        assert not re.search(r"\d|male", shown)


class TestPhone:
    """E.164, Chinese unless a country is named."""

    @pytest.mark.parametrize(
        ("text", "e164", "mobile"),
        [
            ("13800138000", "+8613800138000", True),
            ("+86 138-0013-8000", "+8613800138000", True),
            ("0086 13800138000", "+8613800138000", True),
            ("8613800138000", "+8613800138000", True),
            ("１３８００１３８０００", "+8613800138000", True),
            ("\u202a138\u20110013\u20118000\u202c", "+8613800138000", True),
            ("138\u00a00013\u30008000", "+8613800138000", True),
            ("0538-8224567", "+865388224567", False),
            ("（0538）8224567", "+865388224567", False),
            ("+852 9123 4567", "+85291234567", True),
        ],
    )
    def test_every_spelling_has_one_normal_form(self, text: str, e164: str, mobile: bool) -> None:
        assert personal.phone(text) == personal.PhoneNumber(e164, mobile)
        assert personal.phone(e164).e164 == e164

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "+",
            "1380013800",
            "138001380000",
            "12345678901",
            "10086",
            "400-800-8888",
            "13800138000 ext 5",
            "13800138000;ext=5",
            "13800138000#5",
            "tel:13800138000",
            "1380013CALL",
            "+999 123456",
            "13800138000\n13800138000",
            "1" * 10**6,
            "\ud800",
        ],
    )
    def test_what_reaches_nobody_is_invalid(self, text: str) -> None:
        assert code_of(personal.phone, text) == "phone_invalid"

    def test_the_number_is_not_in_its_repr(self) -> None:
        assert "138" not in repr(personal.phone("13800138000"))


class TestPersonName:
    """Letters, ideographs, dots."""

    @pytest.mark.parametrize(
        ("text", "name"),
        [
            ("张三", "张三"),
            (" 张　三 ", "张三"),
            ("张 \t 三", "张三"),
            ("欧阳娜娜", "欧阳娜娜"),
            ("阿不都•热合曼", "阿不都·热合曼"),
            ("阿不都・热合曼", "阿不都·热合曼"),
            ("阿不都･热合曼", "阿不都·热合曼"),
            ("阿不都‧热合曼", "阿不都·热合曼"),
            ("阿不都 · 热合曼", "阿不都·热合曼"),
            ("Anna  Maria", "Anna Maria"),
            ("Ａｎｎａ", "Anna"),
            ("Jose\u0301", "José"),
            ("张\u200b三\ufeff", "张三"),
            ("葛\U000e0100城", "葛城"),
            ("⼀⼆", "一二"),
            ("王〇", "王〇"),
            ("李\U00020089", "李\U00020089"),
            ("李\U00031350", "李\U00031350"),
            ("བཀྲ་ཤིས"[:3], "བཀྲ"[:3]),
            ("ئابدۇ", "ئابدۇ"),
            ("张" * 40, "张" * 40),
        ],
    )
    def test_every_spelling_has_one_normal_form(self, text: str, name: str) -> None:
        assert personal.person_name(text) == name

    @pytest.mark.parametrize(
        "text",
        [
            "",
            " ",
            "张",
            "张" * 41,
            "张" * 10**6,
            "张*",
            "张3",
            "张三1",
            "·张三",
            "张三·",
            "张··三",
            "张.三",
            "张\n<三",
            "<b>张三</b>",
            "张三,",
            "=张三",
            "\u0301张三",
            "张三😀",
            "张\x00三",
            "张\ud800三",
            "张\ue000",
            "13800138000",
        ],
    )
    def test_anything_else_is_invalid(self, text: str) -> None:
        assert code_of(personal.person_name, text) == "name_invalid"

    @given(st.text(max_size=45) | names)
    @example("e\u200d\u0301x")
    @example("张 ·\u200b 三")
    def test_the_normal_form_is_its_own(self, text: str) -> None:
        try:
            name = personal.person_name(text)
        except Malformed:
            return
        assert personal.person_name(name) == name
        assert 2 <= len(name) <= 40
        assert not re.search(r"[\d\s<>=*]", name.replace(" ", ""))


class TestUnitCode:
    """GB 32100-2015."""

    @pytest.mark.parametrize(
        ("text", "code", "union"),
        [
            (UNIT, UNIT, False),
            ("91110000600037341l", UNIT, False),
            ("9111 0000-6000 3734 1L", UNIT, False),
            ("９１１１００００６０００３７３４１Ｌ", UNIT, False),
            (with_check_character("81370902MC1234567"), with_check_character("81370902MC1234567"), True),
            (with_check_character("N2370902MF1234567"), with_check_character("N2370902MF1234567"), False),
        ],
    )
    def test_every_spelling_has_one_normal_form(self, text: str, code: str, union: bool) -> None:
        assert personal.unit_code(text) == code
        assert personal.is_union(code) is union

    @pytest.mark.parametrize(
        "text",
        ["", UNIT[:-1], UNIT + "0", UNIT[:-1] + "M", "91110000600037341I", "9111000060003734OL", "O" * 18, "\ud800"],
    )
    def test_anything_else_is_invalid(self, text: str) -> None:
        assert code_of(personal.unit_code, text) == "uscc_invalid"

    @given(st.integers(0, 17), st.sampled_from("0123456789ABCDEFGHJKLMNPQRTUWXY"))
    def test_a_wrong_character_is_noticed(self, place: int, char: str) -> None:
        assume(UNIT[place] != char)
        assert code_of(personal.unit_code, UNIT[:place] + char + UNIT[place + 1 :]) == "uscc_invalid"


class TestMasks:
    """No mask shows more than it promises."""

    @pytest.mark.parametrize(
        ("mask", "text", "shown"),
        [
            (personal.mask_name, "张三", "张*"),
            (personal.mask_name, "欧阳娜娜", "欧***"),
            (personal.mask_name, "阿不都·热合曼", "阿******"),
            (personal.mask_name, "Anna Maria", "A*********"),
            (personal.mask_id_number, NATIONAL_EXAMPLE, "110***********002X"),
            (personal.mask_phone, "+8613800138000", "138****8000"),
            (personal.mask_phone, "13800138000", "138****8000"),
            (personal.mask_phone, "+865388224567", "****67"),
            (personal.mask_phone, "+85291234567", "****67"),
        ],
    )
    def test_shows_what_it_promises(self, mask: Any, text: str, shown: str) -> None:
        assert mask(text) == shown

    @pytest.mark.parametrize("mask", [personal.mask_name, personal.mask_id_number, personal.mask_phone])
    @pytest.mark.parametrize(
        "text", [None, "", "370902900101123", "张", "张三3", "<b>", "x" * 500, NATIONAL_EXAMPLE[1:]]
    )
    def test_what_is_malformed_or_gone_shows_nothing(self, mask: Any, text: str | None) -> None:
        assert mask(text) == HIDDEN

    @given(names)
    def test_of_a_name_the_first_character_and_the_length_are_seen(self, text: str) -> None:
        assume("".join(text.split()) == text)
        name = personal.person_name(text)
        assert personal.mask_name(text) == name[0] + "*" * (len(name) - 1)

    @given(id_numbers)
    def test_of_an_id_number_seven_characters_are_seen(self, number: str) -> None:
        shown = personal.mask_id_number(number)
        assert (shown[:3], shown[3:14], shown[14:]) == (number[:3], "*" * 11, number[14:])

    @given(st.from_regex(r"\A1[3-9][0-9]{9}\Z"))
    def test_of_a_mobile_seven_digits_are_seen(self, number: str) -> None:
        assert personal.mask_phone(number) in (HIDDEN, f"{number[:3]}****{number[-4:]}")

    @given(st.text() | st.from_regex(r"\+?[0-9 -]{5,20}") | id_numbers | names)
    def test_of_anything_little_is_seen(self, text: str) -> None:
        assert len(personal.mask_name(text).replace("*", "")) <= 1
        assert len(personal.mask_id_number(text).replace("*", "")) in (0, 7)
        assert len(personal.mask_phone(text).replace("*", "")) in (0, 2, 7)


class Whole(In):
    """One field of each kind."""

    id_number = IdNumber(now=lambda: datetime(2025, 7, 15, 16, 0, tzinfo=UTC))
    phone = Phone()
    mobile = Phone(mobile=True)
    name = PersonName()
    unit = UnitCode()
    union = UnitCode(union=True)
    nothing = PersonName(allow_none=True)


class TestFields:
    """The same rules in HTTP schemas."""

    def test_values_are_loaded_in_their_normal_form(self) -> None:
        union = with_check_character("81370902MC1234567")
        assert Whole().load(
            {
                "id_number": "11010519491231002x",
                "phone": "0538 8224567",
                "mobile": "138 0013 8000",
                "name": "张 三",
                "unit": UNIT.lower(),
                "union": union,
                "nothing": None,
            }
        ) == {
            "id_number": NATIONAL_EXAMPLE,
            "phone": "+865388224567",
            "mobile": "+8613800138000",
            "name": "张三",
            "unit": UNIT,
            "union": union,
            "nothing": None,
        }

    def test_today_is_the_citys(self) -> None:
        born_today, born_tomorrow = (with_check_digit(f"370902202507{day}123") for day in (16, 17))
        assert Whole().load({"id_number": born_today})
        assert self.refused(id_number=born_tomorrow) == [FieldError("id_number", "id_invalid")]

    @pytest.mark.parametrize(
        ("field", "value", "code"),
        [
            ("id_number", "370902199001011234", "id_invalid"),
            ("id_number", "370902900101123", "id_15_digit_retired"),
            ("phone", "10086", "phone_invalid"),
            ("mobile", "0538-8224567", "phone_not_mobile"),
            ("name", "张", "name_invalid"),
            ("unit", "8" * 18, "uscc_invalid"),
            ("union", UNIT, "uscc_not_a_union"),
            ("name", None, "null"),
            ("name", {"$ne": ""}, "not_a_string"),
            ("id_number", 110105194912310021, "not_a_string"),
            ("phone", ["13800138000"], "not_a_string"),
        ],
    )
    def test_a_refusal_has_a_code_and_quotes_nothing(self, field: str, value: object, code: str) -> None:
        assert self.refused(**{field: value}) == [FieldError(field, code)]
        assert messages.is_known(code)

    @given(st.dictionaries(st.sampled_from(list(Whole().fields)), st.text() | st.integers() | st.none(), max_size=4))
    def test_any_json_is_taken_or_refused_with_known_codes(self, given_: dict[str, Any]) -> None:
        try:
            Whole().load(given_)
        except ValidationError as error:
            found = field_errors(wrong(error))
            assert found
            assert all(messages.is_known(one.code) for one in found)

    @staticmethod
    def refused(**given_: Any) -> list[FieldError]:
        """What is wrong with the input."""
        with pytest.raises(ValidationError) as error:
            Whole().load(given_)
        assert not any(str(value) in str(error.value) for value in given_.values() if isinstance(value, str))
        return field_errors(wrong(error.value))
