"""What a merchants file may hold, and what a wrong one is told."""

import os
from pathlib import Path

import pytest

from loader.merchants import read_merchants
from loader.source import Source, read_source
from paystream.errors import CheckFailed, UsageError

HEADER = "merchant_id,merchant_name,country,category_code\n"


def read(content: str | bytes) -> dict[str, list]:
    data = content.encode() if isinstance(content, str) else content
    return read_merchants(Source("Merchants file", "m.csv", data))


def refusal(content: str | bytes) -> list[str]:
    with pytest.raises(CheckFailed) as caught:
        read(content)
    assert caught.value.exit_code == 1
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("Merchants file 'm.csv': ")
    assert "Nothing was changed." in lines[0]
    return lines


def test_the_columns_come_in_any_order_and_others_are_ignored() -> None:
    assert read(
        "note,country,category_code,merchant_name,merchant_id\n"
        'x,DE,0742,"Tierarzt Müller, GmbH",4294967295\n'
        "y,US,5411,Corner Market,1\n"
    ) == {
        "merchant_id": [4294967295, 1],
        "merchant_name": ["Tierarzt Müller, GmbH", "Corner Market"],
        "country": ["DE", "US"],
        "category_code": ["0742", "5411"],
    }


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_a_byte_order_mark_blank_lines_and_a_missing_last_line_end_do_not_matter(end: str) -> None:
    text = "\ufeff" + HEADER + "1,One,DE,5411\n\n2,Two,FR,5812"
    assert read(text.replace("\n", end))["merchant_id"] == [1, 2]


@pytest.mark.parametrize(
    ("row", "column", "value"),
    [
        *((f'"{text}",Acme,DE,5411', "merchant_id", text) for text in ("0", "-3", "+3", "1e5", "1,000", "1.0", "1_0")),
        *((f"{text},Acme,DE,5411", "merchant_id", text) for text in ("", " 7", "007", "١", "4294967296", "9" * 30)),
        ("7,,DE,5411", "merchant_name", ""),
        ('7," \t",DE,5411', "merchant_name", " \t"),
        *((f"7,Acme,{text},5411", "country", text) for text in ("", "de", "DEU", "UK", "XX", "DE ")),
        *((f"7,Acme,DE,{text}", "category_code", text) for text in ("", "541", "742", "0000", "54111", "grocery")),
    ],
)
def test_a_wrong_value_is_named_with_its_line_and_column(row: str, column: str, value: str) -> None:
    first, problem = refusal(HEADER + "1,Good,DE,5411\n" + row + "\n2,Good,DE,5411\n")
    assert "1 problem in 3 rows" in first
    assert problem.startswith(f"  line 3, column {column}: {value!r} is not a")


def test_a_line_number_counts_lines_of_text_not_rows() -> None:
    _, problem = refusal(HEADER + '1,"Two\nlines",DE,5411\n\n2,Acme,ZZ,5411\n')
    assert problem.startswith("  line 5, column country: 'ZZ'")


def test_a_repeated_merchant_names_both_lines_however_far_apart() -> None:
    rows = "".join(f"{number},Name,DE,5411\n" for number in range(1, 5001))
    first, problem = refusal(HEADER + rows + "3,Again,FR,5812\n")
    assert "1 problem in 5,001 rows" in first
    assert problem == "  line 5002, column merchant_id: '3' is already on line 4"


def test_all_problems_are_counted_and_the_first_twenty_shown_in_the_order_of_the_file() -> None:
    rows = ["x,,ZZ,1"] * 3 + ["5,Acme,DE,5411"] * 4 + ["6,Acme,DE"] * 2500
    lines = refusal(HEADER + "\n".join(rows) + "\n")
    # Four wrong values in each of three rows, three repetitions of merchant 5, and 2,500 rows too short.
    assert f"{3 * 4 + 3 + 2500:,} problems in 2,507 rows (the first 20 below)" in lines[0]
    assert len(lines) == 1 + 20
    numbers = [int(line.split()[1].rstrip(",:")) for line in lines[1:]]
    assert numbers == [2] * 4 + [3] * 4 + [4] * 4 + [6, 7, 8] + [9, 10, 11, 12, 13]
    assert lines[-1] == "  line 13: 3 fields where the header has 4"


def test_a_long_value_is_shortened_and_stays_on_its_line() -> None:
    first, problem = refusal(HEADER + '1,Acme,"' + "D\n" * 5000 + '",5411\n')
    assert "1 problem" in first
    assert len(problem) < 200


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the file is empty"),
        (b"\n \n", "the file is empty"),
        (HEADER, "it has a header and no rows"),
        ("merchant_id,merchant_name,country\n1,A,DE\n", "lacks the column category_code"),
        ("1,Acme,DE,5411\n", "lacks the columns merchant_id, merchant_name, country, category_code"),
        (HEADER.replace(",", ";") + "1;Acme;DE;5411\n", "separated by ';' instead of ','"),
        (HEADER.replace(",", "\t") + "1\tAcme\tDE\t5411\n", "separated by '\\t' instead of ','"),
        ("country," + HEADER + "DE,1,Acme,DE,5411\n", "names country more than once"),
        (b"<!DOCTYPE html>\n<html><title>404</title></html>", "HTML or XML page instead of CSV"),
        ((HEADER + "1,Acme,DE,5411\n").encode("utf-16"), "UTF-16 instead of UTF-8"),
        # 'é' of Latin-1 is the 6th byte of the second line, after the 48 of the first.
        ((HEADER + "1,Café,DE,5411\n").encode("latin-1"), "byte 54 (line 2) is 0xe9, which is not UTF-8"),
        (HEADER + "1,Ac\0me,DE,5411\n", "byte 53 (line 2) is NUL"),
        (HEADER + '1,"Acme,DE,5411\n2,Other,DE,5411\n', "the row that starts on line 2 is not CSV"),
        (HEADER + '1,"Acme"x,DE,5411\n', "the row that starts on line 2 is not CSV"),
    ],
)
def test_what_is_not_a_merchants_file_gets_one_line(content: str | bytes, says: str) -> None:
    lines = refusal(content)
    assert len(lines) == 1
    assert says in lines[0]


def test_a_file_cut_off_anywhere_is_refused_or_gives_whole_rows_only() -> None:
    content = (HEADER + "1,Acme,DE,5411\n2,Bäcker,AT,5462\n").encode()
    whole = read(content)
    for size in range(len(content)):
        try:
            part = read(content[:size])
        except CheckFailed:
            continue
        for name, values in part.items():
            assert values == whole[name][: len(values)]


def test_a_path_that_cannot_be_read_is_wrong_use(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path, says in [
        (tmp_path / "missing.csv", "no such file or directory"),
        (tmp_path, "it is a directory"),
        (fifo, "it is not a regular file"),
    ]:
        with pytest.raises(UsageError) as caught:
            read_source("Merchants file", path)
        assert caught.value.exit_code == 2
        assert str(caught.value).startswith(f"Merchants file '{path}': {says}")
