"""Result files: what ``paystream loadtest run --json FILE`` wrote, read back and checked.

What a file lacks or has as null was not measured and is None here (or empty), so that nobody downstream needs to ask
twice. Unknown keys are ignored: a newer Paystream may write more.
"""

import math
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from paystream.errors import UsageError
from paystream.validation import problems

FORMAT = 2
MOST_PROBLEMS = 3
"""Problems of a file that an error names; the others are mostly the same again."""

_ADVICE = "Name a file that `paystream loadtest run WORKLOAD --json FILE` wrote."
_AGAIN = "Make it anew with `paystream loadtest run WORKLOAD --json FILE`."


def _without_null(fields: Any) -> Any:
    if not isinstance(fields, Mapping):
        return fields
    return {
        name: value
        for name, value in fields.items()
        if value is not None and not (isinstance(value, float) and not math.isfinite(value))
    }


class _Part(BaseModel):
    """A part of a result. Null is the same as absent, and so is what no JSON number can say (NaN, infinity)."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _measured(cls, fields: Any) -> Any:
        return _without_null(fields)


class Threshold(_Part):
    """One thing that had to hold, in seconds or a count."""

    name: str
    meaning: str = ""
    measured: float | None = None
    limit: float | None = None
    unit: str = ""
    held: bool

    @property
    def is_percentile(self) -> bool:
        """Return whether it bounds a percentile of the canaries."""
        return self.unit == "s" and self.name.startswith("p")


class Machine(_Part):
    cores: int | None = None
    memory_bytes: int | None = None
    python: str | None = None
    clickhouse: str | None = None
    clickhouse_ahead_s: float | None = None
    paystream: str | None = None


class Generator(_Part):
    sent: int | None = None
    planned: int | None = None
    rejected: int | None = None
    first_error: str = ""
    queue_full: int | None = None
    lateness_p50_s: float | None = None
    lateness_p99_s: float | None = None
    lateness_max_s: float | None = None
    cpu_s: float | None = None


class Percentiles(_Part):
    """Latencies in seconds."""

    p50_s: float | None = None
    p95_s: float | None = None
    p99_s: float | None = None
    p999_s: float | None = None
    max_s: float | None = None


class Histogram(_Part):
    """``counts[i]`` latencies lie in (bounds_s[i - 1], bounds_s[i]], the last ones above all bounds."""

    bounds_s: list[float] = []
    counts: list[int] = []

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.bounds_s and len(self.counts) != len(self.bounds_s) + 1:
            raise ValueError("should have one count more than bounds")
        if self.bounds_s != sorted(set(self.bounds_s)):
            raise ValueError("bounds should ascend")
        return self


class LatencyAt(_Part):
    at_s: float
    canaries: int | None = None
    p50_s: float | None = None
    p95_s: float | None = None
    max_s: float | None = None


class Visibility(Percentiles):
    """What the canaries told: from the intended send time to a reader's answer."""

    canaries: int | None = None
    never_seen: int | None = None
    query_p95_s: float | None = None
    queries: int | None = None
    failed_queries: int | None = None
    histogram: Histogram = Histogram()
    timeline: list[LatencyAt] = []


class Stages(_Part):
    created_to_kafka: Percentiles = Percentiles()
    kafka_to_stored: Percentiles = Percentiles()
    created_to_stored: Percentiles = Percentiles()
    stored_to_visible: Percentiles = Percentiles()


class LagAt(_Part):
    at_s: float
    messages: float | None = None


class Lag(_Part):
    peak: int | None = None
    timeline: list[LagAt] = []


class PartsAt(_Part):
    at_s: float
    active: float | None = None
    merges: float | None = None


class Parts(_Part):
    at_start: int | None = None
    at_end: int | None = None
    peak: int | None = None
    inserted: int | None = None
    merged_seconds: float | None = None
    timeline: list[PartsAt] = []


class Bytes(_Part):
    wire_per_message: float | None = None
    stored_per_row: float | None = None


class UsageAt(_Part):
    at_s: float
    cpu_share: dict[str, float | None] = {}
    memory_bytes: dict[str, float | None] = {}


class Usage(_Part):
    # 0: the stack does not run on this machine.
    peak_memory_bytes: Annotated[float | None, AfterValidator(lambda size: size or None)] = None
    peak_memory_bytes_by_process: dict[str, float | None] = {}
    cpu_s: dict[str, float | None] = {}
    others_share: float | None = None
    busy_share: float | None = None
    timeline: list[UsageAt] = []


class Amounts(_Part):
    """Sums as decimal strings."""

    sent: str = ""
    stored: str = ""


class Transactions(_Part):
    accepted: int | None = None
    stored: int | None = None
    recovered: int | None = None
    duplicate_messages: int | None = None
    duplicate_rows_before_final: int | None = None
    state_messages: int | None = None
    overtaken_messages: int | None = None
    pending_as_planned: int | None = None
    malformed_messages: int | None = None
    refused_as_planned: int | None = None
    quarantine_reasons: Annotated[dict[str, int], BeforeValidator(_without_null)] = {}
    enrichment: Annotated[dict[str, int], BeforeValidator(_without_null)] = {}
    money: Annotated[dict[str, Amounts], BeforeValidator(_without_null)] = {}


class ResultFile(_Part):
    """A whole result. Only what makes it one is required: format, verdict, thresholds and the workload's name."""

    format: Literal[2]
    verdict: Literal["pass", "fail", "invalid", "partial"]
    invalid: list[str] = []
    partial: str = ""
    thresholds: list[Threshold]
    workload: dict[str, Any]
    started_at: datetime | None = None
    duration_s: float | None = None
    seed: int | None = None
    machine: Machine = Machine()
    generator: Generator = Generator()
    visibility: Visibility = Visibility()
    stages: Stages = Stages()
    lag: Lag = Lag()
    parts: Parts = Parts()
    bytes_: Bytes = Field(Bytes(), alias="bytes")
    usage: Usage = Usage()
    transactions: Transactions = Transactions()
    drain_s: float | None = None
    definitions: Annotated[dict[str, str], BeforeValidator(_without_null)] = {}

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if not isinstance(self.workload.get("name"), str):
            raise ValueError("workload.name: missing")
        broken = [threshold.name for threshold in self.thresholds if not threshold.held]
        if self.verdict == "pass" and (broken or not self.thresholds):
            raise ValueError(f"verdict: is 'pass' although {' and '.join(broken) or 'nothing'} was held against it")
        return self

    @property
    def name(self) -> str:
        """Return the workload's name."""
        return self.workload["name"]

    @property
    def no_result(self) -> list[str]:
        """Return why this run proves nothing; empty for one that passed or failed."""
        if self.verdict == "partial":
            return [f"ended early: {self.partial or 'no reason was given'}", *self.invalid]
        if self.verdict == "invalid":
            return self.invalid or ["no reason was given"]
        return []

    def latency(self, value_s: float | None) -> float | None:
        """Return a percentile of the canaries; infinity where canaries were watched and too few were seen."""
        return math.inf if value_s is None and self.visibility.canaries else value_s

    def measured(self, threshold: Threshold) -> float | None:
        """Return what a threshold was compared with; a percentile may be infinite."""
        return self.latency(threshold.measured) if threshold.is_percentile else threshold.measured


def read_document(path: Path) -> dict[str, Any]:
    """Read a result file as it is, after checking that it is one of this format.

    Raises:
        UsageError: it cannot be read, is no JSON, is cut short, or is no result of this format.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"Result file '{path}' cannot be read: {error.strerror or error}. {_ADVICE}") from error
    if not content.strip():
        raise UsageError(f"Result file '{path}': empty, so its run wrote no result. {_AGAIN}")
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        # Only a file that begins like a result can be one that was cut short.
        cut = content.lstrip().startswith(b"{") and "unexpected end" in error.msg
        what = "cut short" if cut else f"not JSON: {error.msg}, line {error.lineno}, column {error.colno}"
        raise UsageError(f"Result file '{path}': {what}. {_AGAIN if cut else _ADVICE}") from error
    if not isinstance(document, dict):
        raise UsageError(f"Result file '{path}': JSON, but no result of a load test. {_ADVICE}")
    if "format" not in document:
        raise UsageError(
            f"Result file '{path}': format 1, of an older Paystream, or of another command; format {FORMAT} is needed. "
            f"{_AGAIN}"
        )
    if document["format"] != FORMAT:
        raise UsageError(
            f"Result file '{path}': format {document['format']!r}, and this Paystream reads format {FORMAT}. "
            "Read it with the Paystream that wrote it; of a search for the capacity, each of its `steps` is a result."
        )
    parse(document, f"Result file '{path}'")
    return document


def parse(document: Mapping[str, Any], what: str = "Result") -> ResultFile:
    """Check a result document and make its parts accessible.

    Raises:
        UsageError: keys are missing or of another kind; names them.
    """
    try:
        return ResultFile.model_validate(document)
    except ValidationError as error:
        told = problems(error)
        more = f"; {len(told) - MOST_PROBLEMS} more" if len(told) > MOST_PROBLEMS else ""
        raise UsageError(f"{what}: {'; '.join(told[:MOST_PROBLEMS])}{more}. {_AGAIN}") from None
