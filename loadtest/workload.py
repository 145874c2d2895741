"""Workloads: what to send, how fast, for how long, and what must hold for the run to pass."""

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from paystream.errors import UsageError

SHIPPED = Path(__file__).with_name("workloads")

MOST_MESSAGES = 1_000_000_000
"""More than that is a misspelt number: the checker keeps one byte a message."""

Weights = Annotated[
    dict[Annotated[str, Field(min_length=1)], Annotated[float, Field(gt=0, le=1e9)]],
    Field(min_length=1),
]
Allowed = Annotated[int, Field(ge=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Thresholds(_Strict):
    """What a run must reach.

    The counts are of transactions, except for `rejected` and `quarantined` and what malformed messages add to the
    others, which are of messages.
    """

    p95_seconds: float = Field(gt=0, description="95th percentile from intended send time to visible for a reader")
    lost: Allowed = 0
    duplicated: Allowed = 0
    unexpected: Allowed = 0
    altered: Allowed = 0
    quarantined: Allowed = 0
    pending: Allowed = 0
    rejected: Allowed = 0
    generator_lateness_p99_seconds: float = Field(0.1, gt=0, description="beyond it, the run is invalid")


class Workload(_Strict):
    """One file of `loadtest/workloads/`.

    `rate_per_second` counts every message; `duplicate_share` of them repeat an earlier one byte for byte,
    `malformed_share` must be refused, each for one of the defects in `loadtest/defects.py`, and `canaries_per_second`
    are the transactions whose visibility is timed (a little more where the rate is no multiple of it, and at most all).
    Canaries are neither malformed nor duplicates.
    """

    description: str = Field(min_length=1)
    rate_per_second: int = Field(ge=1, le=1_000_000)
    duration_seconds: int = Field(ge=1, le=86_400)
    duplicate_share: float = Field(0.0, ge=0, le=0.9)
    malformed_share: float = Field(0.0, ge=0, le=0.9)
    canaries_per_second: int = Field(20, ge=1, le=100)
    currencies: Weights = {"EUR": 40, "USD": 30, "GBP": 15, "JPY": 5, "CHF": 4, "PLN": 3, "SEK": 3}
    statuses: Weights = {"captured": 60, "settled": 20, "authorized": 14, "refunded": 3, "failed": 2, "charged_back": 1}
    drain_timeout_seconds: int = Field(60, ge=1, le=3600, description="how long to wait for the last message")
    thresholds: Thresholds

    @model_validator(mode="after")
    def _fits(self) -> "Workload":
        if self.messages > MOST_MESSAGES:
            raise ValueError(f"rate_per_second x duration_seconds is above {MOST_MESSAGES:,} messages")
        return self

    @property
    def messages(self) -> int:
        """Return how many messages the whole run sends."""
        return self.rate_per_second * self.duration_seconds


def shipped() -> list[str]:
    """Return the names of the workloads that come with Paystream."""
    return sorted(file.stem for file in SHIPPED.glob("*.yaml"))


def load(name_or_path: str) -> Workload:
    """Read a workload by the name of a shipped one or by the path of a YAML file.

    Raises:
        UsageError: there is no such workload, or its file is not a valid one; names the file and every wrong field.
    """
    path = SHIPPED / f"{name_or_path}.yaml" if name_or_path in shipped() else Path(name_or_path)
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
            f"Take '{SHIPPED.name}/smoke.yaml' of the project as a pattern."
        )
    try:
        return Workload.model_validate(fields)
    except ValidationError as error:
        problems = "; ".join(_problem(one) for one in error.errors(include_url=False))
        raise UsageError(f"Workload '{path}': {problems}. Correct the file.") from None


def _problem(error: Any) -> str:
    field = ".".join(str(part) for part in error["loc"] if part != "[key]")
    if error["type"] == "extra_forbidden":
        return f"{field}: no such field"
    if error["type"] == "missing":
        return f"{field}: missing"
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    if not field:
        return message
    shown = "" if isinstance(error["input"], dict) else f" (it is {error['input']!r})"
    return f"{field}: {message}{shown}"


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key given twice is an error; the stock loader silently takes the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"field '{key.value}' appears twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)
