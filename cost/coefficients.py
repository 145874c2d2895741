"""What was measured: processor time, bytes on the wire and on disk, at several rates, and the line through them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import yaml
from pydantic import Field

from paystream.cost.files import Strict, of_project, parse, read
from paystream.errors import UsageError
from paystream.loadtest.report_file import ResultFile, read_document
from paystream.loadtest.report_file import parse as parse_result

MEASURED = "coefficients.yaml"

# Student's t for a two-sided interval of 95 %, by degrees of freedom; any table of the distribution has them.
_T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228}
_T_95_MORE = 2.228

Amount = Annotated[float, Field(gt=0)]


class Point(Strict):
    """A run at a constant rate: messages a second, mean cores used by each process, bytes each, merges' share."""

    rate_per_second: int = Field(ge=1)
    seconds: Amount
    engine_cores: Amount
    broker_cores: Amount
    wire_bytes: Amount
    row_bytes: Amount
    merge_seconds: float = Field(ge=0)
    p95_s: Amount


@dataclass(frozen=True)
class Line:
    """``base + slope x rate``, by least squares, with 95 % intervals of both under the usual assumptions."""

    base: float
    slope: float
    base_interval: float
    slope_interval: float

    def at(self, rate: float) -> float:
        """Return the value at a rate."""
        return self.base + self.slope * rate


class Coefficients(Strict):
    """What was measured, and on which machine."""

    measured_on: str
    cores: int
    memory_bytes: int
    clickhouse: str
    command: str
    points: list[Point] = Field(min_length=2)

    @cached_property
    def engine(self) -> Line:
        """Return the cores that ClickHouse uses, by messages a second."""
        return fit(self.points, lambda point: point.engine_cores)

    @cached_property
    def broker(self) -> Line:
        """Return the cores that the broker uses, by messages a second."""
        return fit(self.points, lambda point: point.broker_cores)

    def wire_bytes(self, rate: float) -> float:
        """Return the bytes of a message on the wire: batches fill with the rate, and larger ones compress better.

        Between two measured rates along the logarithm of the rate; beyond them, as at the nearest.
        """
        rates = [math.log(point.rate_per_second) for point in self.points]
        return float(np.interp(math.log(max(rate, 1)), rates, [point.wire_bytes for point in self.points]))

    @property
    def row_bytes(self) -> float:
        """Return the bytes of a row on disk, at the highest rate measured: that has the largest parts."""
        return self.points[-1].row_bytes

    @property
    def merge_share(self) -> float:
        """Return which share of the engine's processor time merges took, at most: some of theirs is waiting."""
        return sum(point.merge_seconds for point in self.points) / sum(
            point.engine_cores * point.seconds for point in self.points
        )

    def prediction(self, known: int, rate: int) -> tuple[float, float]:
        """Return the engine's cores at a rate as predicted, and as measured.

        Predicted are the cores measured at the known rate, and beyond them the slope of the line through all runs but
        the one that is predicted.

        Raises:
            UsageError: one of the two rates was not measured, or fewer than three runs are left.
        """
        at = {point.rate_per_second: point.engine_cores for point in self.points}
        others = [point for point in self.points if point.rate_per_second != rate]
        if known not in at or rate not in at or len(others) < 3:
            raise UsageError(
                f"Prediction for {rate:,}/s from {known:,}/s: needs runs at both rates, and three without the one "
                "predicted. Measure more with `paystream loadtest run`, then `paystream cost fit`."
            )
        slope = fit(others, lambda point: point.engine_cores).slope
        return at[known] + slope * (rate - known), at[rate]


def fit(points: Sequence[Point], value: Callable[[Point], float]) -> Line:
    """Fit a line through points by least squares, all with the same weight: runs differ by as much at any rate.

    Intervals are those of linear regression (Draper and Smith, Applied Regression Analysis, chapter 1); infinite of two
    points.
    """
    rates = np.array([point.rate_per_second for point in points], dtype=float)
    values = np.array([value(point) for point in points])
    slope, base = np.polyfit(rates, values, 1)
    freedom = len(points) - 2
    if freedom < 1:
        return Line(float(base), float(slope), math.inf, math.inf)
    residuals = values - base - slope * rates
    deviations = ((rates - rates.mean()) ** 2).sum()
    spread = _T_95.get(freedom, _T_95_MORE) * math.sqrt((residuals**2).sum() / freedom / deviations)
    return Line(float(base), float(slope), float(spread * math.sqrt((rates**2).mean())), float(spread))


def load_coefficients(path: Path | None = None) -> Coefficients:
    """Read what was measured.

    Raises:
        UsageError: the file cannot be read or lacks something.
    """
    return read(path or of_project(MEASURED), Coefficients)


def from_results(files: Sequence[Path]) -> dict[str, Any]:
    """Return coefficients, as the file holds them, of results of `paystream loadtest run --json`.

    Raises:
        UsageError: a file is no result, or one from which nothing follows: it did not pass, its rate was not constant,
            or it was measured on another machine.
    """
    if len(files) < 2:
        raise UsageError("Fit: one rate makes no line. Name at least two results.")
    results = {file: parse_result(read_document(file)) for file in files}
    points = sorted((_point(file, result) for file, result in results.items()), key=lambda point: point.rate_per_second)
    rates = [point.rate_per_second for point in points]
    if twice := sorted({rate for rate in rates if rates.count(rate) > 1}):
        raise UsageError(f"Fit: two results at {twice[0]:,}/s. Name one for each rate.")
    all_machines = [result.machine for result in results.values()]
    machines = {(machine.cores, machine.memory_bytes, machine.clickhouse) for machine in all_machines}
    if len(machines) > 1:
        raise UsageError("Fit: the results are of different machines or engines. Name results of one.")
    [(cores, memory_bytes, clickhouse)] = machines
    days = sorted({f"{result.started_at:%Y-%m-%d}" for result in results.values() if result.started_at})
    fields = {
        "measured_on": days[-1] if days else "unknown",
        "cores": cores,
        "memory_bytes": memory_bytes,
        "clickhouse": clickhouse,
        "command": "devstack/bench_cost.sh",
        "points": [point.model_dump() for point in points],
    }
    return parse(fields, Path(MEASURED), Coefficients).model_dump()


def as_yaml(fields: dict[str, Any]) -> str:
    """Return coefficients as the text of their file."""
    head = "# Measured, not guessed: written by `paystream cost fit`. Cores are means over the run; bytes are each.\n"
    return head + yaml.safe_dump(fields, sort_keys=False, width=120)


def _point(file: Path, result: ResultFile) -> Point:
    what = f"Result '{file}'"
    if result.verdict not in ("pass", "fail") or result.workload.get("shape"):
        raise UsageError(f"{what}: {result.verdict}, or no constant rate, so no cost follows from it. Leave it out.")
    used, seconds = result.usage.cpu_s, result.duration_s
    wire, row = result.bytes_.wire_per_message, result.bytes_.stored_per_row
    if not seconds or not used.get("clickhouse") or not used.get("broker") or not wire or not row:
        raise UsageError(
            f"{what}: processor time or bytes were not measured. Measure on the local stack (`paystream up`)."
        )
    return Point(
        rate_per_second=result.workload["rate_per_second"],
        seconds=round(seconds, 1),
        engine_cores=round(used["clickhouse"] / seconds, 4),
        broker_cores=round(used["broker"] / seconds, 4),
        wire_bytes=round(wire, 1),
        row_bytes=round(row, 1),
        merge_seconds=result.parts.merged_seconds or 0.0,
        p95_s=round(result.visibility.p95_s or 1e-3, 3),
    )
