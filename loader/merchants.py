"""Merchants: what a merchants file may hold, and reading one at bulk speed."""

from itertools import islice
from typing import Annotated, Any

import iso18245
import pycountry
from pydantic import AfterValidator, BaseModel, Field, ValidationError

from loader.source import Problem, Problems, Source, read_csv, wrong_width

COUNTRIES = frozenset(country.alpha_2 for country in pycountry.countries)
"""ISO 3166-1 alpha-2 codes."""

CATEGORY_CODES = frozenset(category.mcc for category in iso18245.get_all_mccs())
"""ISO 18245 merchant category codes, four digits, with those that card schemes gave to single airlines and hotels."""

BATCH_ROWS = 1_000
"""Small: memory stays bounded whatever the file holds, and rows that die young cost the garbage collector nothing."""


def _merchant_id(text: str) -> int:
    if (number := int(text)) >= 2**32:
        raise ValueError
    return number


def _country(text: str) -> str:
    if text not in COUNTRIES:
        raise ValueError
    return text


def _category_code(text: str) -> str:
    if text not in CATEGORY_CODES:
        raise ValueError
    return text


class MerchantColumns(BaseModel):
    """Rows of a merchants file, column by column: what one field must be is its description."""

    merchant_id: list[Annotated[str, Field(pattern="^[1-9][0-9]{0,9}$"), AfterValidator(_merchant_id)]] = Field(
        description="a whole number from 1 to 4294967295 in plain digits"
    )
    merchant_name: list[Annotated[str, Field(pattern=r"\S")]] = Field(description="a name")
    country: list[Annotated[str, AfterValidator(_country)]] = Field(
        description="an ISO 3166-1 country code of two capital letters"
    )
    category_code: list[Annotated[str, AfterValidator(_category_code)]] = Field(
        description="an ISO 18245 merchant category code of four digits"
    )


COLUMNS = list(MerchantColumns.model_fields)


def read_merchants(source: Source) -> dict[str, list[Any]]:
    """Read and validate a merchants file.

    The file is UTF-8 CSV with the columns of ``MerchantColumns`` in any order; further columns are ignored.

    Returns:
        The columns, all of one length, in the order of the file; merchant ids are distinct.

    Raises:
        CheckFailed: the file is refused; the message counts all problems and lists the first twenty.
    """
    header, rows = read_csv(source, COLUMNS)
    positions = [header.index(name) for name in COLUMNS]
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    line_of: dict[int, int] = {}
    problems = Problems()
    count = 0
    while batch := list(islice(rows, BATCH_ROWS)):
        count += len(batch)
        found = [wrong_width(line, fields, header) for line, fields in batch if len(fields) != len(header)]
        lines = [line for line, fields in batch if len(fields) == len(header)]
        texts = {
            name: [fields[position] for _, fields in batch if len(fields) == len(header)]
            for name, position in zip(COLUMNS, positions, strict=True)
        }
        lines, valid = _validate(lines, texts, found)
        for line, merchant_id in zip(lines, valid.merchant_id, strict=True):
            first = line_of.setdefault(merchant_id, line)
            if first != line:
                found.append(Problem(line, "merchant_id", str(merchant_id), f"is already on line {first}"))
        for name in COLUMNS:
            columns[name] += getattr(valid, name)
        problems.add(found)
    if problems.count:
        raise source.refuse_rows(problems, count)
    if not count:
        raise source.refuse("it has a header and no rows", "Fetch it again")
    return columns


def _validate(lines: list[int], texts: dict[str, list[str]], found: list[Problem]) -> tuple[list[int], MerchantColumns]:
    """Return the valid rows and their lines; add what is wrong with the others to ``found``."""
    try:
        return lines, MerchantColumns.model_validate(texts)
    except ValidationError as error:
        wrong = set()
        for fault in error.errors(include_url=False, include_context=False):
            column, row = fault["loc"][:2]
            wrong.add(row)
            expected = MerchantColumns.model_fields[column].description
            found.append(Problem(lines[row], column, fault["input"], f"is not {expected}"))
        right = [row for row in range(len(lines)) if row not in wrong]
        kept = {name: [values[row] for row in right] for name, values in texts.items()}
        return [lines[row] for row in right], MerchantColumns.model_validate(kept)
