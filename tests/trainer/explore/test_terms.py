from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.common.errors import InputError
from trainer.explore.terms import Term, read_numbers, read_terms


@given(st.lists(st.integers(0, 99), min_size=1), st.sampled_from([",", ", ", " ,"]))
def test_numbers_come_back_in_their_order(numbers: list[int], comma: str) -> None:
    assert read_numbers(comma.join(map(str, numbers)), 100, "--plus") == tuple(numbers)


@pytest.mark.parametrize(
    "text", ["", ",", "3,,4", "3;4", "x", "-1", "+1", "1.5", "0x3", "²", "٣", "3 4", "1_0", "9" * 5000]
)
def test_junk_is_named_with_its_flag(text: str) -> None:
    with pytest.raises(InputError, match=r"--minus .* is not a sample number"):
        read_numbers(text, 100, "--minus")


@given(st.text())
def test_anything_is_numbers_or_one_line_of_error(text: str) -> None:
    try:
        numbers, said = read_numbers(text, 10, "--plus"), "one line"
    except InputError as error:
        numbers, said = (), str(error)
    assert all(0 <= number < 10 for number in numbers)
    assert len(said.splitlines()) == 1


def test_a_number_off_the_sheet_is_named() -> None:
    assert read_numbers("63", 64, "--plus") == (63,)
    with pytest.raises(InputError, match=r"no sample 64 in a grid of 64 \(0 to 63\).*--count 65"):
        read_numbers("3,64", 64, "--plus")


@given(st.lists(st.tuples(st.sampled_from("+-"), st.integers(0, 9), st.booleans()), min_size=1))
def test_terms_stand_as_they_were_typed(typed: list[tuple[str, int, bool]]) -> None:
    flags, words = {"+": "--plus", "-": "--minus"}, ["runs/x", "arithmetic", "--seed", "3"]
    for sign, number, joined in typed:
        words += [f"{flags[sign]}={number}"] if joined else [flags[sign], str(number)]
    values = {kind: [str(number) for sign, number, _ in typed if sign == kind] for kind in "+-"}
    if values["+"]:
        terms = read_terms(words, values["+"], values["-"], 10)
        assert terms == tuple(Term(sign, (number,)) for sign, number, _ in typed)
    else:
        with pytest.raises(InputError, match="at least one --plus"):
            read_terms(words, values["+"], values["-"], 10)
