"""A user whose profile is read-only (`readonly = 1`), as those who only read reports often are."""

import csv
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from ingest import warehouse_of
from payments import message
from server_process import running_server

from paystream.reports.report import REPORTS

FINANCE = """<clickhouse>
    <profiles><finance><readonly>1</readonly></finance></profiles>
    <users><finance>
        <password/><networks><ip>::/0</ip></networks><profile>finance</profile><quota>default</quota>
    </finance></users>
</clickhouse>"""


def test_a_user_who_may_only_read_reads_every_report(
    tmp_path: Path, paystream_here: Callable[..., tuple[int, str, list[str]]]
) -> None:
    with (
        running_server(tmp_path / "server", {"users.d/finance.xml": FINANCE}) as server,
        warehouse_of(server.settings, tmp_path / "home") as (settings, ingest),
    ):
        ingest.load_merchants((1, "Bakery", "DE", "5462"))
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        times = {"created_at": now, "updated_at": now}
        ingest.deliver(message(merchant_id=1, currency="KES", amount="12.50", status="captured", **times))
        ingest.complete_reports()
        reader = settings.model_copy(update={"clickhouse_user": "finance"})
        for report in REPORTS:
            for kind in ("csv", "json"):
                code, out, err = paystream_here(reader, "report", report, "--day", "today", "--format", kind)
                assert (code, err) == (0, []), (report, err)
        _, out, _ = paystream_here(reader, "report", "merchant_by_day", "--day", "today", "--format", "json")
        assert json.loads(out)[0]["amount_reporting"] is None
        # What has no value is nothing in a file, for whom the setting can be changed.
        _, out, _ = paystream_here(settings, "report", "merchant_by_day", "--day", "today", "--format", "csv")
        [row] = csv.DictReader(io.StringIO(out))
        assert (row["amount"], row["amount_reporting"], row["transactions_without_rate"]) == ("12.5", "", "1")
