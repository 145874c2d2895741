"""Which shard a row belongs to, and since when there are so many.

All states of a payment have to meet on one shard, also once there are more shards than when its first one came. So a
moment that a row never changes decides beside the hash of its key: payments created before there was a new shard hash
over the old ones, later ones over all.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True)
class Key:
    """What decides on the shard of a table's rows."""

    hash: str
    """An expression that spreads them, and is the same for rows that replace each other."""
    since: str
    """The column that says how old a row is, the same for these too; ``""`` for none."""


@dataclass(frozen=True)
class Sharding:
    """How many shards there have been, and until when: each but the last with the moment (UTC) at which it ended."""

    shards: int
    before: tuple[tuple[datetime, int], ...] = ()

    def expression(self, key: Key) -> str:
        """Return the sharding expression of a table: the number of the shard, from 0."""
        if not (self.before and key.since):
            return f"{key.hash} % {self.shards}"
        ages = ", ".join(
            f"{key.since} < toDateTime64('{moment:%Y-%m-%d %H:%M:%S}', 3, 'UTC'), {key.hash} % {shards}"
            for moment, shards in self.before
        )
        return f"multiIf({ages}, {key.hash} % {self.shards})"

    def grown(self, shards: int, since: datetime) -> "Sharding":
        """Return it with more shards from a moment on."""
        return Sharding(shards, (*self.before, (since, self.shards)))

    @classmethod
    def parsed(cls, engine: str) -> "Sharding | None":
        """Return what the engine of a table that rows are written through says; None where it says nothing of it."""
        counts = [int(count) for count in re.findall(r"\) % (\d+)", engine)]
        moments = [
            datetime.strptime(text, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
            for text in re.findall(r"toDateTime64\('([^']*)'", engine)
        ]
        if not counts or len(counts) != len(moments) + 1:
            return None
        return cls(counts[-1], tuple(zip(moments, counts[:-1], strict=True)))
