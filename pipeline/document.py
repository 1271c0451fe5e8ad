"""A YAML file decoded into a type; each error names file, line and key, and the nearest valid name."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from pipeline.errors import ConfigurationError

T = TypeVar("T")
Place = tuple[str | int, ...]  # the way from the document's root to a value: keys and list positions

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml is ten times faster; the wheel has it nearly everywhere


class Shared(typing.NamedTuple):
    """A document, such as one that another extends, and its name in messages."""

    path: Path
    shown: str


def read_document(
    path: Path,
    kind: type[T],
    defaults: dict[str, object] | None = None,
    shown: str = "",
    shared: Shared | None = None,
    single: Collection[str] = (),
) -> T:
    """Decode the YAML mapping in `path` into `kind` (a msgspec Struct).

    `defaults` are top-level values that win over the file's (environment overrides). `shown` is the file's name in
    messages. `shared` is the document that this one extends: what that says holds where this one says nothing; mappings are merged,
    everything else is replaced, and so is each entry of the mappings that are `single`, whose keys do not go together with others.
    Raises ConfigurationError for anything that is not exactly what `kind` describes, wherever it
    stands.
    """
    shown = shown or path.name
    root, own = _load(path, shown)
    files = [(root, own, shown)]
    if shared:
        files.append((*_load(*shared), shared.shown))
    data = {**_merged([found for _, found, _ in reversed(files)], single), **(defaults or {})}
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise _explained(_pinpointed(str(error), data, kind), files, kind) from None


def _merged(documents: typing.Iterable[dict[Any, Any]], single: Collection[str] = ()) -> dict[Any, Any]:
    """Several mappings as one, of which the later ones win; of those named in `single`, each entry as a whole."""
    found: dict[Any, Any] = {}
    for document in documents:
        for key, value in document.items():
            above = found.get(key)
            if isinstance(value, dict) and isinstance(above, dict):
                found[key] = {**above, **value} if key in single else _merged((above, value))
            else:
                found[key] = value
    return found


def _load(path: Path, shown: str) -> tuple[Any, dict[Any, Any]]:
    """A file's YAML mapping: as nodes, which know their lines, and as values."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigurationError(f"{shown}: there is no such file", f"Create {path}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{shown}: cannot be read: {error}", "It must be a readable UTF-8 text file.") from error
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        _check_keys(root, shown, set(), ())
        data = loader.construct_document(root) if root is not None else {}
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigurationError(f"{shown}:{line}: not valid YAML: {error.problem}", "Check the indentation and quotes there.") from error
    except (yaml.YAMLError, ValueError) as error:  # a character that YAML forbids, or a date that is none: no mark
        raise ConfigurationError(f"{shown}: not valid YAML: {error}", "Save it as plain UTF-8 text.") from error
    finally:
        loader.dispose()
    if not isinstance(data, dict):
        raise ConfigurationError(f"{shown}:1: expected keys and values, found {type(data).__name__}", "Write `key: value` lines.")
    return root, data


def line_of(path: Path, *place: str | int) -> int:
    """The 1-based line of a value in a YAML file that was read before; 1 where it is not written there."""
    return _line(yaml.compose(path.read_text(encoding="utf-8"), Loader=_Loader), place)


def written_value(document: Shared, *place: str | int) -> Any:
    """What a YAML file says at a place; None where it says nothing. Raises ConfigurationError for one that is no YAML."""
    return _value_at(_load(*document)[1], place)


def written_scalars(path: Path, *place: str) -> dict[str, str]:
    """Key → text as it is written (1.10 stays 1.10) in a mapping of a YAML file that was read before."""
    node = yaml.compose(path.read_text(encoding="utf-8"), Loader=_Loader)
    for part in place:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        node = next((value for key, value in pairs if key.value == part), None)
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return {key.value: value.value for key, value in pairs if isinstance(value, yaml.ScalarNode)}


def nearest(name: str, valid: typing.Iterable[str]) -> str:
    """A sentence that suggests the valid name nearest to `name`, or lists what is valid."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"Did you mean '{close[0]}'?"
    return f"Valid here: {', '.join(names)}." if names else "None is defined."


def _check_keys(node: Any, shown: str, seen_nodes: set[int], above: tuple[int, ...]) -> None:
    """Refuse keys that are no plain words or stand twice, and an alias of something that it is itself a part of."""
    if id(node) in above:
        line = node.start_mark.line + 1
        raise ConfigurationError(f"{shown}:{line}: an alias refers to what it is a part of", "Write the value in place of the alias.")
    if id(node) in seen_nodes:
        return  # an alias: checked where its anchor stands
    seen_nodes.add(id(node))
    above = (*above, id(node))
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigurationError(f"{shown}:{line}: a key must be a plain word", "Quote a value that begins with { or [.")
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise ConfigurationError(
                    f"{shown}:{line}: key '{key.value}' stands twice (first on line {seen[key.value]})", "Keep one of them."
                )
            seen[key.value] = line
            _check_keys(value, shown, seen_nodes, above)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _check_keys(value, shown, seen_nodes, above)


def _pinpointed(message: str, data: dict[Any, Any], kind: Any) -> str:
    """msgspec's message with the key it leaves out: for a value of a dict its path says `[...]`."""
    found = re.search(r" - at `\$\.(\w+)\[\.\.\.\]", message)
    values = data.get(found[1]) if found else None
    if found and isinstance(values, dict):
        for key, value in values.items():
            try:
                msgspec.convert({**data, found[1]: {key: value}}, kind)
            except msgspec.ValidationError as error:
                return str(error).replace("[...]", f"[{key}]", 1)
    return message


# What a person writes in YAML of each type that msgspec names, as in: expected `array`, got `str`.
_YAML_WORDS = {
    "array": "a list",
    "object": "keys and values",
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "null": "nothing",
}
_TYPES = re.compile(r"`((?:[a-z]+ \| )*[a-z]+)`")


def _explained(message: str, files: Sequence[tuple[Any, dict[Any, Any], str]], kind: Any) -> ConfigurationError:
    """msgspec's message, which ends in a path such as `$.itest.run[0]`, as file, line, key and what was meant.

    `files`: root node, values and name of each file that was merged, the first of which wins.
    """
    what, _, path = message.partition(" - at `")
    place = _place(path.rstrip("`"))
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", what)
    missing = re.fullmatch(r"Object missing required field `(.*)`", what)
    if unknown:
        place = (*place, unknown[1])
        what = f"unknown key '{unknown[1]}'"
        hint = nearest(unknown[1], _fields(kind, place[:-1]))
    elif missing:
        what = f"the key '{missing[1]}' is missing"
        hint = f"Add `{missing[1]}:` there."
    else:
        what = _TYPES.sub(lambda found: " or ".join(_YAML_WORDS.get(name, name) for name in found[1].split(" | ")), what)
        what = f"'{_written(place)}': {what[0].lower()}{what[1:]}" if place else what
        hint = "Correct the value."
    root, shown = next(((root, shown) for root, data, shown in files if _is_written(data, place)), (files[0][0], files[0][2]))
    where = f" in '{_written(place[:-1])}'" if unknown and len(place) > 1 else ""
    return ConfigurationError(f"{shown}:{_line(root, place)}: {what}{where}", hint)


def _is_written(data: Any, place: Place) -> bool:
    """Whether a document says something at a place, be it `null`."""
    above = _value_at(data, place[:-1])
    return not place or (isinstance(above, dict) and place[-1] in above) or _value_at(data, place) is not None


def _value_at(data: Any, place: Place) -> Any:
    """What a document says at a place; None where it says nothing."""
    here = data
    for part in place:
        try:
            here = here[part]
        except (KeyError, IndexError, TypeError):
            return None
    return here


def _place(path: str) -> Place:
    parts: list[str | int] = []
    for key, index in re.findall(r"\.([^.\[\]]+)|\[([^\]]*)\]", path):
        parts.append(key or (int(index) if index.isdigit() else index))
    return tuple(parts)


def _written(place: Place) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")


def _line(node: Any, place: typing.Sequence[str | int]) -> int:
    line = node.start_mark.line + 1 if node is not None else 1
    for part in place:
        if isinstance(node, yaml.MappingNode):
            found = [(key, value) for key, value in node.value if key.value == part]
            if not found:
                return int(line)
            line, node = found[0][0].start_mark.line + 1, found[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return int(line)


def _fields(kind: Any, place: Place) -> list[str]:
    """The keys that are valid at `place` in a document of type `kind`; empty where it is not a Struct."""
    for part in place:
        if typing.get_origin(kind) is typing.Annotated:
            kind = typing.get_args(kind)[0]
        if typing.get_origin(kind) is dict:
            kind = typing.get_args(kind)[1]
            continue
        kind = _struct(kind)
        if kind is None:
            return []
        if isinstance(part, str) and isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            types_by_name = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
            kind = types_by_name.get(part)
    kind = _struct(kind)
    return [field.encode_name for field in msgspec.structs.fields(kind)] if isinstance(kind, type) else []


def _struct(kind: Any) -> Any:
    """The Struct inside Annotated, a union, a tuple or the values of a dict."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind
    if typing.get_origin(kind) in (typing.Annotated, typing.Union, types.UnionType, tuple, list, dict):
        for argument in typing.get_args(kind):
            found = _struct(argument)
            if found is not None:
                return found
    return None
