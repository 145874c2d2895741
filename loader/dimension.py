"""What the dimensions are."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Dimension:
    """What a dimension consists of in ClickHouse."""

    name: str
    table: str
    history: str
    """The table that keeps a copy of each snapshot."""
    key: tuple[str, ...]
    values: tuple[str, ...]
    """The columns that say something about the key."""
    dictionary: str
    dictionary_source: str
    dictionary_columns: tuple[str, ...]
    setting_column: str | None = None
    """The column with the setting that the rows were computed with: another value makes them other rows."""


MERCHANTS = Dimension(
    name="merchants",
    table="merchants",
    history="merchants_history",
    key=("merchant_id",),
    values=("merchant_name", "country", "category_code"),
    dictionary="merchants_dict",
    dictionary_source="merchants",
    dictionary_columns=("merchant_id", "merchant_name", "country", "category_code", "snapshot_id"),
)

FX = Dimension(
    name="fx",
    table="fx_rates",
    history="fx_rates_history",
    key=("currency", "rate_date"),
    values=("rate", "reporting_currency"),
    dictionary="fx_rates_dict",
    dictionary_source="fx_rate_periods",
    dictionary_columns=(
        "currency",
        "valid_from",
        "valid_to",
        "rate",
        "rate_date",
        "is_latest",
        "reporting_currency",
        "snapshot_id",
    ),
    setting_column="reporting_currency",
)
