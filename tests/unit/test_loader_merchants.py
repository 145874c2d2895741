"""What a merchants file may hold, and what a wrong one is told."""

import bz2
import gzip
import io
import os
import zipfile
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from paystream.errors import CheckFailed, UsageError
from paystream.loader.merchants import MerchantsFormat, read_merchants
from paystream.loader.source import GateFailed, Rejected, Source, read_source
from paystream.loader.unpack import unpacked

HEADER = "merchant_id,merchant_name,country,category_code\n"


def read(
    content: str | bytes, format: MerchantsFormat | None = None, allow_unknown_codes: bool = False
) -> dict[str, list]:
    data = content.encode() if isinstance(content, str) else content
    return read_merchants(Source("Merchants file", "m.csv", data), format, allow_unknown_codes).columns


def in_parquet(**columns: object) -> bytes:
    """Write these columns, and good ones in place of those that are not given."""
    rows = next((len(values) for values in columns.values()), 2)
    good = {
        "merchant_id": pa.array(range(1, rows + 1), pa.int32()),
        "merchant_name": pa.array(["Acme"] * rows, pa.string()),
        "country": pa.array(["DE"] * rows, pa.string()),
        "category_code": pa.array(["0742"] * rows, pa.string()),
    }
    file = io.BytesIO()
    parquet.write_table(pa.table(good | columns), file)
    return file.getvalue()


def refusal(
    content: str | bytes, format: MerchantsFormat | None = None, allow_unknown_codes: bool = False
) -> list[str]:
    with pytest.raises(CheckFailed) as caught:
        read(content, format, allow_unknown_codes)
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
        ("", "no place is named"),
        (tmp_path / "missing.csv", "no such file or directory"),
        (tmp_path, "it is a directory"),
        (fifo, "it is not a regular file"),
    ]:
        with pytest.raises(UsageError) as caught:
            read_source("Merchants file", path, folders=not path)
        assert caught.value.exit_code == 2
        assert str(caught.value).startswith(f"Merchants file '{path}': {says}")


MERCHANTS = st.lists(
    st.tuples(
        st.integers(1, 2**32 - 1),
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(
            lambda name: name.strip() != ""
        ),
        st.sampled_from(["DE", "US", "FR"]),
        st.sampled_from(["0742", "5411"]),
    ),
    min_size=1,
    unique_by=lambda row: row[0],
)


@pytest.mark.parametrize("id_type", [pa.int64(), pa.uint32(), pa.string()])
@pytest.mark.parametrize(
    "text_type", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
@given(rows=MERCHANTS)
def test_parquet_gives_what_was_written_however_it_is_stored(
    id_type: pa.DataType, text_type: pa.DataType, rows: list[tuple[int, str, str, str]]
) -> None:
    ids, names, countries, codes = map(list, zip(*rows, strict=True))
    as_stored = [str(number) for number in ids] if id_type == pa.string() else ids
    file = io.BytesIO()
    # In another order, with one more, and in row groups that are not read in one go.
    parquet.write_table(
        pa.table(
            {
                "category_code": pa.array(codes, text_type),
                "note": pa.array([1.5] * len(rows)),
                "merchant_name": pa.array(names, text_type),
                "merchant_id": pa.array(as_stored, id_type),
                "country": pa.array(countries, text_type),
            }
        ),
        file,
        row_group_size=3,
    )
    for format in (None, "parquet"):
        assert read(file.getvalue(), format) == {
            "merchant_id": ids,
            "merchant_name": names,
            "country": countries,
            "category_code": codes,
        }


@pytest.mark.parametrize(
    ("column", "values", "shown"),
    [
        ("merchant_id", pa.array([1, None], pa.int64()), "null"),
        ("merchant_id", pa.array([1, 0], pa.int64()), "'0'"),
        ("merchant_id", pa.array([1, -3], pa.int64()), "'-3'"),
        ("merchant_id", pa.array([1, 2**32], pa.int64()), "'4294967296'"),
        ("merchant_id", pa.array(["1", "1e3"]), "'1e3'"),
        ("merchant_name", pa.array(["A", None]), "null"),
        ("merchant_name", pa.array(["A", ""]), "''"),
        ("country", pa.array(["DE", None]).dictionary_encode(), "null"),
        ("country", pa.array(["DE", "de"]), "'de'"),
        ("category_code", pa.array(["0742", None]), "null"),
        ("category_code", pa.array(["0742", "742"]), "'742'"),
    ],
)
def test_a_wrong_value_in_parquet_is_named_with_its_row_and_column(column: str, values: pa.Array, shown: str) -> None:
    first, problem = refusal(in_parquet(**{column: values}))
    assert "1 problem in 2 rows" in first
    assert problem.startswith(f"  row 2, column {column}: {shown} is not a")


def test_rows_of_parquet_are_counted_on_from_one_batch_to_the_next() -> None:
    ids = [*range(1, 3000), 7, None]
    first, *problems = refusal(in_parquet(merchant_id=pa.array(ids, pa.int64())))
    assert "2 problems in 3,001 rows" in first
    assert problems == [
        "  row 3000, column merchant_id: '7' is already on row 7",
        "  row 3001, column merchant_id: null is not a whole number from 1 to 4294967295 in plain digits",
    ]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (in_parquet()[:-1], "the Parquet file is truncated: it does not end with PAR1"),
        (in_parquet()[:100], "the Parquet file is truncated: it does not end with PAR1"),
        (b"PAR1", "the Parquet file is damaged"),
        (b"PAR1" + b"\x55" * 100 + b"PAR1", "the Parquet file is damaged"),
        (in_parquet(merchant_id=pa.array([], pa.int32())), "it has columns and no rows"),
        (
            in_parquet(category_code=pa.array([742, 5411])),
            "column category_code is stored as int64 instead of a string, which loses leading zeros ('0742' becomes",
        ),
        (in_parquet(merchant_id=pa.array([1.0, 2.0])), "column merchant_id is stored as double instead of an integer"),
        (in_parquet(country=pa.array([b"DE", b"FR"])), "column country is stored as binary instead of a string"),
        (in_parquet(country=pa.nulls(2)), "column country is stored as null instead of a string"),
        (in_parquet(country=pa.array([["DE"], ["FR"]])), "column country is stored as list<"),
        (
            in_parquet(merchant_name=pa.Array.from_buffers(pa.string(), 2, pa.array([b"ok", b"caf\xe9"]).buffers())),
            "row 2, column merchant_name is not UTF-8",
        ),
    ],
)
def test_what_is_no_good_parquet_gets_one_line(content: bytes, says: str) -> None:
    lines = refusal(content)
    assert len(lines) == 1
    assert says in lines[0]


def test_parquet_lacks_a_column_or_has_it_twice() -> None:
    column = pa.array(["1"])
    file = io.BytesIO()
    parquet.write_table(pa.table([column] * 3, names=["merchant_id", "country", "country"]), file)
    assert "lacks the columns merchant_name, category_code (found: 'merchant_id', 'co" in refusal(file.getvalue())[0]
    file = io.BytesIO()
    names = ["merchant_id", "merchant_name", "country", "country", "category_code"]
    parquet.write_table(pa.table([column] * 5, names=names), file)
    assert "names country more than once" in refusal(file.getvalue())[0]


@given(st.data())
def test_parquet_that_is_damaged_anywhere_is_refused_or_gives_columns_of_one_length(data: st.DataObject) -> None:
    content = bytearray(in_parquet())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    try:
        columns = read(bytes(content), "parquet")
    except CheckFailed:
        return
    assert len({len(values) for values in columns.values()}) == 1


def test_the_format_that_is_named_counts_whatever_the_content_looks_like() -> None:
    assert "it is not Parquet: it does not start with PAR1" in refusal(HEADER + "1,A,DE,5411\n", "parquet")[0]
    assert "it is not Parquet" in refusal(b"<html>", "parquet")[0]
    assert "which no text contains" in refusal(in_parquet(), "csv")[0]
    assert read(HEADER + "1,A,DE,5411\n", "csv")["merchant_id"] == [1]


UNKNOWN = [("country", "UK"), ("country", "XX"), ("category_code", "0000"), ("category_code", "9998")]


@pytest.mark.parametrize(("column", "code"), UNKNOWN)
def test_unknown_codes_stop_a_file_unless_they_are_allowed(column: str, code: str) -> None:
    row = {"country": "DE", "category_code": "5411"} | {column: code}
    text = f"{HEADER}1,Good,DE,5411\n2,Odd,{row['country']},{row['category_code']}\n"
    stored = in_parquet(**{column: pa.array(["DE" if column == "country" else "0742", code])})
    for content, place in [(text, "line 3"), (stored, "row 2")]:
        with pytest.raises(GateFailed) as caught:
            read(content)
        assert caught.value.gate == "unknown-codes"
        first, problem = str(caught.value).splitlines()
        assert first.endswith("Nothing was changed. Correct it and run again, or override with --force unknown-codes.")
        assert problem.startswith(f"  {place}, column {column}: {code!r} is not an ISO ")
        assert read(content, allow_unknown_codes=True)[column][1] == code


@pytest.mark.parametrize(
    "row", ["2,Odd,uk,5411", "2,Odd,UK,541", "1,Odd,UK,5411", "2,,UK,5411", "2,Odd,UK", "2,Odd,UK\n,1"]
)
def test_unknown_codes_beside_another_problem_cannot_be_overridden(row: str) -> None:
    content = f"{HEADER}1,Good,XX,5411\n{row}\n"
    with pytest.raises(CheckFailed) as caught:
        read(content)
    assert not isinstance(caught.value, GateFailed)
    assert "--force" not in str(caught.value)
    with pytest.raises(CheckFailed) as caught:
        read(content, allow_unknown_codes=True)
    assert not isinstance(caught.value, GateFailed)


def test_unknown_codes_are_shown_among_the_other_problems_of_their_row() -> None:
    lines = refusal(f"{HEADER}0,,XX,742\n1,Acme,,0000\n")
    assert [line.split(":")[0] for line in lines[1:]] == [
        *(f"  line 2, column {name}" for name in ("merchant_id", "merchant_name", "country", "category_code")),
        *(f"  line 3, column {name}" for name in ("country", "category_code")),
    ]


@pytest.mark.parametrize("code", ["", "de", "DEU", "D1", "ÄÖ", "DE\n", "D E"])
def test_what_does_not_look_like_a_code_is_a_problem_even_if_unknown_codes_are_allowed(code: str) -> None:
    _, problem = refusal(f'{HEADER}1,Acme,"{code}",5411\n', allow_unknown_codes=True)
    assert problem.startswith(
        f"  line 2, column country: {code!r} is not an ISO 3166-1 country code of two capital letters"
    )


@given(st.lists(st.sampled_from(["UK", "XX", "DE", "de", ""]), min_size=1, max_size=30))
def test_the_gate_is_named_exactly_where_all_problems_are_unknown_codes(countries: list[str]) -> None:
    content = HEADER + "".join(f"{number},Acme,{country},5411\n" for number, country in enumerate(countries, 1))
    unknown = sum(country in ("UK", "XX") for country in countries)
    wrong = sum(country in ("de", "") for country in countries)
    try:
        read(content)
    except CheckFailed as error:
        assert f": {unknown + wrong} problem" in str(error)
        assert isinstance(error, GateFailed) == (wrong == 0)
    else:
        assert unknown + wrong == 0


ONE = HEADER + "1,One,DE,5411\n2,Two,XK,5723\n"


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def in_zstandard(data: bytes) -> bytes:
    file = pa.BufferOutputStream()
    with pa.CompressedOutputStream(file, "zstd") as target:
        target.write(data)
    return file.getvalue().to_pybytes()


@pytest.mark.parametrize(
    "packed",
    [
        gzip.compress,
        lambda data: gzip.compress(data[:40]) + gzip.compress(data[40:]),  # as parts that were put together
        bz2.compress,
        in_zstandard,
        lambda data: zipped({"merchants.csv": data}),
        lambda data: zipped({"export/merchants.csv": data, "readme.txt": b"hello"}),
    ],
)
@pytest.mark.parametrize("content", [ONE.encode(), in_parquet(category_code=pa.array(["5411", "5723"]))])
def test_a_compressed_file_gives_what_is_in_it(packed, content: bytes) -> None:
    assert read(packed(content)) == read(content)
    source = Source("Merchants file", "m.csv", packed(content))
    assert source.checksum != Source("Merchants file", "m.csv", content).checksum


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (zipped({"[Content_Types].xml": b"<x/>", "xl/workbook.xml": b"<x/>"}), "it is an Excel workbook (.xlsx)"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100), "it is an Excel workbook of the old format (.xls)"),
        (
            zipped({"mimetype": b"application/vnd.oasis.opendocument.spreadsheet", "content.xml": b"<x/>"}),
            "office program",
        ),
        (zipped({"a.csv": b"x", "b.csv": b"x"}), "the ZIP holds 2 files instead of one"),
        (zipped({}), "the ZIP holds 0 files instead of one"),
        (zipped({"a.csv": ONE.encode() * 100})[:80], "the ZIP is truncated or damaged"),
        (gzip.compress(ONE.encode())[:-9], "the compressed file is truncated or damaged"),
        (bz2.compress(ONE.encode())[:-9], "the compressed file is truncated or damaged"),
        (in_zstandard(os.urandom(5000))[:-900], "the compressed file is truncated or damaged"),
        (gzip.compress(b""), "the file is empty"),
    ],
)
def test_what_cannot_be_unpacked_is_named_for_what_it_is(content: bytes, says: str) -> None:
    [line] = refusal(content)
    assert says in line


def test_what_unpacks_to_more_than_fits_is_refused() -> None:
    source = Source("Merchants file", "m.csv", gzip.compress(bytes(5_000_000)))
    with pytest.raises(CheckFailed, match="what the compressed file holds is larger than 4,000,000 bytes"):
        unpacked(source, 4_000_000)


def test_whole_numbers_of_any_width_are_ids() -> None:
    for kind in (pa.int64(), pa.decimal128(38, 0), pa.decimal128(12, 0)):
        assert read(in_parquet(merchant_id=pa.array([7, 4294967295], kind)))["merchant_id"] == [7, 4294967295]
    [line] = refusal(in_parquet(merchant_id=pa.array([Decimal("7.0"), Decimal("8.0")], pa.decimal128(12, 1))))
    assert "column merchant_id is stored as decimal128(12, 1) instead of an integer or a string" in line


def test_a_folder_of_part_files_is_one_file(tmp_path: Path) -> None:
    folder = tmp_path / "merchants"
    folder.mkdir()
    (folder / "_SUCCESS").touch()
    (folder / ".part-00000.crc").write_bytes(b"x")
    (folder / "part-00000.csv").write_text(HEADER + "1,One,DE,5411\n2,Two,FR,5812\n")
    (folder / "part-00001.parquet").write_bytes(in_parquet(merchant_id=pa.array([3, 4])))
    (folder / "part-00002.csv.gz").write_bytes(gzip.compress((HEADER + "5,Five,DE,5411\n").encode()))
    source = read_source("Merchants file", folder, folders=True)
    assert read_merchants(source).columns["merchant_id"] == [1, 2, 3, 4, 5]
    before = source.checksum
    (folder / "part-00003.csv").write_text(HEADER + "2,Again,DE,5411\n6,Six,ZZ,5411\n")
    source = read_source("Merchants file", folder, folders=True)
    assert source.checksum != before
    with pytest.raises(CheckFailed) as refused:
        read_merchants(source)
    assert str(refused.value).splitlines()[1:] == [
        "  line 2 of part-00003.csv, column merchant_id: '2' is already on line 3 of part-00000.csv",
        "  line 3 of part-00003.csv, column country: 'ZZ' is not an ISO 3166-1 country code of two capital letters",
    ]
    with pytest.raises(UsageError, match="there is no file in that folder"):
        (tmp_path / "empty").mkdir()
        read_source("Merchants file", tmp_path / "empty", folders=True)


def test_codes_of_ones_own_are_known_and_no_others() -> None:
    content = HEADER + "1,One,AN,5411\n2,Two,DE,9751\n3,Three,ZZ,5411\n"
    source = Source("Merchants file", "m.csv", content.encode())
    with pytest.raises(GateFailed) as refused:
        read_merchants(source, countries=["AN"], category_codes=["9751"])
    assert [line.split(":")[0] for line in str(refused.value).splitlines()[1:]] == ["  line 4, column country"]
    assert read_merchants(source, countries=["AN", "ZZ"], category_codes=["9751"]).columns["merchant_id"] == [1, 2, 3]


def test_a_few_rows_with_unknown_codes_are_left_out_and_named() -> None:
    rows = [f"{number},Acme {number},DE,5411" for number in range(1, 2001)]
    rows[4], rows[999] = "5,Acme 5,QQ,5411", "1000,Acme 1000,DE,0001"

    def source() -> Source:
        return Source("Merchants file", "m.csv", (HEADER + "\n".join(rows) + "\n").encode())

    merchants = read_merchants(source(), rejected_share_limit=0.001)
    assert merchants.columns["merchant_id"] == [*range(1, 5), *range(6, 1000), *range(1001, 2001)]
    assert {len(values) for values in merchants.columns.values()} == {1998}
    assert merchants.columns["merchant_name"][4] == "Acme 6"
    country = "column country: 'QQ' is not an ISO 3166-1 country code of two capital letters"
    category = "column category_code: '0001' is not an ISO 18245 merchant category code of four digits"
    assert merchants.rejected == [Rejected("line 6", "5", country), Rejected("line 1001", "1000", category)]

    # Three of 2,000 are more than one in a thousand; a row with two unknown codes is one row.
    rows[999] = "1000,Acme 1000,QQ,0001"
    assert [row.key for row in read_merchants(source(), rejected_share_limit=0.001).rejected] == ["5", "1000"]
    rows[1999] = "2000,Acme 2000,ZZ,5411"
    with pytest.raises(GateFailed) as refused:
        read_merchants(source(), rejected_share_limit=0.001)
    assert str(refused.value).splitlines()[0] == (
        "Merchants file 'm.csv': 4 problems in 2,000 rows (listed below); at most 2 with unknown codes would be left "
        "out (PAYSTREAM_DIMS_REJECTED_SHARE_LIMIT). Nothing was changed. Correct it and run again, or override with "
        "--force unknown-codes."
    )
    # Nothing else is let through, however few rows it is in.
    rows[1999] = "2000,,DE,5411"
    with pytest.raises(CheckFailed) as refused:
        read_merchants(source(), rejected_share_limit=0.5)
    assert not isinstance(refused.value, GateFailed)
