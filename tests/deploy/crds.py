"""CustomResourceDefinitions, applied to objects as the API server applies them: fields, types, enumerations,
patterns, bounds, lists that are maps, defaults, and rules in CEL.

Rules that compare with an earlier object (`oldSelf`) are left out, and so are formats of text.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import cel
import pytest
import yaml
from jsonschema import Draft4Validator

from testing.service import REPOSITORY

Object = dict[str, Any]
DIRECTORY = REPOSITORY / "build" / "crds"


@cache
def schemas() -> dict[tuple[str, str], Object]:
    """Return the schema of each API version and kind. Skips the test if there are none."""
    found: dict[tuple[str, str], Object] = {}
    for file in sorted(DIRECTORY.glob("*.yaml")):
        for each in yaml.load_all(file.read_text(), yaml.CSafeLoader):
            if each and each["kind"] == "CustomResourceDefinition":
                spec = each["spec"]
                for version in spec["versions"]:
                    if version.get("served", True):
                        name = f"{spec['group']}/{version['name']}", spec["names"]["kind"]
                        found[name] = version["schema"]["openAPIV3Schema"]
    if not found:
        pytest.skip("there is no build/crds: `make test` fetches it where go is installed")
    return found


def problems(each: Object) -> list[str]:
    """Return the errors that an API server would report for an object; empty if it is valid."""
    schema = schemas()[each["apiVersion"], each["kind"]]
    each = copy.deepcopy(each)
    _fill(schema, each)
    found = [
        f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
        for error in Draft4Validator(_plain(schema)).iter_errors(each)
    ]
    known = {"apiVersion": {}, "kind": {}, "metadata": {"x-kubernetes-preserve-unknown-fields": True}}
    properties = {**schema.get("properties", {}), **known}
    return [*found, *_walk({**schema, "properties": properties}, each, "")]


def rules(schema: Any) -> Iterator[str]:
    """Yield every rule in a schema."""
    if isinstance(schema, dict):
        if isinstance(found := schema.get("x-kubernetes-validations"), list):
            yield from (rule["rule"] for rule in found)
        schema = list(schema.values())
    if isinstance(schema, list):
        for below in schema:
            yield from rules(below)


def _fill(schema: Object, value: Any) -> None:
    """Set the defaults of absent fields."""
    if isinstance(value, dict):
        for name, below in schema.get("properties", {}).items():
            if name not in value and "default" in below:
                value[name] = copy.deepcopy(below["default"])
            if name in value:
                _fill(below, value[name])
        if isinstance(more := schema.get("additionalProperties"), dict):
            for name in value.keys() - schema.get("properties", {}).keys():
                _fill(more, value[name])
    elif isinstance(value, list):
        for each in value:
            _fill(schema.get("items", {}), each)


def _plain(schema: Any) -> Any:
    """Return the schema as JSON Schema."""
    if isinstance(schema, list):
        return [_plain(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: _plain(below) for name, below in schema.items() if not name.startswith("x-kubernetes")}
    if schema.get("x-kubernetes-int-or-string"):
        made["type"] = ["integer", "string"]
    if schema.get("nullable") and isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
    if schema.get("format") == "int32" and schema.get("type") == "integer":
        made.setdefault("minimum", -(2**31))
        made.setdefault("maximum", 2**31 - 1)
    return made


def _walk(schema: Object, value: Any, path: str) -> Iterator[str]:
    """Yield the problems that JSON Schema cannot express: unknown fields, equal items, and rules."""
    if isinstance(value, dict):
        known, more = schema.get("properties", {}), schema.get("additionalProperties")
        for name, each in value.items():
            below = known.get(name, more)
            if isinstance(below, dict):
                yield from _walk(below, each, f"{path}.{name}")
            elif not (below or schema.get("x-kubernetes-preserve-unknown-fields")):
                yield f"{path}.{name}: unknown field"
    elif isinstance(value, list):
        for place, each in enumerate(value):
            yield from _walk(schema.get("items", {}), each, f"{path}[{place}]")
        yield from _doubles(schema, value, path)
    for rule in schema.get("x-kubernetes-validations", ()):
        if "oldSelf" not in rule["rule"] and not _holds(rule["rule"], value):
            yield f"{path}: {rule.get('message') or rule['rule']}"


def _doubles(schema: Object, value: list[Any], path: str) -> Iterator[str]:
    kind = schema.get("x-kubernetes-list-type")
    if kind == "map":
        names = [
            json.dumps([each.get(key) for key in schema["x-kubernetes-list-map-keys"]]) for each in value
        ]
    elif kind == "set":
        names = [json.dumps(each) for each in value]
    else:
        return
    for name in {name for name in names if names.count(name) > 1}:
        yield f"{path}: {name} is there twice"


def _holds(rule: str, value: Any) -> bool:
    """Return whether a rule holds. As in the API server, an error in it is a violation."""
    try:
        return cel.evaluate(rule, {"self": value}) is True
    except (KeyError, TypeError, ValueError, RuntimeError):
        return False
