"""Reads a job's YAML file, and says of each mistake in it the place, the key and the remedy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from daskmeans.errors import ConfigError, did_you_mean
from daskmeans.job.config import JobConfig, sections
from daskmeans.job.fields import Section, shown, suggestion

Key = str | int
KeyPath = tuple[Key, ...]


CORE_TAGS = ("null", "bool", "int", "float", "str", "seq", "map")


class _Loader(yaml.SafeLoader):
    """Safe YAML in which words mean what they say: the core schema of YAML 1.2, and no aliases.

    YAML 1.1 makes of `no` a bool, of 12:30 a number, of 1e-4 a text and of 2020-01-01 a date; but
    variables are called `no`, and dates go to xarray as text. Aliases can blow a short file up to
    any size.
    """

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012
    yaml_constructors: ClassVar[dict[str | None, Any]] = {
        tag: yaml.SafeLoader.yaml_constructors[tag] for tag in (*(f"tag:yaml.org,2002:{t}" for t in CORE_TAGS), None)
    }

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse aliases."""
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, f"aliases (*{event.anchor}) are not supported", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Say of a value that is not of its tag (`!!float x`), or too long a number, where it is."""
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, LookupError, AttributeError) as error:
            raise yaml.constructor.ConstructorError(None, None, f"{error}", node.start_mark) from None


def _resolve_scalars() -> None:
    """Teach the loader the core schema of YAML 1.2 (section 10.3.2 of its specification)."""
    number = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    special = r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
    for tag, pattern, first in [
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
        ("int", r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
        ("float", rf"{number}|{special}", list("-+.0123456789")),
    ]:
        regexp = re.compile(rf"^(?:{pattern})$")
        _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", regexp, first)


_resolve_scalars()


@dataclass
class Origins:
    """Where each key of the configuration was written: a place in the file, or an option."""

    source: str
    places: dict[KeyPath, str] = field(default_factory=dict)

    def written(self, path: KeyPath) -> KeyPath:
        """Return the longest beginning of `path` that was written."""
        while path and path not in self.places:
            path = path[:-1]
        return path

    def of(self, path: KeyPath) -> str:
        """Return the place of `path`, or of the innermost section around it."""
        return self.places.get(self.written(path), self.source)

    def rank(self, path: KeyPath) -> int:
        """Return how early `path` was written; what was not comes last."""
        path = self.written(path)
        return list(self.places).index(path) if path else len(self.places)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> JobConfig:
    """Read the configuration in the file `path`, changed by `overrides`.

    Parameters
    ----------
    path : file of YAML.
    overrides : "section.key=value" each, the value in YAML.

    Raises
    ------
    ConfigError
        The file cannot be read, or is wrong. All that is wrong is named, a line for each.
    """
    data, origins = read_yaml(path)
    for override in overrides:
        apply_override(data, origins, override)
    for name, value in data.items():
        # A section whose keys are all commented out.
        if value is None and name in JobConfig.model_fields:
            data[name] = {}
    try:
        return JobConfig.model_validate(data)
    except ValidationError as error:
        mistakes = sorted(error.errors(include_url=False), key=lambda m: origins.rank(m["loc"]))
        raise ConfigError("\n".join(_problem(m, origins) for m in mistakes)) from None


def read_yaml(path: str | Path) -> tuple[dict[str, Any], Origins]:
    """Return what the file says, a mapping, and where it says so."""
    text = _read_text(path)
    try:
        node = yaml.compose(text, _Loader)
        data = _construct(node)
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_syntax_problem(path, error)) from None
    except yaml.reader.ReaderError as error:
        raise ConfigError(_character_problem(path, text, error)) from None
    except RecursionError:
        raise ConfigError(f"{path}: not a configuration: nested too deeply") from None
    if data is None:
        raise ConfigError(f"{path}: the file is empty; expected the sections {_section_names()}")
    if not isinstance(data, dict):
        raise ConfigError(
            f"{path}:1:1: expected the sections {_section_names()}, each with its keys; got {_kind(data)}"
        )
    origins = Origins(str(path))
    problems = list(_collect(node, (), origins))
    if problems:
        raise ConfigError("\n".join(problems))
    return data, origins


def _read_text(path: str | Path) -> str:
    """Return the text of the file."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: not a text file in UTF-8 (byte {error.start}); is this the configuration?"
        ) from None
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file{_similar_file(Path(path))}") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: a folder; expected a YAML file") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None


def _similar_file(path: Path) -> str:
    """Return a hint at a file of a similar name, if there is one."""
    try:
        names = [other.name for other in path.parent.iterdir() if other.suffix in (".yaml", ".yml")]
    except OSError:
        return ""
    return suggestion(path.name, names)


def _syntax_problem(path: str | Path, error: yaml.MarkedYAMLError) -> str:
    """Say where the YAML cannot be understood."""
    mark = error.problem_mark or error.context_mark
    place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
    context = f"{error.context}: " if error.context else ""
    hint = "; indent with spaces" if "'\\t'" in (error.problem or "") else ""
    return f"{place}: not YAML: {context}{error.problem}{hint}"


def _character_problem(path: str | Path, text: str, error: yaml.reader.ReaderError) -> str:
    """Say where there is a character that YAML does not allow."""
    line, column = text.count("\n", 0, error.position) + 1, error.position - text.rfind("\n", 0, error.position)
    return f"{path}:{line}:{column}: not YAML: the character {text[error.position]!r} is not allowed; remove it"


def _construct(node: yaml.Node | None) -> Any:
    """Return the plain data of a node."""
    loader = _Loader("")
    try:
        return None if node is None else loader.construct_document(node)
    finally:
        loader.dispose()


def _collect(node: yaml.Node | None, path: KeyPath, origins: Origins) -> Iterator[str]:
    """Note where each key and item below `node` was written; yield what is wrong with the keys."""
    children: Iterable[tuple[Key, yaml.Node, yaml.Node]] = ()
    if isinstance(node, yaml.MappingNode):
        children = [(str(_construct(key)), key, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        children = [(i, value, value) for i, value in enumerate(node.value)]
    seen: dict[Key, str] = {}
    for key, written, value in children:
        mark = written.start_mark
        place = f"{origins.source}:{mark.line + 1}:{mark.column + 1}"
        inner = (*path, key)
        if written.tag != "tag:yaml.org,2002:str" and isinstance(node, yaml.MappingNode):
            yield f"{place}: {dotted(inner)}: expected text as a key; put it in quotes"
        if key in seen:
            yield f"{place}: {dotted(inner)}: written twice, first at {seen[key]}; remove one"
        seen[key] = place
        origins.places[inner] = place
        yield from _collect(value, inner, origins)


def apply_override(data: dict[str, Any], origins: Origins, override: str) -> None:
    """Change `data` as the option ``section.key=value`` says."""
    option = f"--set {override}"
    name, equals, text = override.partition("=")
    keys = tuple(name.strip().split("."))
    if not equals or not all(keys):
        raise ConfigError(f"{option}: expected KEY=VALUE, such as model.n_clusters=12")
    try:
        value = _construct(yaml.compose(text, _Loader))
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or getattr(error, "reason", error)
        raise ConfigError(f"{option}: the value is not YAML: {problem}") from None
    except RecursionError:
        raise ConfigError(f"{option}: the value is nested too deeply") from None
    section = data
    for i, key in enumerate(keys[:-1]):
        if section.get(key) is None:
            section[key] = {}
            origins.places[keys[: i + 1]] = option
        section = section[key]
        if not isinstance(section, dict):
            raise ConfigError(f"{option}: {dotted(keys[: i + 1])} has no keys below it")
    section[keys[-1]] = value
    for path in [path for path in origins.places if path[: len(keys)] == keys]:
        del origins.places[path]
    origins.places[keys] = option


def dump_config(config: JobConfig) -> str:
    """Return the configuration with all its defaults as YAML that loads again."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def dotted(path: KeyPath) -> str:
    """Return a key's path as people write it.

    >>> dotted(("input", "variables", 0))
    'input.variables[0]'
    """
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{_as_key(key)}" if text else _as_key(key)
    return text


def _as_key(key: str) -> str:
    """Return a key as it is, or in quotes and cut short where it is no word."""
    return key if key.strip() == key and key.isprintable() and 0 < len(key) <= 60 else shown(key)


def _problem(details: ErrorDetails, origins: Origins) -> str:
    """Say in a line where and what one mistake is, and what was expected."""
    path = tuple(details["loc"])
    return f"{origins.of(path)}: {dotted(path)}: {_words(details, path)}"


_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text; put it in quotes",
    "string_too_short": "text that is not empty",
    "tuple_type": "a list",
    "too_short": "a list that is not empty",
    "dict_type": "keys with values",
    "model_type": "keys with values",
}


def _words(details: ErrorDetails, path: KeyPath) -> str:
    """Say what is wrong with a value, and what was expected."""
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    if kind == "wrong":
        return str(context["message"])
    if kind == "extra_forbidden":
        return f"unknown key{_known_key(path)}"
    if kind == "missing":
        return f"missing; expected {_missing(path)}"
    if kind == "literal_error":
        hint = suggestion(str(value), re.findall(r"'([^']*)'", context["expected"]))
        return f"expected {context['expected']}, got {shown(value)}{hint}"
    expected = _EXPECTED.get(kind, details["msg"].removeprefix("Input should be "))
    return f"expected {expected}, got {shown(value)}"


def _known_key(path: KeyPath) -> str:
    """Return which key was probably meant: in its own section, or in another."""
    *parents, key = path
    for name, model in sections():
        if key in model.model_fields:
            return f"; it belongs in the section {name!r}"
    return did_you_mean(str(key), _fields_at(parents))


def _fields_at(path: Sequence[Key]) -> Mapping[str, FieldInfo]:
    """Return the fields of the section at `path`, such as those of `adapt` in `cluster`."""
    model: type[BaseModel] = JobConfig
    for key in path:
        annotation = model.model_fields[str(key)].annotation
        kinds = (annotation, *get_args(annotation))
        model = next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section))
    return model.model_fields


def _missing(path: KeyPath) -> str:
    """Return what was expected at `path`: the keys of a section, or the description of a key."""
    if len(path) == 1:
        fields = dict(sections())[str(path[0])].model_fields
        required = [key for key, field in fields.items() if field.is_required()]
        return f"a section with the key {', '.join(required)}"
    return (_fields_at(path[:-1])[str(path[-1])].description or "").rstrip(".")


def _kind(data: Any) -> str:
    """Say what `data` is in the words of YAML."""
    return "a list" if isinstance(data, list) else f"the single value {shown(data)}"


def _section_names() -> str:
    """Return the names of all sections, for a message."""
    return ", ".join(name for name, _ in sections())
