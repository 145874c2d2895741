"""YAML files checked by pydantic, with errors that name each wrong field by its id."""

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from paystream.errors import UsageError
from paystream.settings import project_folder
from paystream.validation import Place, problems


class Strict(BaseModel):
    """A part of a file: no unknown keys, no infinities."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


T = TypeVar("T", bound=BaseModel)


def read_yaml(path: Path) -> object:
    """Return what a YAML file holds.

    Raises:
        UsageError: it cannot be read, or is no YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"File '{path}' cannot be read: {error.strerror or error}. Name another one.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"File '{path}': not readable as YAML: {' '.join(str(error).split())}. Correct it.") from error


def read(path: Path, kind: type[T]) -> T:
    """Return what a YAML file holds as a model. Raises what ``read_yaml`` and ``parse`` do."""
    return parse(read_yaml(path), path, kind)


def of_project(name: str) -> Path:
    """Return the path of one of the files that a project has on costs."""
    return project_folder() / "cost" / name


def parse(fields: object, path: Path, kind: type[T]) -> T:
    """Return fields as a model.

    Raises:
        UsageError: they are not as the model wants them; names each by the ids on the way to it.
    """
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        told = "; ".join(problems(error, lambda place: _by_ids(fields, place)))
        raise UsageError(f"File '{path}': {told}. Correct it.") from None


def _by_ids(fields: object, place: Place) -> str:
    names = []
    for part in place:
        try:
            fields = fields[part]
        except (KeyError, IndexError, TypeError):
            fields = None
        names.append(str(fields.get("id", part)) if isinstance(fields, dict) else str(part))
    return ".".join(names)
