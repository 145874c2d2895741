"""Rows of a file, batch by batch: from CSV or Parquet to columns of text, and from those to valid values."""

import csv
import io
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from paystream.loader.source import Problem, Source

BATCH_ROWS = 1_000
"""Small: memory stays bounded whatever the file holds, and rows that die young cost the garbage collector nothing."""

PARQUET_MAGIC = b"PAR1"

Columns = TypeVar("Columns", bound=BaseModel)


class Batch(NamedTuple):
    """Some rows of a file."""

    rows: int
    """How many, with those that have another number of fields than the header."""
    places: list[int]
    """Numbers of the lines (CSV) or rows (Parquet) that ``columns`` come from."""
    columns: dict[str, list[str | None]]
    """Text by column; a null of Parquet is None."""
    problems: list[Problem]


def csv_batches(source: Source, names: list[str]) -> Iterator[Batch]:
    """Yield these columns of a CSV file, which may have them in any order and others beside them.

    Raises:
        CheckFailed: as ``read_csv``.
    """
    header, rows = read_csv(source, names)
    positions = [header.index(name) for name in names]
    while batch := list(islice(rows, BATCH_ROWS)):
        yield Batch(
            len(batch),
            [line for line, fields in batch if len(fields) == len(header)],
            {
                name: [fields[position] for _, fields in batch if len(fields) == len(header)]
                for name, position in zip(names, positions, strict=True)
            },
            [wrong_width(line, fields, header) for line, fields in batch if len(fields) != len(header)],
        )


def parquet_batches(source: Source, names: list[str], whole_numbers: set[str]) -> Iterator[Batch]:
    """Yield these columns of a Parquet file as text; it may have them in any order and others beside them.

    Args:
        source: the file.
        names: the columns, each stored as strings, dictionary-encoded or not.
        whole_numbers: those of them that may be stored as integers instead.

    Raises:
        CheckFailed: it is not Parquet, or truncated or damaged, or a column is missing or of another type.
    """
    # Slow to import and large.
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    if not source.data.startswith(PARQUET_MAGIC):
        raise source.refuse("it is not Parquet: it does not start with PAR1", "Check where it was fetched from")
    if not source.data.endswith(PARQUET_MAGIC):
        raise source.refuse("the Parquet file is truncated: it does not end with PAR1", "Fetch it again")
    try:
        file = ParquetFile(pa.BufferReader(source.data), page_checksum_verification=True)
        _check_parquet_columns(source, file.schema_arrow, names, whole_numbers)
        first = 1
        for batch in file.iter_batches(BATCH_ROWS, columns=names, use_threads=False):
            columns = {name: _texts(source, name, batch.column(name), first) for name in names}
            yield Batch(batch.num_rows, list(range(first, first + batch.num_rows)), columns, [])
            first += batch.num_rows
    except (pa.ArrowException, OSError, ValueError) as error:
        cause = " ".join(str(error).split())[:200].rstrip(".")
        raise source.refuse(f"the Parquet file is damaged ({cause})", "Fetch it again") from None


def _check_parquet_columns(source: Source, schema: Any, names: list[str], whole_numbers: set[str]) -> None:
    from pyarrow import types

    _check_header(source, schema.names, names)
    for name in names:
        kind = schema.field(name).type
        stored = kind.value_type if types.is_dictionary(kind) else kind
        if types.is_string(stored) or types.is_large_string(stored) or types.is_string_view(stored):
            continue
        # Snowflake's NUMBER without decimals is a decimal too.
        is_number = types.is_integer(stored) or (types.is_decimal(stored) and stored.scale == 0)
        if is_number and name in whole_numbers:
            continue
        expected = "an integer or a string" if name in whole_numbers else "a string"
        why = ", which loses leading zeros ('0742' becomes 742)" if is_number else ""
        raise source.refuse(f"column {name} is stored as {kind} instead of {expected}{why}")


def _texts(source: Source, name: str, array: Any, first: int) -> list[str | None]:
    import pyarrow as pa

    try:
        return array.cast(pa.string()).to_pylist()
    except (UnicodeDecodeError, pa.ArrowInvalid):
        for row, value in enumerate(array, first):
            try:
                value.as_py()
            except UnicodeDecodeError:
                raise source.refuse(f"row {row:,}, column {name} is not UTF-8") from None
        raise


def read_csv(source: Source, required: list[str]) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Read UTF-8 text as comma-separated values with a header; a byte order mark and blank lines are passed over.

    Returns:
        The header, and an iterator over the rows, each with the number of the line it starts on. A row may have more
        or fewer fields than the header.

    Raises:
        CheckFailed: what was read is not such a file, or its header lacks a required column or names it twice. The
            iterator raises it too, for a quote that is wrong or never closed.
    """
    _check_text(source)
    rows = _rows(source)
    _, header = next(rows, (0, []))
    _check_header(source, header, required)
    return header, rows


def wrong_width(line: int, fields: list[str], header: list[str]) -> Problem:
    """Return the problem of a row whose number of fields is not that of the header."""
    return Problem(line, "", None, f"{len(fields)} field{'s' * (len(fields) != 1)} where the header has {len(header)}")


def validate(
    model: type[Columns], batch: Batch, known: dict[str, frozenset[str]]
) -> tuple[list[int], Columns, list[Problem]]:
    """Validate the rows of a batch, column by column.

    Args:
        model: has one list for each column; what one value must be is the field's description.
        batch: the rows.
        known: the codes that a column may hold. Others that the model takes are problems of the kind that can be
            overridden.

    Returns:
        The places of the rows that the model takes, those rows, and all problems of the batch.
    """
    problems = list(batch.problems)
    wrong: set[tuple[int, str]] = set()
    try:
        places, valid = batch.places, model.model_validate(batch.columns)
    except ValidationError as error:
        for fault in error.errors(include_url=False, include_context=False):
            column, row = fault["loc"][:2]
            wrong.add((row, column))
            problems.append(Problem(batch.places[row], column, fault["input"], _expected(model, column)))
        right = sorted(set(range(len(batch.places))) - {row for row, _ in wrong})
        places = [batch.places[row] for row in right]
        valid = model.model_validate({name: [values[row] for row in right] for name, values in batch.columns.items()})
    for column, codes in known.items():
        if not codes.issuperset(batch.columns[column]):
            problems += [
                Problem(batch.places[row], column, value, _expected(model, column), is_unknown_code=True)
                for row, value in enumerate(batch.columns[column])
                if value not in codes and (row, column) not in wrong
            ]
    # An unknown code stands where its column does.
    order = ["", *batch.columns]
    return places, valid, sorted(problems, key=lambda problem: (problem.place, order.index(problem.column)))


def _expected(model: type[BaseModel], column: str) -> str:
    return f"is not {model.model_fields[column].description}"


def _check_header(source: Source, header: list[str], required: list[str]) -> None:
    missing = [name for name in required if name not in header]
    if missing:
        separator = next((mark for mark in ";\t|" if set(required) <= set(",".join(header).split(mark))), None)
        if separator:
            raise source.refuse(f"columns are separated by {separator!r} instead of ','")
        names = ", ".join(repr(name[:40]) for name in header[:10]) + ", ..." * (len(header) > 10)
        raise source.refuse(
            f"the header lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)} (found: {names})"
        )
    repeated = [name for name in required if header.count(name) > 1]
    if repeated:
        raise source.refuse(f"the header names {', '.join(repeated)} more than once")


def check_not_empty(source: Source) -> None:
    """Refuse a file that holds nothing but white space."""
    if not source.data.strip():
        raise source.refuse("the file is empty", "Fetch it again")


def _check_text(source: Source) -> None:
    check_not_empty(source)
    if source.data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise source.refuse("the file is UTF-16 instead of UTF-8", "Save it as UTF-8")
    if is_markup(source):
        raise source.refuse("the file is an HTML or XML page instead of CSV", "Check where it was fetched from")
    if (position := source.data.find(b"\0")) >= 0:
        raise source.refuse(f"{_place(source, position)} is NUL, which no text contains")
    try:
        source.data.decode()
    except UnicodeDecodeError as error:
        place = _place(source, error.start)
        raise source.refuse(
            f"{place} is 0x{source.data[error.start]:02x}, which is not UTF-8 there", "Save it as UTF-8"
        ) from None


def is_markup(source: Source) -> bool:
    """Say whether a file is HTML or XML."""
    return source.data[:100].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")


def _place(source: Source, position: int) -> str:
    line = source.data.count(b"\n", 0, position) + 1
    return f"byte {position + 1:,} (line {line:,})"


def _rows(source: Source) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.TextIOWrapper(io.BytesIO(source.data), encoding="utf-8-sig", newline=""), strict=True)
    line = 1
    try:
        for fields in reader:
            if fields:
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise source.refuse(f"the row that starts on line {line:,} is not CSV ({error})") from None
