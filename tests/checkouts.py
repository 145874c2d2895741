"""A copy of the schema's files that a test may edit, with its versions."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from paystream.migrations import draft
from paystream.migrations.history import read_history
from paystream.project import CHECKOUT
from paystream.settings import Settings


def following(name: str) -> str:
    """Return the id of a version of this name that follows the repository's newest."""
    return f"{int(read_history()[-1].number) + 1:04d}_{name}"


@dataclass(frozen=True)
class Checkout:
    """The folders ``sql/``, ``dictionaries/`` and ``migrations/`` under a root of the test's own."""

    root: Path

    @classmethod
    def copied(cls, root: Path) -> "Checkout":
        """Copy the repository's schema files to a folder."""
        for name in ("sql", "dictionaries", "migrations/versions"):
            shutil.copytree(CHECKOUT / name, root / name)
        for name in ("versions.lock", "schema.sql"):
            shutil.copy(CHECKOUT / "migrations" / name, root / "migrations" / name)
        return cls(root)

    @property
    def versions(self) -> Path:
        return self.root / "migrations" / "versions"

    def path(self, name: str) -> Path:
        """Return the file of an object."""
        [found] = self.root.rglob(f"{name}.sql")
        return found

    def edit(self, name: str, *replacements: tuple[str, str]) -> None:
        """Replace texts in the file of an object, each at its first place."""
        text = self.path(name).read_text()
        for old, new in replacements:
            assert old in text, f"{name}: {old}"
            text = text.replace(old, new, 1)
        self.path(name).write_text(text)

    def shorten_flush(self) -> None:
        """Change a setting of the Kafka table, which no ALTER does."""
        self.edit("transactions_queue", ("kafka_flush_interval_ms = 100", "kafka_flush_interval_ms = 50"))

    def add_channel(self) -> None:
        """Add a field of the message as a column, through every object on its way to a report of its own."""
        status = "    status          LowCardinality(String),\n"
        self.edit("transactions_parsed", (status, f"{status}    channel         LowCardinality(String),\n"))
        self.edit(
            "transactions_parsed_mv",
            ("updated_at String)'", "updated_at String, channel String)'"),
            ("    field.status AS status,\n", "    field.status AS status,\n    field.channel AS channel,\n"),
        )
        self.edit("transactions_mv", ("    status,\n", "    status,\n    channel,\n"))
        status = "    status                 LowCardinality(String),\n"
        self.edit("transactions", (status, f"{status}    channel                LowCardinality(String),  -- how\n"))
        self.edit(
            "transactions_to_repair",
            ("    t.status AS status,\n", "    t.status AS status,\n    t.channel AS channel,\n"),
        )
        snapshot = "    merchant_snapshot_id UInt32,\n"
        self.edit("merchant_slots", (snapshot, f"{snapshot}    channels Array(LowCardinality(String)),\n"))
        payments = "    groupArray((currency"
        self.edit(
            "merchant_slots_mv",
            (payments, f"    groupUniqArrayArray(used) AS channels,\n{payments}"),
            (
                "        count() AS transactions,\n",
                "        groupUniqArray(channel) AS used,\n        count() AS transactions,\n",
            ),
        )
        (self.root / "sql/4_report/report_channels_by_day.sql").write_text(
            "CREATE VIEW report_channels_by_day AS\n"
            "SELECT toDate(slot) AS day, arrayJoin(channels) AS channel, uniqExact(merchant_id) AS merchants\n"
            "FROM merchant_slots FINAL\n"
            "GROUP BY day, channel\n"
        )

    def new(self, name: str, engine: Settings | None = None) -> draft.Draft:
        """Write the next version."""
        return draft.new(name, self.root, engine)
