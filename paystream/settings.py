"""The one place that reads the environment."""

import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

from dotenv import dotenv_values
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from paystream import project as project_folders
from paystream.currencies import iso_4217
from paystream.errors import UsageError
from paystream.validation import problems


def _form(pattern: str, what: str) -> AfterValidator:
    """Return what makes sure that a value matches as a whole; ``what`` completes "it is not …"."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"not {what}")
        return text

    return AfterValidator(check)


_PROJECT = "PAYSTREAM_PROJECT"

Port = Annotated[int, Field(ge=1, le=65535)]
Identifier = Annotated[str, _form("[A-Za-z_][A-Za-z0-9_]*", "a name of letters, digits and _")]

_BROKER = r"(\[[0-9A-Fa-f:.]+\]|[^\s:,/\[\]]+):\d{1,5}"
Brokers = Annotated[
    str,
    BeforeValidator(lambda text: re.sub(r"\s*,\s*", ",", text.strip()) if isinstance(text, str) else text),
    _form(rf"{_BROKER}(,{_BROKER})*", "host:port[,host:port...], such as kafka1:9092,kafka2:9092"),
]


def _is_host(text: str) -> str:
    if not re.fullmatch(r"[^\s:/@\[\]]+|\[?[0-9A-Fa-f]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*\]?", text):
        raise ValueError(
            "not a host's name or address alone (the port is PAYSTREAM_CLICKHOUSE_PORT, and https is "
            "PAYSTREAM_CLICKHOUSE_SECURE=true)"
        )
    return text.strip("[]")


def _is_currency(code: str) -> str:
    if code not in iso_4217():
        raise ValueError("not an ISO 4217 currency code, such as USD")
    return code


class Settings(BaseSettings):
    """Every setting, read from ``PAYSTREAM_<NAME>`` or the ``.env`` file of the project folder.

    The defaults address the local stack that ``paystream up`` starts; pointing them at a real ClickHouse server and a
    real Kafka is all that production needs.
    """

    # Where others pass an environment on, what is not set is often empty.
    model_config = SettingsConfigDict(env_prefix="PAYSTREAM_", extra="ignore", env_ignore_empty=True)

    project: Path | None = Field(
        default_factory=lambda: project_folders.find(Path.cwd()),
        description="the project folder; else the nearest from the working directory upward",
    )
    home: Path = Field(
        default_factory=lambda settings: (settings["project"] or Path.cwd()) / ".paystream",
        description="data and logs of the local stack",
    )

    kafka_brokers: Brokers = Field("127.0.0.1:19092", description="host:port[,host:port...]")
    clickhouse_kafka_brokers: Brokers | None = Field(
        None,
        description="the brokers as ClickHouse reaches them, where that differs from kafka_brokers (another network)",
    )
    kafka_topic: Annotated[
        str, _form("[A-Za-z0-9._-]{1,249}", "a topic's name: letters, digits, '.', '_' and '-', at most 249")
    ] = "transactions"
    kafka_group: Annotated[str, _form(r"\S+", "a name without spaces")] = Field(
        "paystream", description="consumer group of the ClickHouse Kafka table"
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    kafka_sasl_username: str | None = None
    kafka_sasl_password: SecretStr | None = None
    kafka_ssl_ca_location: str | None = Field(
        None, min_length=1, description="file with the CA that signed the brokers' certificates; the same on both sides"
    )
    kafka_ssl_certificate_location: str | None = Field(None, min_length=1, description="file with our certificate")
    kafka_ssl_key_location: str | None = Field(None, min_length=1, description="file with its private key")
    kafka_ssl_key_password: SecretStr | None = None
    kafka_client_settings: Annotated[
        str, _form("([a-z0-9._]+=[^,]*(,[a-z0-9._]+=[^,]*)*)?", "key=value[,key=value...], such as client.rack=eu-1a")
    ] = Field(
        "",
        description="further keys of librdkafka, key=value[,key=value...], for the tools and for ClickHouse",
    )

    clickhouse_host: Annotated[str, AfterValidator(_is_host)] = "127.0.0.1"
    clickhouse_port: Port = 18123
    clickhouse_native_port: Port = Field(
        19000, description="native protocol of the local ClickHouse, for other clients"
    )
    clickhouse_user: str = Field("default", min_length=1)
    clickhouse_password: SecretStr = SecretStr("")
    clickhouse_secure: bool = False
    clickhouse_database: Identifier = "paystream"
    clickhouse_cluster: Annotated[str, _form("([A-Za-z_][A-Za-z0-9_]*)?", "a name of letters, digits and _")] = Field(
        "", description="the cluster that holds the schema, as the servers' remote_servers names it; empty: one server"
    )
    clickhouse_nodes: Annotated[
        str,
        BeforeValidator(lambda text: re.sub(r"\s*,\s*", ",", text.strip()) if isinstance(text, str) else text),
        _form(rf"({_BROKER}(,{_BROKER})*)?", "host:port[,host:port...], such as ch1:8123,ch2:8123"),
    ] = Field(
        "",
        description="HTTP address of every node of the cluster; empty: those of system.clusters, which takes that "
        "clickhouse_host answers",
    )

    reporting_currency: Annotated[str, AfterValidator(_is_currency)] = Field(
        "USD", description="ISO 4217 code of the currency that every amount is converted to"
    )

    dims_further_countries: Annotated[
        str, _form("([A-Z]{2}(,[A-Z]{2})*)?", "codes of two capital letters with commas between, such as AN,CS")
    ] = Field("", description="countries that are in use and in no list, such as AN,CS")
    dims_further_category_codes: Annotated[
        str, _form("([0-9]{4}(,[0-9]{4})*)?", "codes of four digits with commas between, such as 5723,9751")
    ] = Field("", description="categories that are in use and in no list")
    dims_rejected_share_limit: float = Field(
        0.001,
        ge=0,
        le=0.5,
        description="rows of a merchants file with unknown codes are left out if they are no larger a share of it; "
        "otherwise it is refused",
    )
    dims_row_fall_limit: float = Field(
        0.1, ge=0, le=1, description="a dimension that loses more than this share of its rows is refused"
    )
    dims_rate_move_limit: float = Field(
        0.2, gt=0, description="a rate that moves by more than this share from one quote to the next is refused"
    )
    dims_snapshots_kept: int = Field(
        60, ge=1, le=1000, description="so many snapshots can be compared and rolled back to"
    )
    dims_merchant_changes: Literal["keep", "restate"] = Field(
        "keep",
        description="whether a transaction keeps the merchant's name, country and category that were known when it was "
        "paid, or takes over what they are corrected to",
    )

    status_lag_limit_seconds: float = Field(
        60.0, gt=0, description="not healthy once the oldest unread message has waited longer"
    )
    status_refused_share_limit: float = Field(
        0.01, ge=0, le=1, description="not healthy when more than this share of the messages is refused"
    )
    status_dimension_age_limit_hours: float = Field(
        144.0, gt=0, description="not healthy when a dimension was loaded, or found unchanged, longer ago"
    )
    status_merchants_age_limit_hours: float | None = Field(None, gt=0, description="another limit for merchants alone")
    status_fx_age_limit_hours: float | None = Field(None, gt=0, description="another limit for exchange rates alone")
    status_audit_age_limit_hours: float = Field(24.0, gt=0, description="not healthy when the last audit is older")
    status_expiry_limit_hours: float = Field(24.0, gt=0, description="not healthy when unread messages expire sooner")

    def dimension_age_limit_hours(self, dimension: Literal["merchants", "fx"]) -> float:
        """The age at which a dimension is too old for ``paystream status``."""
        own = {"merchants": self.status_merchants_age_limit_hours, "fx": self.status_fx_age_limit_hours}
        return own[dimension] or self.status_dimension_age_limit_hours

    @property
    def kafka_addresses(self) -> list[tuple[str, int]]:
        """Host and port of each of the brokers; IPv6 addresses without brackets."""
        addresses = (broker.rpartition(":") for broker in self.kafka_brokers.split(","))
        return [(host.strip("[]"), int(port)) for host, _, port in addresses]

    @property
    def kafka_security(self) -> dict[str, str]:
        """How a client proves itself and knows the brokers, and further settings, by librdkafka's names."""
        values = {
            "security.protocol": self.kafka_security_protocol,
            "sasl.mechanism": self.kafka_sasl_mechanism,
            "sasl.username": self.kafka_sasl_username,
            "sasl.password": self.kafka_sasl_password,
            "ssl.ca.location": self.kafka_ssl_ca_location,
            "ssl.certificate.location": self.kafka_ssl_certificate_location,
            "ssl.key.location": self.kafka_ssl_key_location,
            "ssl.key.password": self.kafka_ssl_key_password,
        }
        plain = {
            key: value.get_secret_value() if isinstance(value, SecretStr) else value for key, value in values.items()
        }
        further = dict(pair.split("=", 1) for pair in self.kafka_client_settings.split(",") if pair)
        return {key: value for key, value in plain.items() if value} | further

    @property
    def node_addresses(self) -> list[tuple[str, int]]:
        """Host and HTTP port of each of ``clickhouse_nodes``; IPv6 addresses without brackets."""
        addresses = (node.rpartition(":") for node in self.clickhouse_nodes.split(",") if node)
        return [(host.strip("[]"), int(port)) for host, _, port in addresses]

    def at(self, host: str, port: int) -> "Settings":
        """Return these settings with another ClickHouse server, such as another node of the cluster."""
        return self.model_copy(update={"clickhouse_host": host, "clickhouse_port": port})

    def environment(self) -> dict[str, str]:
        """Return these settings as environment variables, for a child process to read the same ones."""
        values = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if value is not None:
                plain = value.get_secret_value() if isinstance(value, SecretStr) else value
                values[f"PAYSTREAM_{name.upper()}"] = str(plain)
        return values


def load_settings() -> Settings:
    """Read the settings: from the environment, and what that does not say from the project folder's ``.env``.

    Outside of a project, ``.env`` is read from the working directory.

    Raises:
        UsageError: naming every setting that is unknown or malformed, never showing a value, or ``.env`` can't be read,
            or ``PAYSTREAM_PROJECT`` names no project folder.
    """
    folder = _project_folder()
    in_file = _env_file((folder or Path.cwd()) / ".env")
    known = {f"PAYSTREAM_{name.upper()}" for name in Settings.model_fields}
    unknown = {name: "" for name in os.environ if name.upper().startswith("PAYSTREAM_") and name not in known}
    unknown |= {name: " in .env" for name in in_file if name not in known - {_PROJECT}}
    if unknown:
        told = ", ".join(f"{name}{where}{_meant(name, known)}" for name, where in sorted(unknown.items()))
        raise UsageError(f"Settings are wrong: no such setting: {told}. See docs/settings.md for all.")
    filled = {name for name, value in in_file.items() if value}
    taken = {name for name, value in os.environ.items() if value}
    given = {name.removeprefix("PAYSTREAM_").lower(): in_file[name] for name in filled - taken}
    try:
        return Settings(project=folder, **given)
    except ValidationError as error:
        told = "; ".join(problems(error, lambda place: f"PAYSTREAM_{'_'.join(map(str, place)).upper()}"))
        raise UsageError(f"Settings are wrong: {told}. Correct them in the environment or in .env.") from None


def name_project(folder: Path) -> None:
    """Have this process and those that it starts work on a project folder, whatever their working directory."""
    os.environ[_PROJECT] = str(folder.absolute())


def project_folder() -> Path:
    """Return the project folder that commands work on.

    Raises:
        UsageError: there is none, or ``PAYSTREAM_PROJECT`` names something else.
    """
    return project_folders.require(_project_folder())


def example_settings() -> str:
    """Return the text of ``.env.example``: every setting with its default and what it is for."""
    lines = ["# Copy this to .env and set what differs. The environment wins over it.\n"]
    for name, field in Settings.model_fields.items():
        if name == "project":
            continue
        default = field.get_default()
        value = default.get_secret_value() if isinstance(default, SecretStr) else default
        shown = str(value).lower() if isinstance(value, bool) else "" if value is None else value
        lines.append(f"\n# {field.description}\n" if field.description else "\n")
        lines.append(f"# PAYSTREAM_{name.upper()}={'.paystream' if name == 'home' else shown}\n")
    return "".join(lines)


def _project_folder() -> Path | None:
    if named := os.environ.get(_PROJECT):
        return project_folders.require(Path(named).absolute())
    try:
        return project_folders.find(Path.cwd())
    except FileNotFoundError:
        raise UsageError("Working directory: it was deleted. Go to another one.") from None


def _env_file(path: Path) -> dict[str, str]:
    """Return what ``.env`` says of this tool; of other names there it is none of this tool's business."""
    try:
        # Without interpolation: a password may hold ${x}, whatever quotes it stands in.
        values = dotenv_values(path, interpolate=False, encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"File '{path}' cannot be read: byte {error.start} is not UTF-8. Save it as UTF-8.") from None
    except OSError as error:
        raise UsageError(f"File '{path}' cannot be read: {error.strerror}. Correct that, or remove it.") from None
    return {
        name: value for name, value in values.items() if name.upper().startswith("PAYSTREAM_") and value is not None
    }


def _meant(name: str, known: set[str]) -> str:
    # DB is closer to NODES than to DATABASE, which it has its letters from.
    shortened = re.compile(".*".join(map(re.escape, name.upper())))
    close = sorted(filter(shortened.match, known), key=len) or get_close_matches(name.upper(), known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""
