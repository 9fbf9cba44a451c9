"""Reference pages that the program writes about itself: commands and settings."""

import json
import re
from collections.abc import Iterator
from typing import Any

import typer
from typer.cli import get_docs_for_click
from typer.main import get_command

from kdseg_train.cli import app

Schema = dict[str, Any]

LIMITS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
}
TYPES = {
    "boolean": "true or false",
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "object": "mapping",
}
ELSEWHERE = ("frozen", "version", "command", "method")
"""Settings that nobody writes, or that are always the same."""

_LIST_OF_COMMANDS = re.compile(r"\*\*Commands\*\*:\n\n(\* .*\n)+\n?")


def command_line() -> str:
    """Markdown of every command's ``--help``; imports no torch."""
    command = get_command(app)
    text = get_docs_for_click(
        obj=command,
        ctx=typer.Context(command),
        name="kdseg-train",
        title="Command line",
    )
    # typer cuts its lists of commands off after 45 letters; headings tell the same
    return _LIST_OF_COMMANDS.sub("", text)


def method_names() -> tuple[str, ...]:
    """The methods that have a page."""
    from kdseg_train.methods import METHODS  # loads torch

    return tuple(METHODS)


def settings(method: str) -> str:
    """Markdown of a method's settings, from what ``describe`` prints."""
    from kdseg_train.methods import describe

    found = describe(method)
    lines = [
        f"# Settings of {method}",
        "",
        f"{found['title']}. What `kdseg-train describe {method}` prints, as a table. "
        "In a recipe the parts of a name are levels of the YAML file; on the command "
        "line a setting is `--set NAME=VALUE`.",
        "",
    ]
    schema = found["settings"]
    for name, group, defaults in _groups("", schema, schema["$defs"], {}, set()):
        lines += [f"## {name or 'The recipe'}", "", group.get("description", ""), ""]
        lines += ["| setting | value | default | meaning |"]
        lines += ["| --- | --- | --- | --- |"]
        lines += _rows(name, group, schema["$defs"], defaults)
        lines.append("")
    return "\n".join(lines)


def _rows(name: str, group: Schema, known: Schema, defaults: Schema) -> Iterator[str]:
    """A row for each setting of a group."""
    for key, field in group["properties"].items():
        if not name and key in ELSEWHERE:
            continue
        default = f"`{_short(defaults.get(key, field.get('default')))}`"
        if key in group.get("required", ()):
            default = "needed"
        elif _is_group(field):
            default = "see below"
        meaning = _meaning(field, known).replace("|", r"\|").replace("\n", " ")
        full = f"{name}.{key}".strip(".")
        yield f"| `{full}` | {_value(field)} | {default} | {meaning} |"


def _groups(
    name: str, group: Schema, known: Schema, defaults: Schema, listed: set[str]
) -> Iterator[tuple[str, Schema, Schema]]:
    """A group of settings, and those within; each with its defaults.

    What the entries of several lists have in common is told once.
    """
    yield name, group, defaults
    for key, field in group["properties"].items():
        inner = _group_of(field, known)
        entry = field.get("items", {}).get("$ref", "")
        if inner is None or entry in listed or (not name and key in ELSEWHERE):
            continue
        if entry:
            listed.add(entry)
        default = defaults.get(key, field.get("default"))
        given = default if isinstance(default, dict) else {}
        yield from _groups(f"{name}.{key}".strip("."), inner, known, given, listed)


def _meaning(field: Schema, known: Schema) -> str:
    """What a setting is for: its own words, or those of the group that it is."""
    group = _group_of(field, known) or {}
    return str(field.get("description") or group.get("description", ""))


def _group_of(field: Schema, known: Schema) -> Schema | None:
    """The group that a field is, or that each entry of its list is."""
    for part in (field, *field.get("anyOf", ()), field.get("items", {})):
        inner = known.get(part.get("$ref", "").rpartition("/")[2], {})
        if "properties" in inner:
            return dict(inner)
    return None


def _is_group(field: Schema) -> bool:
    return "$ref" in field and "NetworkSpec" not in field["$ref"]


def _short(default: Any) -> str:
    return "none" if default is None else json.dumps(default, ensure_ascii=False)


def _value(field: Schema) -> str:
    """What may be written there, in words."""
    if "enum" in field:
        return " or ".join(f"`{_short(one)}`" for one in field["enum"])
    if "const" in field:
        return f"`{_short(field['const'])}`"
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(map(_value, field["anyOf"])))
    kind = field.get("type", "group" if "$ref" in field else "any")
    if kind == "array":
        inner = field.get("items") or (field.get("prefixItems") or [{}])[0]
        words = _value(inner)
        return f"list of {'groups' if words == 'group' else words}"
    if kind == "null":
        return "none"
    words = "path" if field.get("format") == "path" else TYPES.get(kind, kind)
    limits = [text.format(field[key]) for key, text in LIMITS.items() if key in field]
    return ", ".join([words, *limits])
