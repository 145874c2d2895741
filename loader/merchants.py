"""Merchants: what a merchants file may hold, and reading one at bulk speed."""

from collections.abc import Collection
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Annotated, Any, Literal

import iso18245
import pycountry
from pydantic import AfterValidator, BaseModel, Field

from paystream.loader.source import MOST_REJECTED, Problem, Problems, Rejected, Source, line, row
from paystream.loader.tables import PARQUET_MAGIC, Batch, csv_batches, parquet_batches, validate
from paystream.loader.unpack import unpacked

ISO_3166_1 = frozenset(country.alpha_2 for country in pycountry.countries)

COUNTRIES = ISO_3166_1 | {"XK"}
"""ISO 3166-1 alpha-2 codes, and the one that the European Union, the IMF and SWIFT use for Kosovo until it has one."""

CATEGORY_CODES = frozenset(category.mcc for category in iso18245.get_all_mccs()) | {"5723"}
"""ISO 18245 merchant category codes, four digits, with those that card schemes gave to single airlines and hotels, and
the one for guns and ammunition, which ISO 18245 has had since 2023 and the package has not yet."""

MerchantsFormat = Literal["csv", "parquet"]

_PART = 10**12
"""Where the places of the second part file begin: more than a file has lines."""


def _merchant_id(text: str) -> int:
    if (number := int(text)) >= 2**32:
        raise ValueError
    return number


class MerchantColumns(BaseModel):
    """Rows of a merchants file, column by column: what one field must be is its description."""

    merchant_id: list[Annotated[str, Field(pattern="^[1-9][0-9]{0,9}$"), AfterValidator(_merchant_id)]] = Field(
        description="a whole number from 1 to 4294967295 in plain digits"
    )
    merchant_name: list[Annotated[str, Field(pattern=r"\S")]] = Field(description="a name")
    country: list[Annotated[str, Field(pattern="^[A-Z]{2}$")]] = Field(
        description="an ISO 3166-1 country code of two capital letters"
    )
    category_code: list[Annotated[str, Field(pattern="^[0-9]{4}$")]] = Field(
        description="an ISO 18245 merchant category code of four digits"
    )


COLUMNS = list(MerchantColumns.model_fields)


@dataclass(frozen=True)
class Merchants:
    """What a merchants file holds."""

    columns: dict[str, list[Any]]
    """Those of ``MerchantColumns``, all of one length, in the order of the file; merchant ids are distinct."""
    rejected: list[Rejected]
    """Rows that are not among these, for a code that no list has."""


def read_merchants(
    source: Source,
    format: MerchantsFormat | None = None,
    allow_unknown_codes: bool = False,
    countries: Collection[str] = (),
    category_codes: Collection[str] = (),
    rejected_share_limit: float = 0,
) -> Merchants:
    """Read and validate a merchants file, or a folder of part files.

    It has the columns of ``MerchantColumns`` in any order; further columns are ignored. CSV is UTF-8. Parquet stores
    merchant_id as integers, decimals without decimals or strings, the others as strings. Either may be compressed.

    Args:
        source: the file.
        format: what it is; by default its content tells.
        allow_unknown_codes: take countries of two capital letters and categories of four digits that no list has.
        countries: further ones that are known.
        category_codes: further ones that are known.
        rejected_share_limit: where codes that no list has are all that is wrong, and in no more than this share of the
            rows, these rows are left out; otherwise the file is refused.

    Raises:
        GateFailed: codes that no list has are all that is wrong with the file, and in too many rows.
        CheckFailed: the file is refused; the message counts all problems and lists the first twenty.
    """
    parts = [unpacked(part) for part in source.parts or (source,)]
    is_parquet = [format == "parquet" or (format is None and part.data.startswith(PARQUET_MAGIC)) for part in parts]

    def name_place(place: int) -> str:
        part, within = divmod(place, _PART)
        text = row(within) if is_parquet[part] else line(within)
        return f"{text} of {Path(parts[part].name).name}" if source.parts else text

    known = {"country": COUNTRIES.union(countries), "category_code": CATEGORY_CODES.union(category_codes)}
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    place_of: dict[int, int] = {}
    problems = Problems(name_place)
    count = 0
    for number, part in enumerate(parts):
        batches = parquet_batches(part, COLUMNS, {"merchant_id"}) if is_parquet[number] else csv_batches(part, COLUMNS)
        for batch in batches:
            count += batch.rows
            places, valid, of_batch = validate(
                MerchantColumns, _at(batch, number), {} if allow_unknown_codes else known
            )
            for place, merchant_id in zip(places, valid.merchant_id, strict=True):
                first = place_of.setdefault(merchant_id, place)
                if first != place:
                    of_batch.append(
                        Problem(place, "merchant_id", str(merchant_id), f"is already on {name_place(first)}")
                    )
            for name in COLUMNS:
                columns[name] += getattr(valid, name)
            problems.add(of_batch)
    wrong = problems.unknown_at
    most = min(int(rejected_share_limit * count), MOST_REJECTED)
    if problems.count > problems.unknown_codes or len(wrong) > most:
        limit = f"; at most {most:,} with unknown codes would be left out (PAYSTREAM_DIMS_REJECTED_SHARE_LIMIT)"
        raise source.refuse_rows(problems, count, limit)
    if not count:
        raise source.refuse(f"it has {'columns' if is_parquet[0] else 'a header'} and no rows", "Fetch it again")
    if not wrong:
        return Merchants(columns, [])
    rejected = [
        Rejected(name_place(place), str(merchant_id), wrong[place].text)
        for merchant_id, place in place_of.items()
        if place in wrong
    ]
    right = [place not in wrong for place in place_of.values()]
    return Merchants({name: list(compress(values, right)) for name, values in columns.items()}, rejected)


def _at(batch: Batch, part: int) -> Batch:
    """Return a batch whose places say in which part file they are."""
    if not part:
        return batch
    moved = [problem._replace(place=problem.place + part * _PART) for problem in batch.problems]
    return batch._replace(places=[place + part * _PART for place in batch.places], problems=moved)
