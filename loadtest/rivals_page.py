"""What the rivals came to: the table for the terminal and the documents, from the figures of all turns."""

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from paystream.generated import Generated
from paystream.loadtest.pipeline import OWN
from paystream.project import CHECKOUT
from paystream.rivals.engines import ENGINES, Engine

GENERATED = Generated("paystream loadtest rivals --page", "rivals/results.json")
IN_MEMO = (
    "p95, 500/s",
    "p95, 5,000/s",
    "highest rate with p95 ≤ 1 s",
    "backlog, rows a second",
    "CPU a million, 5,000/s, all",
    "memory, 5,000/s, all",
    "kill -9 of what reads the topic",
    "lines of code and configuration",
)
TITLES = {OWN: "ClickHouse alone (Paystream)"} | {name: engine.title for name, engine in ENGINES.items()}
NOT_HELD = "did not hold"
CODE = {".java", ".py", ".sql", ".xml", ".options", ".txt"}

Turns = Sequence[Mapping[str, Any]]
Row = tuple[str, Callable[[str, Turns], str]]


def rows(results: Mapping[str, Any]) -> list[list[str]]:
    """Return the table: a line for each figure, with a cell for each pipeline that was measured."""
    return [[label, *(cell(name, turns) for name, turns in by_pipeline(results).items())] for label, cell in ROWS]


def by_pipeline(results: Mapping[str, Any]) -> dict[str, Turns]:
    """Return the turns of each pipeline, in the order of the titles."""
    turns = {name: [turn for turn in results["turns"] if turn["pipeline"] == name] for name in TITLES}
    return {name: of_name for name, of_name in turns.items() if of_name}


def header(results: Mapping[str, Any]) -> list[str]:
    """Return the names of the columns."""
    return ["", *(TITLES[name] for name in by_pipeline(results))]


def markdown(results: Mapping[str, Any]) -> str:
    """Return the part of the document that is generated."""
    lines = [header(results), ["---"] * len(header(results)), *rows(results)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    machine = results["machine"]
    told = (
        f"\n\nMeasured on {results['measured_on']}: {machine['cores']} cores and {machine['memory_bytes'] >> 30} GiB, "
        f"{results['seconds']} s a rate, {_count(max(map(len, by_pipeline(results).values())), 'turn')}. "
        "Median (lowest to highest).\n\n"
    )
    failed = [f"- {TITLES[turn['pipeline']]}: {turn['failed']}" for turn in results["turns"] if "failed" in turn]
    return told + table + "\n\n" + "".join(f"{line}\n" for line in failed) + ("\n" if failed else "")


def summary(results: Mapping[str, Any]) -> str:
    """Return the few figures that the memo shows."""
    wanted = set(IN_MEMO)
    lines = [header(results), ["---"] * len(header(results))]
    lines += [line for line in rows(results) if line[0] in wanted]
    return "\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n\n"


def wrong(turn: Mapping[str, Any]) -> list[str]:
    """Return what a turn found of payments lost, doubled or altered, crashes included."""
    measured = [*turn.get("rates", {}).values(), *turn.get("crashes", {}).values()]
    return [problem for figures in measured for problem in figures["problems"]]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def at_rate(turns: Turns, rate: str, of: Callable[[Mapping[str, Any]], float | None]) -> list[float]:
    """Return a figure of each turn that measured that rate."""
    measured = [turn["rates"][rate] for turn in turns if rate in turn.get("rates", {})]
    return [value for figures in measured if (value := of(figures)) is not None]


def cpu_per_million(figures: Mapping[str, Any], processes: Sequence[str]) -> float:
    """Return the processor seconds a million messages of those processes together."""
    return sum(figures["cpu_s_per_million"].get(process, 0.0) for process in processes)


def _spread(values: Sequence[float], shown: Callable[[float], str]) -> str:
    if not values:
        return NOT_HELD
    least, most = (shown(value).partition(" ")[0] for value in (min(values), max(values)))
    return f"**{shown(median(values))}**" + (f" ({least} to {most})" if least != most else "")


def _percentile(rate: str, percentile: str) -> Callable[[str, Turns], str]:
    def cell(_: str, turns: Turns) -> str:
        return _spread(at_rate(turns, rate, lambda figures: figures[percentile]), lambda value: f"{value:.2f} s")

    return cell


def _cpu(rate: str, processes: Callable[[str], Sequence[str]]) -> Callable[[str, Turns], str]:
    def cell(name: str, turns: Turns) -> str:
        wanted = processes(name)
        values = at_rate(turns, rate, lambda figures: cpu_per_million(figures, wanted))
        return _spread(values, lambda value: f"{value:.0f} s") if wanted else "-"

    return cell


def _memory(name: str, turns: Turns) -> str:
    values = at_rate(turns, "5000", lambda figures: sum(figures["memory_bytes"].values()))
    return _spread(values, lambda value: f"{value / 2**20:,.0f} MiB")


def _absent(turns: Turns) -> str:
    return NOT_HELD if any("failed" in turn for turn in turns) else "not measured"


def _once(key: str, shown: Callable[[Mapping[str, Any]], str]) -> Callable[[str, Turns], str]:
    def cell(_: str, turns: Turns) -> str:
        return next((shown(turn[key]) for turn in turns if key in turn), _absent(turns))

    return cell


def _crash(part: str) -> Callable[[str, Turns], str]:
    def cell(name: str, turns: Turns) -> str:
        struck = "clickhouse" if part == "job" and name == OWN else part
        for turn in turns:
            if crash := turn.get("crashes", {}).get(struck):
                outage = "never back" if crash["outage_s"] is None else f"{crash['outage_s']:.1f} s"
                return f"{outage}; {'; '.join(crash['problems']) or '0 lost, 0 twice'}"
        return _absent(turns)

    return cell


def _correct(_: str, turns: Turns) -> str:
    measured = [figures for turn in turns for figures in turn.get("rates", {}).values()]
    problems = {problem for figures in measured for problem in figures["problems"]}
    if not measured:
        return NOT_HELD
    return "; ".join(sorted(problems)) or f"0 of {sum(figures['sent'] for figures in measured):,}"


def _capacity(capacity: Mapping[str, Any]) -> str:
    return f"{capacity['rate_per_second']:,}/s" if capacity["rate_per_second"] else NOT_HELD


def _lines(name: str, _: Turns) -> str:
    return f"{lines_of_code(ENGINES.get(name)):,}"


def _installed(name: str, turns: Turns) -> str:
    sizes = [size for turn in turns if (size := turn.get("installed_bytes"))]
    return f"{sizes[0] / 2**20:,.0f} MiB" if sizes else "-"


def lines_of_code(engine: Engine | None) -> int:
    """Return the lines that say what is done to a message, without blank ones and comments: of an engine all of its
    folder and what it shares with others, of Paystream sql/1_ingest and dictionaries/."""
    if CHECKOUT is None:
        return 0
    if engine is None:
        folders = [CHECKOUT / "sql/1_ingest", CHECKOUT / "dictionaries"]
    else:
        shares = (engine.folder / "pom.xml").exists() and engine.name != "spark"
        folders = [engine.folder, *([engine.folder.parent / "contract"] if shares else [])]
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in CODE]
    lines = [line.strip() for path in files for line in path.read_text("utf-8").splitlines()]
    return sum(bool(line) and not line.startswith(("#", "--", "//", "/*", "*")) for line in lines)


def _all_of(name: str) -> list[str]:
    return ["broker", "clickhouse", *([name] if name != OWN else [])]


ROWS: list[Row] = [
    ("p50, 500/s", _percentile("500", "p50_s")),
    ("p95, 500/s", _percentile("500", "p95_s")),
    ("p99, 500/s", _percentile("500", "p99_s")),
    ("p50, 5,000/s", _percentile("5000", "p50_s")),
    ("p95, 5,000/s", _percentile("5000", "p95_s")),
    ("p99, 5,000/s", _percentile("5000", "p99_s")),
    ("highest rate with p95 ≤ 1 s", _once("capacity", _capacity)),
    ("backlog, rows a second", _once("drain", lambda drain: f"{drain['rows_per_second']:,}")),
    ("start to first row", _once("drain", lambda drain: f"{drain['first_row_after_s']:.1f} s")),
    ("CPU a million, 5,000/s, all", _cpu("5000", _all_of)),
    ("of it the job", _cpu("5000", lambda name: [name] if name != OWN else [])),
    ("of it ClickHouse", _cpu("5000", lambda _: ["clickhouse"])),
    ("of it the broker", _cpu("5000", lambda _: ["broker"])),
    ("CPU a million, 500/s, all", _cpu("500", _all_of)),
    ("memory, 5,000/s, all", _memory),
    ("lost, twice, altered, wrong sums", _correct),
    ("kill -9 of what reads the topic", _crash("job")),
    ("kill -9 of ClickHouse", _crash("clickhouse")),
    ("lines of code and configuration", _lines),
    ("to install beside ClickHouse", _installed),
]
