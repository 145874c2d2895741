"""A rate of 1 for the reporting currency, which needs no quote: also before any file of rates was loaded."""

from clickhouse_connect.driver.client import Client

from paystream.settings import Settings

TABLE = "fx_rates"

# Snapshots of `paystream dims refresh` count from 1, and each replaces all that is there.
_RATES = f"SELECT max(snapshot_id), anyOrNull(reporting_currency) FROM {TABLE}"


def seed(client: Client, settings: Settings) -> None:
    """Let the reporting currency of the settings have its rate, as long as no file was loaded.

    Does nothing where the versions have no rates (yet).
    """
    if not _exists(client):
        return
    [[snapshot_id, currency]] = client.query(_RATES).result_rows
    if snapshot_id or currency == settings.reporting_currency:
        return
    client.command(f"TRUNCATE TABLE {TABLE}")
    client.command(
        f"INSERT INTO {TABLE} (currency, rate_date, rate, reporting_currency, snapshot_id)"
        " SELECT {currency:String}, toDate(0), 1, {currency:String}, 0",
        parameters={"currency": settings.reporting_currency},
    )
    client.command("SYSTEM RELOAD DICTIONARY fx_rates_dict")


def is_all(client: Client) -> bool:
    """Return whether what the table of rates holds is that rate and nothing else, so that to drop it loses nothing."""
    return _exists(client) and not client.query(_RATES).first_row[0]


def _exists(client: Client) -> bool:
    return bool(client.command(f"EXISTS TABLE {TABLE}"))
