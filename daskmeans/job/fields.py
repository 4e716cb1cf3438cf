"""The kinds of values that a configuration has: what each takes, and what is said of one that is wrong.

Knows no file, no Dask and no Zarr.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from daskmeans.errors import did_you_mean
from daskmeans.job.clustertypes import NAMES as CLUSTER_NAMES
from daskmeans.memory import parse_bytes

InitName = Literal["k-means||", "k-means++", "random", "random-partition"]
Centers = tuple[tuple[float, ...], ...]
Scalar = bool | int | float | str
Selected = Scalar | tuple[Scalar | None, Scalar | None]


def wrong(message: str) -> PydanticCustomError:
    """Return an error that `configfile` prints as it is."""
    # The message is a parameter since pydantic would take braces in it for fields.
    return PydanticCustomError("wrong", "{message}", {"message": message})


def shown(value: Any) -> str:
    """Return a value as YAML would show it, cut short."""
    if value is None:
        return "nothing (null)"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _not_bool(value: Any) -> Any:
    """Refuse true and false where a number belongs; pydantic would take them for 1 and 0."""
    if isinstance(value, bool):
        raise wrong(f"expected a number, got {shown(value)}")
    return value


def _without_nul(value: Any) -> Any:
    """Refuse the character that no file and no variable can have in its name."""
    if isinstance(value, str) and "\0" in value:
        raise wrong(f"expected text without the character NUL, got {shown(value)}")
    return value


def _check_bytes(value: Any) -> Any:
    """Return the number of bytes of 2GiB, 500MB or 1000000."""
    if value is None:
        return None
    value = _not_bool(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int | str):
        raise wrong(f"expected a size such as 2GiB or 500MB, got {shown(value)}")
    try:
        n_bytes = parse_bytes(value)
    except (ValueError, OverflowError):
        unit = "write a number and a unit, such as 2GiB or 500MB"
        raise wrong(f"{shown(value)} is not a size; {unit}") from None
    if n_bytes <= 0:
        raise wrong(f"expected a size above 0, such as 2GiB or 500MB, got {shown(value)}")
    return n_bytes


def _check_init(value: Any) -> str | Centers:
    """Return the name of a seeding, or centers as rows of finite numbers."""
    names = get_args(InitName)
    if isinstance(value, str):
        if value not in names:
            known = ", ".join(map(repr, names))
            hint = suggestion(value, names)
            raise wrong(f"expected {known} or a list of centers, got {shown(value)}{hint}")
        return value
    if not isinstance(value, list | tuple) or not value:
        raise wrong(f"expected the name of a seeding or a list of centers, got {shown(value)}")
    rows = tuple(_check_center(i, row) for i, row in enumerate(value))
    for i, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise wrong(f"center {i} has {len(row)} features, center 0 has {len(rows[0])}")
    return rows


def _check_center(i: int, row: Any) -> tuple[float, ...]:
    """Return one center as a tuple of finite numbers."""
    expected = f"expected a list of numbers as center {i}"
    if not isinstance(row, list | tuple) or not row:
        raise wrong(f"{expected}, got {shown(row)}")
    for x in row:
        if isinstance(x, bool) or not isinstance(x, int | float) or not math.isfinite(x):
            raise wrong(f"{expected}, got {shown(x)} in it")
    return tuple(float(x) for x in row)


def _check_clusters(value: Any) -> int | tuple[int, ...]:
    """Return a number of clusters, or several in ascending order."""
    if not isinstance(value, list | tuple):
        return _check_count(value)
    if not value:
        raise wrong("expected a whole number or a list of them, got an empty list")
    return tuple(sorted({_check_count(k) for k in value}))


def _check_count(value: Any) -> int:
    """Return a whole number, at least 1."""
    if isinstance(_not_bool(value), float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int):
        raise wrong(f"expected a whole number, got {shown(value)}")
    if value < 1:
        raise wrong(f"expected greater than or equal to 1, got {shown(value)}")
    return value


def _check_selected(value: Any) -> Selected:
    """Return one coordinate value, or the (start, stop) of a slice."""
    if isinstance(value, Scalar):
        return value
    if isinstance(value, list | tuple) and len(value) == 2:
        start, stop = value
        if all(end is None or isinstance(end, Scalar) for end in value):
            return start, stop
    raise wrong(f"expected one coordinate value or [start, stop], got {shown(value)}")


def _check_rounds(value: Any) -> int | str:
    """Return "auto" or a number of rounds."""
    if value == "auto":
        return "auto"
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise wrong(f"expected 'auto' or a whole number, at least 1, got {shown(value)}")


def _check_cluster_type(value: Any) -> str:
    """Return the name of a type of cluster, or the dotted path of a class."""
    if isinstance(value, str) and (value in CLUSTER_NAMES or _DOTTED.fullmatch(value)):
        return value
    known = ", ".join(map(repr, CLUSTER_NAMES))
    hint = suggestion(value, CLUSTER_NAMES) if isinstance(value, str) else ""
    raise wrong(f"expected {known} or the dotted path of a class, got {shown(value)}{hint}")


_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return which of `known` was probably meant by `word`, or nothing."""
    hint = did_you_mean(word, known)
    return hint if "did you mean" in hint else ""


MASK = "***"

# Options of file systems that tell nothing of who may read.
_OPEN_OPTIONS = {"endpoint_url", "region_name", "protocol", "consistency", "project", "addressing_style"}


def masked(options: dict[str, Any]) -> dict[str, Any]:
    """Return options of a file system in which only flags, numbers and known harmless words are legible.

    >>> masked({"anon": False, "secret": "x", "client_kwargs": {"endpoint_url": "http://localhost:9000"}})
    {'anon': False, 'secret': '***', 'client_kwargs': {'endpoint_url': 'http://localhost:9000'}}
    """
    return {key: _masked_value(key, value) for key, value in options.items()}


def _masked_value(key: str, value: Any) -> Any:
    if isinstance(value, dict):
        return masked(value)
    is_open = value is None or isinstance(value, int | float) or (key in _OPEN_OPTIONS and "@" not in str(value))
    return value if is_open else MASK


def without_masked(options: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return options without those that were masked, which are left to the environment."""
    if options is None:
        return None
    kept = {k: without_masked(v) if isinstance(v, dict) else v for k, v in options.items() if v != MASK}
    return kept or None


_SCALAR_SCHEMA = {"type": ["number", "string", "boolean"]}
_SLICE_SCHEMA = {
    "type": "array",
    "items": {"type": ["number", "string", "null"]},
    "minItems": 2,
    "maxItems": 2,
}
_CENTERS_SCHEMA = {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}
_COUNT_SCHEMA = {"type": "integer", "minimum": 1}
_BYTES_SCHEMA = {"type": ["integer", "string"], "title": "size such as 2GiB"}

Whole = Annotated[int, BeforeValidator(_not_bool)]
Level = Annotated[int, BeforeValidator(_not_bool), Field(ge=0)]
Number = Annotated[float, BeforeValidator(_not_bool), Field(allow_inf_nan=False)]
Bytes = Annotated[
    int | None,
    BeforeValidator(_check_bytes),
    WithJsonSchema({"anyOf": [_BYTES_SCHEMA, {"type": "null"}]}),
]
Init = Annotated[
    InitName | Centers,
    BeforeValidator(_check_init),
    WithJsonSchema({"anyOf": [{"enum": list(get_args(InitName))}, _CENTERS_SCHEMA]}),
]
Rounds = Annotated[
    int | Literal["auto"],
    BeforeValidator(_check_rounds),
    WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1}]}),
]
Clusters = Annotated[
    int | tuple[int, ...],
    BeforeValidator(_check_clusters),
    WithJsonSchema({"anyOf": [_COUNT_SCHEMA, {"type": "array", "items": _COUNT_SCHEMA}]}),
]
Select = Annotated[
    Selected,
    BeforeValidator(_check_selected),
    WithJsonSchema({"anyOf": [_SCALAR_SCHEMA, _SLICE_SCHEMA]}),
]
ClusterType = Annotated[
    str,
    BeforeValidator(_check_cluster_type),
    WithJsonSchema({"anyOf": [{"enum": list(CLUSTER_NAMES)}, {"type": "string", "pattern": r"^\w+(\.\w+)+$"}]}),
]
Name = Annotated[str, BeforeValidator(_without_nul), Field(min_length=1)]
Names = Annotated[tuple[Name, ...], Field(min_length=1)]


def at(key: str, message: str, *inner: str) -> InitErrorDetails:
    """Return an error at `key` of a section, which a validator of the whole section found."""
    return InitErrorDetails(type=wrong(message), loc=(key, *inner), input=None)


def raise_if(problems: list[InitErrorDetails]) -> None:
    """Raise all `problems` together; pydantic puts the section's place before theirs."""
    if problems:
        raise ValidationError.from_exception_data("section", problems)


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, values do not change."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
