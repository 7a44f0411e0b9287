"""Config dataclasses to and from plain mappings, strictly.

A config is a frozen, typed dataclass with a docstring under each field. It nests, it is written to YAML
or JSON, and it is read back with every unknown or ill-typed field refused by name.
"""

import dataclasses
import math
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from trainer.errors import ConfigError, did_you_mean, shorten

T = TypeVar("T")


def to_dict(config: Any) -> Any:
    """A config as plain dicts, lists, strings and numbers (what YAML and JSON can hold)."""
    if dataclasses.is_dataclass(config):
        return {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, dict):
        return {str(k): to_dict(v) for k, v in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_dict(v) for v in config]
    if isinstance(config, Path):
        return str(config)
    return config


def from_dict(cls: type[T], values: Any, where: str = "") -> T:
    """Build the config dataclass `cls` from a mapping; missing fields take their defaults.

    `where` is the dotted path used in error messages ("train.optim"). Raises ConfigError for a field
    that `cls` does not have (naming the nearest one), for a value of another type, and for a field
    without default that is missing.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{where or 'the config'} must be a mapping of fields, found {_show(values)}.")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            path = f"{where}.{key}" if where else str(key)
            raise ConfigError(
                f"Unknown field {shorten(path, 200)}.{did_you_mean(str(key), fields)} "
                f"The fields of {where or cls.__name__} are: {', '.join(fields)}."
            )
    hints = typing.get_type_hints(cls)
    read = {k: _coerce(v, hints[k], f"{where}.{k}" if where else k) for k, v in values.items()}
    missing = [
        f.name
        for f in fields.values()
        if f.name not in read and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where or cls.__name__} lacks the field(s) {', '.join(missing)}, which have no default.")
    return cls(**read)


def replace(config: T, changes: dict[str, Any], where: str = "") -> T:
    """`config` with some fields changed, checked like `from_dict`; dotted names reach into nested configs."""
    values = to_dict(config)
    for dotted, value in changes.items():
        node, parts = values, dotted.split(".")
        for part in parts[:-1]:
            node = node.get(part) if isinstance(node, dict) else None
        if not isinstance(node, dict) or parts[-1] not in node:
            raise ConfigError(f"Unknown field {dotted!r}.{did_you_mean(dotted, leaves(config))}")
        node[parts[-1]] = to_dict(value)
    return from_dict(type(config), values, where)


def leaves(config: Any, prefix: str = "") -> dict[str, Any]:
    """All fields of a config tree as dotted name -> value (nested configs are opened)."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            found.update(leaves(value, f"{prefix}{field.name}."))
        else:
            found[prefix + field.name] = value
    return found


def read_yaml(path: Path | str) -> dict[str, Any]:
    """A YAML mapping from a file; ConfigError with the line when it is not one."""
    import yaml

    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read the config file {path}: {error}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a mapping of fields, found {_show(values)}.")
    return values


def dump_yaml(values: dict[str, Any]) -> str:
    """A mapping as YAML text, in the order of the fields."""
    import yaml

    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)


def _coerce(value: Any, hint: Any, where: str) -> Any:
    """`value` as the annotated type `hint`, or ConfigError. Only lossless changes are made (1 -> 1.0, list -> tuple)."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        for option in args:
            try:
                return _coerce(value, option, where)
            except ConfigError:
                continue
        raise ConfigError(f"{where} must be {_name(hint)}, found {_show(value)}.")
    if origin is Literal:
        if value in args:
            return value
        hint_text = did_you_mean(value, [a for a in args if isinstance(a, str)]) if isinstance(value, str) else ""
        raise ConfigError(f"{where} must be one of {', '.join(map(repr, args))}, found {_show(value)}.{hint_text}")
    if hint is type(None):
        if value is None:
            return None
    elif dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else from_dict(hint, value, where)
    elif origin is tuple:
        if isinstance(value, (list, tuple)):
            if len(args) == 2 and args[1] is Ellipsis:
                return tuple(_coerce(v, args[0], f"{where}[{i}]") for i, v in enumerate(value))
            if len(args) == len(value):
                return tuple(_coerce(v, a, f"{where}[{i}]") for i, (v, a) in enumerate(zip(value, args)))
    elif origin is dict:
        if isinstance(value, dict):
            return {_coerce(k, args[0], where): _coerce(v, args[1], f"{where}.{k}") for k, v in value.items()}
    elif hint is bool:
        if isinstance(value, bool):
            return value
    elif hint is float:
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):  # text: YAML reads "3e-4" (no dot) so
            try:
                number = float(value)
            except (ValueError, OverflowError):
                number = math.nan
            if not math.isnan(number):
                return number
    elif hint is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    elif isinstance(hint, type) and isinstance(value, hint):
        return value
    raise ConfigError(f"{where} must be {_name(hint)}, found {_show(value)}.")


def _name(hint: Any) -> str:
    """A type annotation in words."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is type(None):
        return "null"
    if origin in (Union, types.UnionType):
        return " or ".join(_name(a) for a in args)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, args))
    if origin is tuple:
        return "a list of " + _name(args[0]) if args[-1] is Ellipsis else "a list [" + ", ".join(map(_name, args)) + "]"
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false"}.get(hint, getattr(hint, "__name__", str(hint)))


def _show(value: Any) -> str:
    """A value in an error message: short, with its type."""
    return f"{shorten(value)} ({type(value).__name__})"
