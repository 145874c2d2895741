"""The project folder: found, begun, and brought to a newer reference."""

import shutil
from pathlib import Path

import pytest

from paystream import project
from paystream.errors import UsageError
from paystream.project import Change, init, unresolved, upgrade
from paystream.settings import Settings, example_settings, load_settings, project_folder

RANKING = "sql/4_report/report_merchant_ranking.sql"
FRESHNESS = "sql/4_report/report_freshness.sql"
LOCK = "migrations/versions.lock"


@pytest.fixture
def reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the reference, which the test may change as a newer release would."""
    copy = tmp_path / "reference"
    for path in project._paths(project.REFERENCE):
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(project.REFERENCE / path, copy / path)
    monkeypatch.setattr(project, "REFERENCE", copy)
    return copy


@pytest.fixture
def mine(tmp_path: Path, reference: Path) -> Path:
    """A project folder that came from it."""
    folder = tmp_path / "mine"
    init(folder, "")
    return folder


def append(path: Path, text: str = "-- more\n") -> None:
    path.write_text(path.read_text() + text)


def changes(folder: Path) -> dict[str, Change]:
    return {change.path: change.change for change in upgrade(folder)}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_nearest_project_from_the_working_directory_upward_is_the_one(mine: Path, monkeypatch) -> None:
    monkeypatch.delenv("PAYSTREAM_PROJECT", raising=False)
    inner = mine / "sql" / "inner"
    inner.mkdir()
    monkeypatch.chdir(inner)
    assert project_folder() == mine
    (inner / project.MARKER).touch()  # nested by hand: `init` refuses that
    assert project_folder() == inner


def test_its_env_file_is_read_from_any_folder_in_it(mine: Path, monkeypatch) -> None:
    (mine / ".env").write_text("PAYSTREAM_KAFKA_TOPIC=payments\n")
    monkeypatch.chdir(mine / "sql")
    settings = load_settings()
    assert (settings.kafka_topic, settings.home, settings.project) == ("payments", mine / ".paystream", mine)


def test_the_environment_names_another(mine: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PAYSTREAM_PROJECT", "mine")
    assert project_folder() == load_settings().project == mine


@pytest.mark.parametrize("command", [("migrate", "plan", "--all"), ("loadtest", "list"), ("cost",), ("upgrade",)])
def test_a_command_outside_of_a_project_says_so(paystream_here, tmp_path: Path, command) -> None:
    code, _, err = paystream_here(Settings(project=None, home=tmp_path / "home"), *command)
    assert code == 2
    assert err[-1].startswith("error: Project: neither the working directory nor a folder above it has")
    assert "paystream init" in err[-1]


def test_a_folder_named_that_is_no_project_is_refused(paystream_here, tmp_path: Path) -> None:
    code, _, err = paystream_here(Settings(home=tmp_path / "home"), "--project", str(tmp_path), "loadtest", "list")
    assert (code, err[-1].startswith(f"error: Project '{tmp_path}': it has no file 'paystream.project'")) == (2, True)


def test_env_may_not_name_the_project(mine: Path, monkeypatch) -> None:
    (mine / ".env").write_text("PAYSTREAM_PROJECT=/elsewhere\n")
    monkeypatch.chdir(mine)
    with pytest.raises(UsageError, match=r"PAYSTREAM_PROJECT in \.env"):
        load_settings()


def test_init_writes_the_reference_and_an_example_of_the_settings(reference: Path, tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "new" / "pipeline"
    files = init(folder, example_settings())
    written = contents(folder)
    assert sorted(files) == sorted(written)
    assert {path: text for path, text in written.items() if path in contents(reference)} == contents(reference)
    # Each setting of the example, uncommented, is the default.
    example = [line for line in written[".env.example"].decode().splitlines() if line.startswith("# PAYSTREAM_")]
    assert len(example) == len(Settings.model_fields) - 1
    (folder / ".env").write_text("\n".join(line.removeprefix("# ") for line in example))
    monkeypatch.chdir(folder)
    assert load_settings() == Settings(home=Path(".paystream"))


@pytest.mark.parametrize("there", ["notes.txt", ".git"])
def test_init_leaves_a_folder_alone_that_is_not_empty(reference: Path, tmp_path: Path, there: str) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / there).touch()
    with pytest.raises(UsageError, match=rf"it is not empty \(it has {there}\)"):
        init(tmp_path / "used", "")
    assert [path.name for path in (tmp_path / "used").iterdir()] == [there]


def test_init_within_a_project_or_a_file_is_refused(mine: Path) -> None:
    with pytest.raises(UsageError, match="it would be within another"):
        init(mine / "sub", "")
    with pytest.raises(UsageError, match="cannot be written: Not a directory"):
        init(mine.parent / "reference" / RANKING, "")


def test_init_in_a_working_directory_that_was_deleted_says_so(reference: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(UsageError, match="cannot be written: No such file or directory"):
        init(Path("x"), "")


def test_init_that_fails_leaves_nothing(reference: Path, tmp_path: Path, monkeypatch) -> None:
    write = project._write

    def full(path: Path, text: bytes) -> None:
        if path.name == "prices.yaml":
            raise OSError(28, "No space left on device")
        write(path, text)

    monkeypatch.setattr(project, "_write", full)
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "deep" / "new"):
        with pytest.raises(UsageError, match="cannot be written: No space left on device"):
            init(folder, "")
    assert not list((tmp_path / "empty").iterdir()) and not (tmp_path / "deep").exists()


def test_upgrade_takes_over_what_only_the_reference_has_changed(reference: Path, mine: Path) -> None:
    append(reference / RANKING)
    (reference / "sql/4_report/report_new.sql").write_text("-- new\n")
    (reference / FRESHNESS).unlink()
    append(mine / "loadtest/workloads/smoke.yaml", "# ours\n")
    assert {change.path: change.change for change in upgrade(mine, dry_run=True)} == changes(mine)
    expected = contents(reference) | {
        "loadtest/workloads/smoke.yaml": (mine / "loadtest/workloads/smoke.yaml").read_bytes()
    }
    assert {path: text for path, text in contents(mine).items() if path.partition("/")[1]} == expected
    assert changes(mine) == {}


def test_what_both_have_changed_is_left_and_marked(reference: Path, mine: Path) -> None:
    append(reference / RANKING, "-- theirs\n")
    append(mine / RANKING, "-- ours\n")
    append(reference / FRESHNESS)
    (mine / FRESHNESS).unlink()
    [freshness, ranking] = upgrade(mine)
    assert (freshness.path, freshness.change) == (FRESHNESS, Change.CONFLICT)
    assert (ranking.path, ranking.change) == (RANKING, Change.CONFLICT)
    assert "--- ours" in ranking.diff and "+-- theirs" in ranking.diff
    assert (mine / RANKING).read_text().endswith("-- ours\n")
    assert (mine / f"{RANKING}.new").read_bytes() == (reference / RANKING).read_bytes()
    assert unresolved(mine) == [f"{FRESHNESS}.new", f"{RANKING}.new"]
    # It is offered once. What the team makes of it is theirs.
    assert changes(mine) == {}
    append(reference / RANKING, "-- later\n")
    assert changes(mine) == {RANKING: Change.CONFLICT}


def test_windows_line_ends_are_no_change(reference: Path, mine: Path) -> None:
    for path in project._paths(mine):
        (mine / path).write_bytes((mine / path).read_bytes().replace(b"\n", b"\r\n"))
    append(reference / RANKING)
    assert changes(mine) == {RANKING: Change.UPDATED}


def test_versions_of_the_reference_are_taken_over_with_their_lock(reference: Path, mine: Path) -> None:
    (reference / "migrations/versions/0099_more.sql").write_text("-- depends: 0017\n")
    append(reference / LOCK, f"{'0' * 64}  versions/0099_more.sql\n")
    assert changes(mine) == {"migrations/versions/0099_more.sql": Change.ADDED, LOCK: Change.UPDATED}


def test_versions_of_the_reference_are_held_back_behind_the_teams_own(reference: Path, mine: Path) -> None:
    (reference / "migrations/versions/0018_theirs.sql").write_text("-- theirs\n")
    append(reference / LOCK, f"{'0' * 64}  versions/0018_theirs.sql\n")
    append(reference / RANKING)
    (mine / "migrations/versions/0018_ours.sql").write_text("-- ours\n")
    append(mine / LOCK, f"{'1' * 64}  versions/0018_ours.sql\n")
    before = contents(mine / "migrations")
    assert changes(mine) == {"migrations/versions/0018_theirs.sql": Change.HELD, RANKING: Change.UPDATED}
    assert contents(mine / "migrations") == before
    assert changes(mine) == {}


def test_an_upgrade_that_was_interrupted_goes_on(reference: Path, mine: Path, monkeypatch) -> None:
    for path in (RANKING, FRESHNESS):
        append(reference / path)
    take_over, calls = project._take_over, []

    def killed(*arguments) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        take_over(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(project, "_take_over", killed)
        upgrade(mine)
    upgrade(mine)
    assert contents(mine)[RANKING] == contents(reference)[RANKING]
    assert contents(mine)[FRESHNESS] == contents(reference)[FRESHNESS]
    assert changes(mine) == {}


@pytest.mark.parametrize("marker", [b"\xff\xfe", b"sql/1_ingest/ledger_mv.sql\n"])
def test_a_marker_that_cannot_be_read_is_refused_with_what_to_do(mine: Path, marker: bytes) -> None:
    (mine / project.MARKER).write_bytes(marker)
    with pytest.raises(UsageError, match=r"Marker '.*' cannot be read: .*Restore it from version control\. If it is"):
        upgrade(mine)


def test_with_an_empty_marker_every_file_that_differs_is_a_conflict(reference: Path, mine: Path) -> None:
    (mine / project.MARKER).write_text("")
    append(reference / RANKING)
    assert changes(mine) == {RANKING: Change.CONFLICT}


def test_the_reference_itself_is_not_upgraded(paystream_here, tmp_path: Path) -> None:
    code, _, err = paystream_here(Settings(home=tmp_path / "home"), "upgrade")
    assert (code, "it is the reference itself" in err[-1]) == (2, True)


def test_the_command_ends_with_1_while_something_is_to_merge(
    reference: Path, mine: Path, paystream_here, tmp_path: Path
) -> None:
    settings = Settings(project=mine, home=tmp_path / "home")
    append(reference / RANKING, "-- theirs\n")
    append(mine / RANKING, "-- ours\n")
    code, out, err = paystream_here(settings, "upgrade", "--dry-run")
    assert (code, err) == (0, []) and " conflict=1 " in out
    code, out, [line] = paystream_here(settings, "upgrade")
    assert (code, line) == (1, f"To merge, then delete: {RANKING}.new.")
    (mine / f"{RANKING}.new").unlink()
    assert paystream_here(settings, "upgrade")[0] == 0
