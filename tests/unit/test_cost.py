"""The cost model: bills computed by hand, what users may change, and what it refuses."""

import csv
import io
import json
import math
import re

import pytest
import results
import yaml

from paystream.cost import memo
from paystream.cost.assumptions import drivers, load_assumptions
from paystream.cost.coefficients import Coefficients, Point, fit, from_results, load_coefficients
from paystream.cost.designs import DESIGNS, design
from paystream.cost.model import Model
from paystream.cost.prices import BOOK, load_prices
from paystream.cost.sizing import Sizing, brokers
from paystream.errors import CheckFailed, UsageError
from paystream.project import CHECKOUT

MEASURED = Coefficients(
    measured_on="2026-01-01",
    cores=2,
    memory_bytes=2**34,
    clickhouse="26.9",
    command="-",
    points=[
        Point(rate_per_second=rate, seconds=60, engine_cores=0.5 + rate * 1e-5, broker_cores=0.1 + rate * 4e-6,
              wire_bytes=wire, row_bytes=60, merge_seconds=6, p95_s=0.25)
        for rate, wire in ((100, 200), (500, 200), (5_000, 100), (50_000, 100))
    ],
)  # fmt: skip
"""Half a core and 10 CPU seconds a million: everything below is computed from these by hand."""

SIMPLE = {
    "peak_to_average": 2, "message_size_factor": 1, "json_bytes": 200, "kafka_retention_days": 7,
    "warehouse_retention_months": 13, "hot_months": 2, "kafka_disk_headroom": 1.5, "row_size_factor": 1,
    "core_factor": 1, "utilisation_at_peak": 0.5, "report_cores": 1, "disk_headroom": 2, "broker_mb_s_large": 5,
    "clickhouse_min_cores": 4, "cross_zone_share": 0.5, "egress_gb_month": 10, "backup_factor": 1, "discount": 0,
    "support_share": 0.1, "hourly_wage": 100, "hours_msk": 5, "hours_clickhouse": 20,
}  # fmt: skip


@pytest.fixture
def model():
    return Model(MEASURED, load_prices(), SIMPLE)


def bill(model, name, rate):
    return model.estimate(design(name), rate).base


def lines(of):
    return {item.what: (round(item.first_month, 2), round(item.steady, 2)) for item in of.items}


def test_a_bill_at_5000_a_second_by_hand(model):
    """5,000/s are 13.14 billion messages a month of 730 hours: 1,314 GB on the wire, 788.4 GB of rows."""
    bought = lines(bill(model, "own_msk", 5_000))
    # Peak 10,000/s x 100 bytes = 1 MB/s: three of the smallest brokers. 3 x 730 x 0.204.
    assert bought["Kafka, 3 brokers (MSK)"] == (446.76, 446.76)
    # 1,314 GB / (730 / 24) days x 7 days = 302.4 GB; three copies, half as much again free, at 0.10.
    assert bought["Kafka's disks"] == (136.08, 136.08)
    assert bought["zones: producers to brokers"] == (17.52, 17.52)  # 1,314 x 2/3 x 0.02
    assert bought["zones: brokers to the reader"] == (13.14, 13.14)  # 1,314 x 0.5 x 0.02
    # (0.5 + 10,000 x 1e-5 + 1 for reports) / 0.5 = 3.2 cores, so the minimum of 4: two m8g.xlarge, 2 x 730 x 0.17952.
    assert bought["ClickHouse, 2 x 4 cores"] == (262.10, 262.10)
    # Two months hot: 1,576.8 GB x 2 replicas x 2 headroom x 0.08; the first month has 394.2 GB on average.
    assert bought["ClickHouse's disks"] == (126.14, 504.58)
    assert bought["older rows in S3"] == (0.0, 398.93)  # 11 x 788.4 x 2 replicas x 0.023
    assert bought["Keeper, 3 x 2 cores"] == (178.70, 178.70)  # 3 x 730 x 0.0816
    assert bought["backups in S3"] == (9.07, 235.73)  # 394.2 and 10,249.2 GB x 0.023
    assert bought["zones: between replicas"] == (15.77, 15.77)  # 788.4 x 0.02
    assert bought["reports that leave"] == (0.90, 0.90)  # 10 x 0.09
    rest = 446.76 + 136.08 + 17.52 + 13.14 + 262.10 + 504.58 + 398.93 + 178.70 + 235.73 + 15.77 + 0.90
    assert bought["support plan"][1] == pytest.approx(rest / 10, abs=0.01)
    of = bill(model, "own_msk", 5_000)
    assert of.steady == pytest.approx(rest * 1.1, abs=0.02)
    assert of.people == 2_500
    assert sum(of.by_kind().values()) == pytest.approx(of.steady)


def test_the_vendor_s_own_sizing_agrees():
    """AWS's msk_sizing.py (price book, sizing facts): 325-byte messages, 7 days, twice the average at the peak, US
    dollars a month for brokers and disks: 507 at 500/s and 1,049 at 5,000/s, both with three brokers."""
    measured = MEASURED.model_copy(
        update={"points": [point.model_copy(update={"wire_bytes": 325}) for point in MEASURED.points]}
    )
    model = Model(measured, load_prices(), SIMPLE | {"kafka_disk_headroom": 2})
    for rate, theirs in ((500, 507), (5_000, 1_049)):
        sums = {item.kind: 0.0 for item in bill(model, "own_msk", rate).items}
        for item in bill(model, "own_msk", rate).items:
            sums[item.kind] += item.steady
        ours = sums["broker compute"] + sums["broker storage"]
        assert ours == pytest.approx(theirs, rel=0.05), rate


def test_flink_by_hand(model):
    # 10,000/s x 200 bytes = 2 MB/s at the peak, 2 MB/s a KPU: the least of 2, and one more to orchestrate.
    bought = lines(bill(model, "flink", 5_000))
    assert bought["managed Flink, 3 KPU, one of them to orchestrate"] == (240.90, 240.90)  # 3 x 730 x 0.11
    assert bought["its state"] == (10.0, 10.0)  # 2 x 50 GB x 0.10
    # 100,000/s x 200 bytes = 20 MB/s, 3 of them a KPU: 7 and one.
    assert "managed Flink, 8 KPU, one of them to orchestrate" in lines(bill(model, "flink", 50_000))


def test_clickhouse_cloud_by_hand(model):
    # 3.2 cores are 2 units of 2 vCPU, on two replicas: 4 x 730 x 0.3903. 13 months are 10.2492 TB at 25.30, twice.
    bought = lines(bill(model, "cloud_msk", 5_000))
    assert bought["ClickHouse Cloud, 4 units"] == (1_139.68, 1_139.68)
    assert bought["its storage"] == bought["its backups"] == (9.97, 259.30)
    assert bought["ClickPipes, data"] == (52.56, 52.56)  # 1,314 GB x 0.04


def test_brokers_are_the_cheapest_that_take_the_peak():
    def chosen(rate):
        return brokers(Sizing(rate, MEASURED, load_prices(), drivers("base", SIMPLE)), "msk_m7g")[:2]

    assert chosen(1) == (3, "msk_m7g_large")
    assert chosen(75_000) == (3, "msk_m7g_large")  # 15 MB/s are three times 5
    assert chosen(75_001) == (3, "msk_m7g_xlarge")  # as dear as six of the smaller ones, and fewer
    assert chosen(1_000_000)[0] % 3 == 0


@pytest.mark.parametrize("entry", DESIGNS, ids=lambda entry: entry.id)
def test_every_design_has_minimum_sizes_and_grows_less_than_the_traffic(entry):
    shipped = Model(MEASURED, load_prices(), {})
    today, ten, hundred = (shipped.estimate(entry, rate) for rate in (500, 5_000, 50_000))
    assert today.base.steady > ten.base.steady / 10 > hundred.base.steady / 100
    assert today.base.steady < ten.base.steady < hundred.base.steady
    for estimate in (today, ten, hundred):
        assert 0 < estimate.low.steady <= estimate.base.steady <= estimate.high.steady
        assert 0 < estimate.low.people < estimate.base.people < estimate.high.people
        assert estimate.base.first_month <= estimate.base.steady
        assert all(item.prices or item.kind == "support" for item in estimate.base.items)
    assert hundred.base.by_kind().get("broker compute", 0) > 0


def test_what_moves_a_bill_is_ranked_and_each_alone():
    shipped = Model(MEASURED, load_prices(), {})
    swings = shipped.tornado(design("own_msk"), 5_000)
    assert [swing.width for swing in swings] == sorted((swing.width for swing in swings), reverse=True)
    base = shipped.estimate(design("own_msk"), 5_000).base.steady
    values = {assumption.id: assumption for assumption in load_assumptions()}
    for swing in swings:
        moved = Model(MEASURED, load_prices(), {swing.assumption: values[swing.assumption].high})
        assert swing.at_high == pytest.approx(moved.estimate(design("own_msk"), 5_000).base.steady)
        assert swing.at_low <= base <= swing.at_high
    assert not {swing.assumption for swing in swings} & {"flink_mb_s_per_kpu", "hourly_wage", "hours_msk"}


def test_a_line_through_points_on_a_line_is_that_line_and_is_sure_of_it():
    engine = MEASURED.engine
    assert (engine.base, engine.slope) == (pytest.approx(0.5), pytest.approx(1e-5))
    assert engine.base_interval < 1e-9 and engine.slope_interval < 1e-12
    assert MEASURED.prediction(5_000, 50_000) == (pytest.approx(1.0), pytest.approx(1.0))
    assert MEASURED.merge_share == pytest.approx(24 / (60 * (4 * 0.5 + 55_600 * 1e-5)))


def test_the_intervals_are_the_textbook_s():
    """Draper and Smith, chapter 1: t x s / sqrt(Sxx), and for the base times the root of the mean of x squared."""
    of = {1: 1.0, 2: 2.5, 3: 2.5, 4: 4.0}
    points = [MEASURED.points[0].model_copy(update={"rate_per_second": rate}) for rate in of]
    line = fit(points, lambda point: of[point.rate_per_second])
    # By hand: means 2.5 and 2.5, Sxx 5, Sxy 4.5; residuals -0.15, 0.45, -0.45, 0.15, so s = sqrt(0.45 / 2).
    assert (line.slope, line.base) == (pytest.approx(0.9), pytest.approx(0.25))
    spread = 4.303 * math.sqrt(0.45 / 2) / math.sqrt(5)
    assert (line.slope_interval, line.base_interval) == (pytest.approx(spread), pytest.approx(spread * math.sqrt(7.5)))


def test_bytes_on_the_wire_are_those_of_the_nearest_rates():
    assert [MEASURED.wire_bytes(rate) for rate in (1, 500, 5_000, 1e6)] == [200, 200, 100, 100]
    assert MEASURED.wire_bytes(math.sqrt(500 * 5_000)) == pytest.approx(150)


def result_file(tmp_path, rate, **changes):
    document = results.passing()
    document["workload"]["rate_per_second"] = rate
    document |= changes
    file = tmp_path / f"{rate}-{len(list(tmp_path.iterdir()))}.json"
    file.write_text(json.dumps(document))
    return file


def test_coefficients_come_from_result_files(tmp_path, own_settings, paystream_here):
    files = [result_file(tmp_path, rate) for rate in (5_000, 500)]
    fields = from_results(files)
    assert [point["rate_per_second"] for point in fields["points"]] == [500, 5_000]
    # 21.3 s of ClickHouse in 61.4 s.
    assert fields["points"][0]["engine_cores"] == pytest.approx(21.3 / 61.4, abs=1e-4)
    assert (fields["points"][0]["wire_bytes"], fields["points"][0]["row_bytes"]) == (236.4, 61.3)
    to = tmp_path / "mine.yaml"
    code, out, err = paystream_here(own_settings, "cost", "fit", *map(str, files), "--to", str(to))
    assert (code, out, err) == (0, "", [])
    assert load_coefficients(to).model_dump() == fields


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: [result_file(path, 500)], "one rate makes no line"),
        (lambda path: [result_file(path, 500), result_file(path, 500)], "two results at 500/s"),
        (lambda path: [result_file(path, 500), result_file(path, 50, usage={})], "processor time or bytes were not"),
        (
            lambda path: [result_file(path, 500), result_file(path, 50, machine={"cores": 8})],
            "of different machines",
        ),
        (
            lambda path: [result_file(path, 500), result_file(path, 50, verdict="invalid", invalid=["x"])],
            "invalid, or no constant rate",
        ),
        (lambda path: [result_file(path, 500), result_file(path, 50, format=1)], "format 1, and this Paystream reads"),
        (lambda path: [result_file(path, 500), path / "absent.json"], "cannot be read: No such file"),
    ],
)
def test_results_from_which_nothing_follows_are_refused(tmp_path, own_settings, paystream_here, make, said):
    files = [str(file) for file in make(tmp_path)]
    code, out, [line] = paystream_here(own_settings, "cost", "fit", *files)
    assert (code, out) == (2, "") and said in line


def test_own_prices_take_the_place_of_shipped_ones(tmp_path, own_settings, paystream_here):
    file = tmp_path / "ours.yaml"
    file.write_text("prices:\n- {id: msk_m7g_large, price: 0.1}\n")
    command = ["cost", "--design", "own_msk", "--rates", "500", "--json"]
    [shipped], [own] = (
        json.loads(paystream_here(own_settings, *command, *more)[1]) for more in ([], ["--prices", str(file)])
    )
    first = [estimates["items"][0] for estimates in (shipped, own)]
    assert [item["steady"] for item in first] == [446.76, 219.0]
    assert own["items"][1:-1] == shipped["items"][1:-1]
    assert first[1]["marks"] == ["msk_m7g_large: no date"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prices:\n- {id: msk_m7g_large, price: dear}\n", "prices.msk_m7g_large.price: should be a valid number"),
        ("prices:\n- {id: msk_m7g_large, price: -1}\n", "prices.msk_m7g_large.price: should be greater than or equal"),
        ("prices:\n- {id: msk_m7g_large, prise: 1}\n", "prices.msk_m7g_large.prise: no such field"),
        ("prices:\n- {id: brand_new, price: 1}\n", "'brand_new' is no price that a design uses"),
        ("prices:\n- {id: [1], price: 1}\n", "'[1]' is no price that a design uses"),
        ("prices:\n- {price: 1}\n", "'None' is no price that a design uses"),
        ("prices:\n- {id: s3_standard, price: 23, unit: tb_month}\n", "in tb_month, but a price in gb_month is used"),
        ("prices:\n- {id: msk_m7g_large, price: 1}\n- {id: msk_m7g_large, price: 2}\n", "msk_m7g_large: priced twice"),
        ("prices: 3\n", "no list `prices`"),
        ("- 3\n", "no list `prices`"),
        ("a: [", "not readable as YAML"),
    ],
)
def test_a_price_book_that_cannot_be_is_refused(tmp_path, own_settings, paystream_here, text, said):
    file = tmp_path / "ours.yaml"
    file.write_text(text)
    code, out, [line] = paystream_here(own_settings, "cost", "--prices", str(file))
    assert (code, out) == (2, "") and said in line, line


def test_a_price_that_is_missing_is_named():
    shipped = yaml.safe_load((CHECKOUT / "cost" / BOOK).read_text())
    book = load_prices()
    without = book.model_copy(update={"prices": [price for price in book.prices if price.id != "ebs_gp3"]})
    assert len(without.prices) == len(shipped["prices"]) - 1
    with pytest.raises(UsageError, match="Price 'ebs_gp3': the price book has none"):
        Model(MEASURED, without, {}).estimate(design("own_msk"), 500)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rates", "0"], "Rate 0/s: cannot be"),
        (["--rates", "-5"], "Rate -5/s: cannot be"),
        (["--rates", "1e12"], "Rate 1e+12/s: cannot be"),
        (["--rates", "nan"], "Rate nan/s: cannot be"),
        (["--rates", "many"], "Rates 'many': not numbers"),
        (["--rates", ""], "Rates '': not numbers"),
        (["--design", "dream"], "Design 'dream': there is none. Name one of: own_msk,"),
        (["--set", "dream=1"], "Assumption 'dream': there is none"),
        (["--set", "peak_to_average"], "not NAME=NUMBER"),
        (["--set", "peak_to_average=nan"], "cannot be"),
        (["--set", "peak_to_average=0.5"], "0.5 ratio cannot be. Give 1 to"),
        (["--set", "utilisation_at_peak=2"], "2 share cannot be. Give 0.05 to 1"),
        (["--set", "discount=0.1", "--set", "discount = 0.2"], "given twice"),
        (["--set", "discount=0.1", "memo", "--check"], "takes none of the options of `cost`"),
        (["--rates", "abc", "memo", "--check"], "takes none of the options of `cost`"),
        (["--csv", "absent/x.csv"], "cannot be written"),
        (["--prices", "absent.yaml"], "cannot be read"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(own_settings, paystream_here, arguments, said):
    code, out, [line] = paystream_here(own_settings, "cost", *arguments)
    assert (code, out) == (2, "") and said in line, line


def test_a_log_gets_a_line_for_each_design_and_rate(own_settings, paystream_here):
    code, out, err = paystream_here(own_settings, "cost", "--rates", "500,5000,500")
    assert (code, err) == (0, [])
    printed = re.findall(r"^cost design=(\w+) rate_per_second=(\d+) first_month_usd=\d+ steady_usd=\d+", out, re.M)
    assert printed == [(entry.id, rate) for entry in DESIGNS for rate in ("500", "5000")]


def test_csv_has_every_line_and_adds_up(tmp_path, own_settings, paystream_here):
    file = tmp_path / "bills.csv"
    arguments = ["--rates", "5000", "--design", "own_msk", "--design", "flink", "--csv", str(file), "--json"]
    code, out, _ = paystream_here(own_settings, "cost", *arguments)
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(file.read_text())))
    for estimate in json.loads(out):
        for level, total in estimate["steady_usd"].items():
            of = [
                row
                for row in rows
                if (row["design"], row["level"]) == (estimate["design"], level) and row["kind"] != "people"
            ]
            assert sum(float(row["steady_usd"]) for row in of) == pytest.approx(total, abs=0.1)
    for nothing in ("egress_gb_month", "report_cores", "backup_factor", "hours_msk"):
        assert paystream_here(own_settings, "cost", "--set", f"{nothing}=0", "--rates", "500")[0] == 0, nothing
    assert {"no date, weak"} == {row["marks"].rpartition(": ")[2] for row in rows if row["prices"] == "s3_standard"}


def test_the_shipped_book_and_assumptions_are_whole():
    known = {assumption.id for assumption in load_assumptions()}
    assert {hours for entry in DESIGNS for hours in entry.hours} <= known
    assert set(SIMPLE) <= known
    for price in load_prices().prices:
        assert price.as_of or "no date" in price.mark
        assert (price.grade in ("aggregator", "recollection")) == ("weak" in price.mark)


def test_the_memo_s_tables_are_current_and_a_change_is_found(tmp_path):
    model = Model(load_coefficients(), load_prices(), {})
    page = CHECKOUT / memo.MEMO
    memo.check(model, page)
    copy = tmp_path / "costs.md"
    copy.write_text(page.read_text().replace("/s |", "/s  |", 1))
    with pytest.raises(CheckFailed, match="not current"):
        memo.check(model, copy)
    memo.write(model, copy)
    memo.check(model, copy)
    copy.write_text("no marks")
    with pytest.raises(UsageError, match="marks of the generated part"):
        memo.check(model, copy)


def test_the_memo_s_plots_are_current(tmp_path):
    from paystream.cost.plots import write_plots

    for file in write_plots(Model(load_coefficients(), load_prices(), {}), tmp_path):
        shipped = (CHECKOUT / memo.MEMO).parent / "images" / file.name
        assert shipped.read_bytes() == file.read_bytes(), f"{file.name}: generate it with `paystream cost memo`"
