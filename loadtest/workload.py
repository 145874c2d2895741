"""Workloads: what to send, how fast, for how long, and what must hold for the run to pass."""

from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from paystream.errors import UsageError
from paystream.loadtest import rates
from paystream.loadtest.messages import LONGEST_OVERTAKING_S
from paystream.loadtest.plan import Plan
from paystream.settings import project_folder
from paystream.validation import problems

MOST_MESSAGES = 1_000_000_000
"""More than that is a typo: the checker keeps one byte a message."""

MOST_PER_SECOND = 1_000_000
"""Intended send times are whole microseconds, and no two are the same."""

OLDEST_S = 2_900 * 86_400
"""Ingest takes no payment older than 96 months, which are 2,922 days at least."""

WITHOUT_RATE = ("KES", "NGN", "PEN", "UAH", "XOF")
"""Currencies that the European Central Bank does not quote."""

Weights = Annotated[
    dict[Annotated[str, Field(min_length=1)], Annotated[float, Field(gt=0, le=1e9)]], Field(min_length=1)
]
Allowed = Annotated[int, Field(ge=0)]
Rate = Annotated[int, Field(ge=1, le=MOST_PER_SECOND)]
Share = Annotated[float, Field(ge=0, le=0.9)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Thresholds(_Strict):
    """What a run must reach.

    The counts are of transactions; `rejected`, `quarantined`, and what malformed messages add to the others are of
    messages.
    """

    p95_seconds: float = Field(gt=0, description="95th percentile from intended send time to visible for a reader")
    lost: Allowed = 0
    duplicated: Allowed = 0
    unexpected: Allowed = 0
    altered: Allowed = 0
    quarantined: Allowed = 0
    pending: Allowed = 0
    rejected: Allowed = 0
    parts: int | None = Field(None, ge=1, description="active parts of transactions, at any moment")
    generator_lateness_p99_seconds: float = Field(0.1, gt=0, description="beyond it, the run is invalid")


class Ramp(_Strict):
    """From `rate_per_second` evenly to another rate."""

    kind: Literal["ramp"]
    to_per_second: Rate = Field(description="rate of the last second")


class Step(_Strict):
    """A rate that holds from some second on."""

    after_seconds: int = Field(ge=1, description="since the run's beginning")
    rate_per_second: Rate


class Steps(_Strict):
    """`rate_per_second`, then other rates, each at once."""

    kind: Literal["steps"]
    steps: list[Step] = Field(min_length=1, description="in the order of their times")


class Daily(_Strict):
    """A day compressed into the run, with `rate_per_second` as its average and its peak in the middle."""

    kind: Literal["daily"]
    peak_to_average: float = Field(ge=1, le=20, description="the peak's rate as a multiple of the average")


class Burst(_Strict):
    """`rate_per_second`, and regularly another rate for a while."""

    kind: Literal["burst"]
    burst_per_second: Rate = Field(description="rate within a burst")
    every_seconds: int = Field(ge=2, description="from the end of one burst to that of the next")
    for_seconds: int = Field(ge=1, description="how long a burst lasts")


class HotMerchants(_Strict):
    """A few merchants that get a large share of the payments."""

    count: int = Field(ge=1, le=1_000_000)
    share: float = Field(gt=0, lt=1)


Shape = Annotated[Ramp | Steps | Daily | Burst, Field(discriminator="kind")]


class Workload(_Strict):
    """One file of `loadtest/workloads/`; docs/loadtest.md explains each field.

    Shares are of all messages unless they say otherwise. Canaries, the transactions whose visibility is timed, are
    ordinary payments: none of the shares takes one.
    """

    description: str = Field(min_length=1)
    rate_per_second: Rate
    duration_seconds: int = Field(ge=1, le=86_400)
    shape: Shape | None = None
    payload_bytes: int = Field(0, ge=0, le=100_000)
    hot_merchants: HotMerchants | None = None
    zipf_exponent: float = Field(0.0, ge=0, le=5)
    duplicate_share: Share = 0.0
    late_share: Share = 0.0
    late_by_seconds: int = Field(0, ge=0, le=OLDEST_S)
    state_share: Share = 0.0
    out_of_order_share: float = Field(0.0, ge=0, le=1)
    malformed_share: Share = 0.0
    unknown_merchant_share: Share = 0.0
    pending_currency_share: Share = 0.0
    canaries_per_second: int = Field(20, ge=1, le=100)
    currencies: Weights = {"EUR": 40, "USD": 30, "GBP": 15, "JPY": 5, "CHF": 4, "PLN": 3, "SEK": 3}
    statuses: Weights = {"captured": 60, "settled": 20, "authorized": 14, "refunded": 3, "failed": 2, "charged_back": 1}
    drain_timeout_seconds: int = Field(60, ge=1, le=3600, description="how long to wait for the last message")
    thresholds: Thresholds

    @model_validator(mode="after")
    def _fits(self) -> Self:
        match self.shape:
            case Steps(steps=steps):
                times = [0, *(step.after_seconds for step in steps), self.duration_seconds]
                if any(later <= earlier for earlier, later in pairwise(times)):
                    raise ValueError("shape.steps: after_seconds must rise from step to step, within duration_seconds")
            case Burst(every_seconds=every, for_seconds=length) if length >= every:
                raise ValueError("shape.for_seconds: must be less than every_seconds")
            case Daily(peak_to_average=ratio) if self.rate_per_second * ratio > MOST_PER_SECOND:
                raise ValueError(f"shape.peak_to_average: the peak would be above {MOST_PER_SECOND:,} a second")
        if self.messages > MOST_MESSAGES:
            if self.shape is None:
                raise ValueError(f"rate_per_second x duration_seconds is above {MOST_MESSAGES:,} messages")
            raise ValueError(f"shape: its rates make more than {MOST_MESSAGES:,} messages")
        if bool(self.late_share) != bool(self.late_by_seconds):
            raise ValueError("late_share and late_by_seconds: both or neither")
        if self.out_of_order_share and not self.state_share:
            raise ValueError("out_of_order_share: is of the messages that state_share chooses, which is 0")
        if self.hot_merchants and self.zipf_exponent:
            raise ValueError("hot_merchants and zipf_exponent: one or the other")
        return self

    @cached_property
    def second_rates(self) -> list[int]:
        """Return how many messages each second sends; empty where the rate is constant."""
        seconds, rate = self.duration_seconds, self.rate_per_second
        match self.shape:
            case Ramp(to_per_second=last):
                return rates.ramp(seconds, rate, last)
            case Steps(steps=steps):
                return rates.steps(seconds, rate, [(step.after_seconds, step.rate_per_second) for step in steps])
            case Daily(peak_to_average=ratio):
                return rates.daily(seconds, rate, ratio)
            case Burst(burst_per_second=burst, every_seconds=every, for_seconds=length):
                return rates.bursts(seconds, rate, burst, every, length)
        return []

    @property
    def messages(self) -> int:
        """Return how many messages the whole run sends."""
        return sum(self.second_rates) or self.rate_per_second * self.duration_seconds

    @property
    def rate_text(self) -> str:
        """Return the rate or the range of rates, for people."""
        if not self.second_rates:
            return f"{self.rate_per_second:,}/s"
        return f"{min(self.second_rates):,} to {max(self.second_rates):,}/s"

    @property
    def oldest_s(self) -> int:
        """Return how old a payment may be when it is sent."""
        return self.late_by_seconds + (LONGEST_OVERTAKING_S if self.out_of_order_share else 0)


def plan_of(
    workload: Workload, seed: int, merchants: list[int], canary_merchant: int, pending_currencies: list[str]
) -> Plan:
    """Return what a run of the workload sends.

    Args:
        workload: what to send.
        seed: decides everything that is random.
        merchants: the ids that are loaded.
        canary_merchant: the one that all canaries belong to.
        pending_currencies: codes without a rate, for the payments that are to wait for one.
    """
    hot = workload.hot_merchants
    return Plan(
        seed=seed,
        rate_per_second=max(1, workload.messages // workload.duration_seconds),
        messages=workload.messages,
        second_rates=workload.second_rates,
        duplicate_share=workload.duplicate_share,
        malformed_share=workload.malformed_share,
        canaries_per_second=workload.canaries_per_second,
        merchants=merchants,
        canary_merchant=canary_merchant,
        hot_merchants=hot.count if hot else 0,
        hot_share=hot.share if hot else 0.0,
        zipf_exponent=workload.zipf_exponent,
        currencies=dict(workload.currencies),
        statuses=dict(workload.statuses),
        late_share=workload.late_share,
        late_by_us=workload.late_by_seconds * 1_000_000,
        state_share=workload.state_share,
        out_of_order_share=workload.out_of_order_share,
        unknown_merchants=_not_among(merchants, 100) if workload.unknown_merchant_share else [],
        unknown_merchant_share=workload.unknown_merchant_share,
        pending_currencies=pending_currencies if workload.pending_currency_share else [],
        pending_currency_share=workload.pending_currency_share,
        payload_bytes=workload.payload_bytes,
    )


def _not_among(merchants: list[int], count: int) -> list[int]:
    """Return the highest merchant ids that are none of these."""
    taken = set(merchants)
    free = (number for number in range(2**32 - 1, 0, -1) if number not in taken)
    return list(islice(free, count))


def shipped() -> list[str]:
    """Return the names of the project's workloads."""
    return sorted(file.stem for file in _folder().glob("*.yaml"))


def load(name_or_path: str) -> Workload:
    """Read a workload by the name of a shipped one or by the path of a YAML file.

    Raises:
        UsageError: there is no such workload, or its file is not a valid one; names the file and every wrong field.
    """
    path = _folder() / f"{name_or_path}.yaml" if name_or_path in shipped() else Path(name_or_path)
    advice = f"Name a file, or one of: {', '.join(shipped())}."
    if path.suffix not in (".yaml", ".yml") and not path.is_file():
        raise UsageError(f"Workload '{name_or_path}': no such workload. {advice}")
    try:
        fields = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except OSError as error:
        raise UsageError(f"Workload '{path}': {error.strerror or error}. {advice}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = " ".join(str(error).split())
        raise UsageError(f"Workload '{path}': not readable as YAML: {problem}. Correct the file.") from error
    if not isinstance(fields, dict):
        raise UsageError(
            f"Workload '{path}': not a list of `field: value` lines. "
            f"Take 'loadtest/workloads/smoke.yaml' of the project as a pattern."
        )
    try:
        return Workload.model_validate(fields)
    except ValidationError as error:
        told = "; ".join(problems(error, shows_value=True))
        raise UsageError(f"Workload '{path}': {told}. Correct the file.") from None


def _folder() -> Path:
    return project_folder() / "loadtest" / "workloads"


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key given twice is an error; the stock loader silently takes the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"field '{key.value}' appears twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)
