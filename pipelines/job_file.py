"""The job file: one strict YAML document per job, read and validated before anything else happens."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import ValidationError

from pipelines.config import HOLDS_CREDENTIALS, JobConfig, ReplicaRange
from pipelines.errors import ConfigError

# Beyond its own errors: numbers of thousands of digits, the 45th of a month, and 1,000 brackets one in another.
UNREADABLE = (yaml.YAMLError, ValueError, RecursionError)


def _yaml(text: str) -> Any:
    """Raises one of UNREADABLE, also for a key that is given twice: YAML itself would take the last."""
    _check_keys(yaml.compose(text, yaml.SafeLoader), "", set())
    return yaml.safe_load(text)


def _check_keys(node: yaml.Node | None, where: str, seen: set[int]) -> None:
    if id(node) in seen:  # an alias may lie in what it stands for
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for inner in node.value:
            _check_keys(inner, where, seen)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[tuple[str, str], int] = {}
    for key, inner in node.value:
        name = f"{where}.{key.value}" if where else f"{key.value}"
        line = key.start_mark.line + 1
        if before := lines.get((key.tag, f"{key.value}")):
            raise ValueError(f"{name} is given twice, in line {before} and in line {line}; leave one of them")
        lines[key.tag, f"{key.value}"] = line
        _check_keys(inner, name, seen)


def _why(error: Exception) -> str:
    return "it is nested too deep" if isinstance(error, RecursionError) else str(error)


def load_job(path: str | Path, overrides: Sequence[str] = ()) -> JobConfig:
    """Read and validate a job file; `overrides` are `a.b=value` strings, values read as `_value` says.

    Raises ConfigError with one message that names every wrong field."""
    data = read_job(path)
    for override in overrides:
        _apply(data, override)
    return parse_job(data, str(path))


def read_job(path: str | Path) -> dict[str, Any]:
    """The sections of a job file, not validated. Raises ConfigError for a file that is not YAML, or no sections."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as bad:
        raise ConfigError(f"cannot read the job file {path}: {bad.strerror or bad}") from None
    except UnicodeDecodeError as bad:
        raise ConfigError(f"{path} is not UTF-8 text: {bad}") from None
    try:
        data = _yaml(text)
    except UNREADABLE as bad:
        raise ConfigError(f"{path} is not valid YAML: {_why(bad)}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold the sections corpus, model, table ...; it holds {type(data).__name__}")
    return data


def merged(data: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The sections with fields in place of, or beside, those that are there; a mapping goes into a mapping."""
    found = dict(data)
    for name, value in overrides.items():
        inner = found.get(name)
        found[name] = merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return found


def parse_job(data: dict[str, Any], source: str = "job") -> JobConfig:
    """Validate a job given as nested dictionaries. Raises ConfigError."""
    try:
        return JobConfig.model_validate(data)
    except ValidationError as bad:
        lines = [_explain(error) for error in bad.errors()]
        raise ConfigError(
            f"{source}: {len(lines)} wrong field(s)\n" + "\n".join(f"  {line}" for line in lines)
        ) from None


NULL = ("null", "Null", "NULL", "~")


def _apply(data: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    names = key.split(".")
    if not equals or not all(names):
        raise ConfigError(f"--set {override}: write it as section.field=value, for example --set run.replicas=4")
    node = data
    for name in names[:-1]:
        if node.get(name) is None:
            node[name] = {}
        node = node[name]
        if not isinstance(node, dict):
            raise ConfigError(f"--set {override}: {name} is not a section")
    held = _held(names)
    try:
        node[names[-1]] = _value(value, held)
    except UNREADABLE as bad:
        hint = "; a text that begins with a quote is YAML: put all of it into quotes" if held is str else ""
        raise ConfigError(f"--set {override[:200]}: the value is not valid YAML: {_why(bad)}{hint}") from None


def _held(names: Sequence[str]) -> Any:
    """The type of a field, of its alternatives the one that is not null; None of several, and where there is no such
    field."""
    found: Any = JobConfig
    for name in names:
        field = getattr(found, "model_fields", {}).get(name)
        if field is None:
            return None
        optional = get_origin(field.annotation) in (Union, UnionType)
        forms = [form for form in get_args(field.annotation) if form is not NoneType] if optional else []
        found = field.annotation if not optional else forms[0] if len(forms) == 1 else None
        found = get_args(found)[0] if get_origin(found) is Annotated else found
    return found


def _value(written: str, held: Any) -> Any:
    """What `--set` makes of a value for a field that holds this type. YAML, but of texts nothing else is made: one in
    quotes is a YAML string, null is null, and any other is as it is written, spaces at its end included. By YAML a
    template in braces would be a mapping, `a: b` too, and 007 a number.

    Raises one of UNREADABLE for what is not YAML."""
    if held == tuple[str, ...]:
        return yaml.load(written, yaml.BaseLoader)  # which knows lists, mappings and texts
    if held is not str or written.lstrip().startswith(('"', "'")):
        return _yaml(written)
    return None if written.strip() in NULL else written


FORMS = ("int", "literal['auto']", "number", "word", "range")  # pydantic names the alternatives of a field so


def _explain(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"] if part not in FORMS) or "job"
    if error["type"] == "extra_forbidden":
        known = _known_fields(error["loc"][:-1])
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known here: {', '.join(known)}"
        return f"{where}: unknown key{hint}"
    if error["type"] == "missing":
        return f"{where}: is required"
    message = error["msg"].removeprefix("Value error, ")
    given = error.get("input") if message != HOLDS_CREDENTIALS else {}
    shown = f" (got {given!r})" if isinstance(given, (str, int, float, bool)) or given is None else ""
    return f"{where}: {message}{shown}"


def _known_fields(loc: tuple[Any, ...]) -> list[str]:
    fields: Any = JobConfig
    for part in loc:
        if part == "range":
            return list(ReplicaRange.model_fields)
        annotation = fields.model_fields[part].annotation
        fields = next(
            (a for a in getattr(annotation, "__args__", (annotation,)) if hasattr(a, "model_fields")), annotation
        )
    return list(fields.model_fields)
