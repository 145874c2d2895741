"""Traffic and machines: what a rate means in bytes, cores, brokers and disks. Pure functions of rate and drivers."""

import math
from dataclasses import dataclass
from typing import Literal

from paystream.cost.assumptions import Drivers
from paystream.cost.coefficients import Coefficients
from paystream.cost.prices import PriceBook

HOURS = 730
SECONDS = HOURS * 3600
DAYS = HOURS / 24
GB = 1e9
TB = 1e12
GIB = 2.0**30
TIB = 2.0**40

COPIES = 3
"""Kafka keeps each message on three brokers, one in each zone."""

REPLICAS = 2
KEEPERS = 3

MOST_RATE = 10_000_000
"""Messages a second; nothing here was meant for more."""

Kind = Literal[
    "broker compute", "broker storage", "warehouse compute", "warehouse storage", "keepers", "backups",
    "network between zones", "network out", "stream processor", "loading", "support",
]  # fmt: skip

SIZES = {"large": 2, "xlarge": 4, "2xlarge": 8}
"""Cores of the machines in the price book. Larger ones cost as many of the largest."""


@dataclass(frozen=True)
class Item:
    """A line of the bill: US dollars in the first month and in a month at the end of retention."""

    what: str
    kind: Kind
    first_month: float
    steady: float
    how: str
    prices: tuple[str, ...]


@dataclass(frozen=True)
class Sizing:
    """Everything an estimate follows from."""

    rate: float
    measured: Coefficients
    prices: PriceBook
    drivers: Drivers

    @property
    def messages(self) -> float:
        """Return the messages of a month."""
        return self.rate * SECONDS

    @property
    def peak_rate(self) -> float:
        """Return messages a second at the peak."""
        return self.rate * self.drivers["peak_to_average"]

    @property
    def wire_bytes(self) -> float:
        """Return the bytes of a message on the wire and on a broker's disk."""
        return self.measured.wire_bytes(self.rate) * self.drivers["message_size_factor"]

    @property
    def json_bytes(self) -> float:
        """Return the bytes of a message before compression."""
        return self.drivers["json_bytes"] * self.drivers["message_size_factor"]

    @property
    def wire_gb(self) -> float:
        """Return what a month sends, in GB on the wire."""
        return self.messages * self.wire_bytes / GB

    @property
    def json_gb(self) -> float:
        """Return what a month sends, in GB before compression."""
        return self.messages * self.json_bytes / GB

    @property
    def peak_mb_s(self) -> float:
        """Return what producers send at the peak, in MB/s on the wire."""
        return self.peak_rate * self.wire_bytes / 1e6

    @property
    def stored_gb_month(self) -> float:
        """Return what a month adds to the warehouse, in GB on one replica."""
        return self.messages * self.measured.row_bytes * self.drivers["row_size_factor"] / GB

    def kept(self, gb_month: float) -> tuple[float, float]:
        """Return how much is kept, in GB: on average over the first month, and once retention is reached."""
        months = self.drivers["warehouse_retention_months"]
        return gb_month * min(0.5, months), gb_month * months

    def engine_cores(self, share: float = 1.0) -> float:
        """Return the cores that one ClickHouse server needs: for the peak and for reports, at the utilisation wanted.

        Args:
            share: what of ingest is left to ClickHouse.
        """
        busy = self.measured.engine.at(self.peak_rate) * share + self.drivers["report_cores"]
        return busy * self.drivers["core_factor"] / self.drivers["utilisation_at_peak"]

    def price(self, price_id: str) -> float:
        """Return a price.

        Raises:
            UsageError: the book has none of this id.
        """
        return self.prices[price_id].price

    def item(
        self,
        what: str,
        kind: Kind,
        amount: float | tuple[float, float],
        price_id: str,
        unit: str,
        times: float = 1.0,
        discounted: bool = False,
        also: tuple[str, ...] = (),
    ) -> Item:
        """Return an amount at a price.

        Args:
            what: for the bill.
            kind: the line that it belongs to.
            amount: how much a month; two values where the first month has another than a later one.
            price_id: of the price book.
            unit: of the amount, for the explanation.
            times: another factor, such as copies.
            discounted: whether the discount for computers applies.
            also: prices that the amount was made with.
        """
        first, steady = amount if isinstance(amount, tuple) else (amount, amount)
        price = self.price(price_id)
        factor = price * times * (1 - self.drivers["discount"] if discounted else 1)
        shown = f"{steady:,.0f}" if steady >= 100 else f"{steady:.3g}"
        shown += f" {unit}" + (f" x {times:g}" if times != 1 else "")
        return Item(what, kind, first * factor, steady * factor, f"{shown} at ${price:g}", (price_id, *also))

    def machines(self, what: str, kind: Kind, cores: float, count: int, family: str) -> Item:
        """Return ``count`` machines of at least so many cores each."""
        size = next((name for name, has in SIZES.items() if has >= cores), "2xlarge")
        each = max(1, math.ceil(cores / SIZES["2xlarge"])) if size == "2xlarge" else 1
        hours = count * each * HOURS
        described = f"{what}, {count} x {each * SIZES[size]} cores"
        return self.item(described, kind, hours, f"ec2_{family}_{size}", "machine hours", discounted=True)


def brokers(sizing: Sizing, family: str, streams: int = 1) -> tuple[int, str, float]:
    """Return the cheapest brokers that take the peak: how many, which price, and their hours a month.

    Args:
        sizing: the traffic.
        family: prefix of the prices, ``msk_m7g`` or ``ec2_m7g``.
        streams: 2 where a processor writes a second topic.
    """
    load = sizing.peak_mb_s * streams
    choices = []
    for size, cores in SIZES.items():
        takes = sizing.drivers["broker_mb_s_large"] * cores / SIZES["large"]
        count = max(COPIES, COPIES * math.ceil(load / takes / COPIES))
        price_id = f"{family}_{size}"
        choices.append((count * sizing.price(price_id), count, price_id))
    _, count, price_id = min(choices)
    return count, price_id, count * HOURS
