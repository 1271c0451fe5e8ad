"""The reference part of the documentation, generated from the code: commands, configuration, exit codes."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from invoke.collection import Collection

import pipeline.errors
from pipeline.config import config_schema
from pipeline.errors import BUG_EXIT_CODE, INTERRUPTED_EXIT_CODE, TERMINATED_EXIT_CODE, PipelineError
from pipeline.images.definition import definition_schema

GENERATED = "<!-- Generated from the code by `./invokew check --fix`; what is written here by hand is lost. -->\n"


def commands_page() -> str:
    """Every command with its options."""
    from pipeline.tasks import namespace

    lines = ["# Commands", "", GENERATED, "`invoke --help COMMAND` says the same. A `--no-…` is not needed: what is not said is off.", ""]
    for name, task in sorted(_tasks(namespace)):
        lines += [f"## {name}", "", *inspect.cleandoc(task.__doc__ or "").splitlines(), ""]
        asked = copy.copy(task)
        asked.help = dict(task.help)  # which asking for the arguments empties
        arguments = asked.get_arguments(ignore_unknown_help=True)
        if arguments:
            lines += ["| option | meaning |", "| --- | --- |"]
            lines += [f"| `{_option(argument)}` | {_cell(argument.help or '')} |" for argument in arguments]
            lines.append("")
    return "\n".join(lines)


def configuration_page() -> str:
    """Every key of pipeline.yaml and of an image definition."""
    lines = ["# Configuration", "", GENERATED]
    for title, schema in (("pipeline.yaml", config_schema()), ("Image definitions", definition_schema())):
        definitions: Mapping[str, Any] = schema["$defs"]  # type: ignore[assignment]  # as JSON Schema has it
        lines += [f"## {title}", ""]
        lines += _keys(definitions["_File"], definitions)
        for name, definition in definitions.items():
            if name != "_File":
                lines += [f"### {name}", "", definition["description"], "", *_keys(definition, definitions)]
    return "\n".join(lines)


def exit_codes_page() -> str:
    """Every exit code of a command."""
    lines = [
        "# Exit codes",
        "",
        GENERATED,
        "They are never reused. Scripts may rely on them. `pins.update --check --strict` ends with 10 where a pin has moved upstream.",
        "",
    ]
    lines += ["| code | name | when |", "| --- | --- | --- |", "| 0 | | everything was done |"]
    codes = {code: (name, text) for name, code, text in _errors()}
    codes[BUG_EXIT_CODE] = ("", "a bug of this project: the message names a file to report")
    codes[INTERRUPTED_EXIT_CODE] = ("", "interrupted (Ctrl-C); what was begun has been cleaned up")
    codes[TERMINATED_EXIT_CODE] = ("", "terminated (TERM); what was begun has been cleaned up")
    lines += [f"| {code} | {name} | {_cell(text)} |" for code, (name, text) in sorted(codes.items())]
    return "\n".join([*lines, ""])


def engine_page() -> str:
    """What a database engine of one's own offers: the protocols of pipeline/databases/engine.py."""
    from pipeline.databases import bake, engine, states
    from pipeline.integration import diagnosis

    lines = [
        "# Database engines",
        "",
        GENERATED,
        f"A package of one's own names an object of its own under the entry point group `{engine.ENTRY_POINTS}`; `itest.engine` names the entry "
        "point. A whole one, in 60 lines: [An engine of your own](../own-engine.md).",
        "",
    ]
    kinds = (
        engine.DatabaseEngine,
        engine.Connection,
        engine.OpenEngine,
        states.StatefulEngine,
        bake.RotatingEngine,
        diagnosis.TellingEngine,
    )
    for kind in kinds:
        lines += [f"## {kind.__name__}", "", inspect.getdoc(kind) or "", "", "| member | meaning |", "| --- | --- |"]
        lines += [f"| `{_cell(_signature(name, member))}` | {_cell(inspect.getdoc(member) or '')} |" for name, member in _members(kind)]
        lines.append("")
    lines += ["## Values", "", "| type | fields | meaning |", "| --- | --- | --- |"]
    for value in (engine.Address, engine.Account, engine.Password, engine.Statement, engine.Problem, engine.Answer, engine.Probe):
        fields = ", ".join(f"`{field.name}: {field.type}`" for field in dataclasses.fields(value))
        lines.append(f"| `{value.__name__}` | {fields} | {_cell(inspect.getdoc(value) or '')} |")
    phases = ", ".join(f"`{phase.value}`" for phase in engine.Phase)
    return "\n".join([*lines, "", f"`Phase`: {inspect.getdoc(engine.Phase)} {phases}.", ""])


def _members(kind: type) -> Iterator[tuple[str, Any]]:
    for name, member in vars(kind).items():
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
            yield name, member


def _signature(name: str, member: Any) -> str:
    if isinstance(member, property):
        return f"{name}: {member.fget.__annotations__['return']}"
    parameters = [f"{key}: {kind}" for key, kind in member.__annotations__.items() if key != "return"]
    return f"{'async ' if inspect.iscoroutinefunction(member) else ''}{name}({', '.join(parameters)}) -> {member.__annotations__['return']}"


def _tasks(collection: Collection, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, task in collection.tasks.items():
        if task.body.__module__.startswith("pipeline."):  # the tasks of this repository alone are no part of the package
            yield f"{prefix}{collection.transform(name)}", task
    for name, inner in collection.collections.items():
        yield from _tasks(inner, f"{prefix}{name}.")


def _option(argument: Any) -> str:
    long = max(argument.names, key=len)
    value = "" if argument.kind is bool else f" {long.replace('-', '_').upper()}"
    return f"--{long}{value}"


def _keys(definition: Mapping[str, Any], definitions: Mapping[str, Any]) -> list[str]:
    lines = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for key, value in definition["properties"].items():
        default = "(required)" if key in definition.get("required", ()) else _shown(value.get("default"))
        meaning = value.get("description") or definitions.get(_reference(value), {}).get("description", "")
        lines.append(f"| `{key}` | {_type(value)} | {default} | {_cell(meaning)} |")
    return [*lines, ""]


def _type(value: Mapping[str, Any]) -> str:
    if _reference(value):
        return f"[{_reference(value)}](#{_reference(value).lower()})"
    if "anyOf" in value:
        return " or ".join(_type(one) for one in value["anyOf"] if one.get("type") != "null")
    if value.get("type") == "array":
        return f"list of {_type(value['items'])}" if value.get("items") else "list"
    if value.get("type") == "object":
        inner = value.get("additionalProperties")
        return f"name → {_type(inner)}" if isinstance(inner, dict) else "mapping"
    kind = value.get("type", "text")
    return " or ".join(
        {"string": "text", "integer": "number", "boolean": "yes/no"}.get(one, one) for one in ([kind] if isinstance(kind, str) else kind)
    )


def _reference(value: Mapping[str, Any]) -> str:
    return str(value.get("$ref", "")).rpartition("/")[2]


def _shown(default: object) -> str:
    if default is None or default == "" or isinstance(default, dict):
        return ""
    if isinstance(default, list | tuple):
        return ", ".join(f"`{item}`" for item in default)
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _errors() -> Iterator[tuple[str, int, str]]:
    for name, kind in vars(pipeline.errors).items():
        if inspect.isclass(kind) and issubclass(kind, PipelineError) and "exit_code" in vars(kind) and kind is not PipelineError:
            yield name.removesuffix("Error"), kind.exit_code, inspect.cleandoc(kind.__doc__ or "")
