"""JSON schemas for kubeconform, strict ones: a field that Kubernetes doesn't know is an error.

Kubernetes itself drops such a field in silence, and a misspelt probe with it.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

_INT_OR_STRING: dict[str, Any] = {"anyOf": [{"type": "integer"}, {"type": "string"}]}
_QUANTITY: dict[str, Any] = {"anyOf": [{"type": "number"}, {"type": "string"}]}


def write_core_schemas(swagger: Path, into: Path) -> None:
    """One schema for each kind of Kubernetes' own API, named as kubeconform looks for it."""
    definitions = json.loads(swagger.read_text())["definitions"]
    strict = {name: _strict(schema) for name, schema in definitions.items()}
    strict["io.k8s.apimachinery.pkg.util.intstr.IntOrString"] = _INT_OR_STRING
    strict["io.k8s.apimachinery.pkg.api.resource.Quantity"] = _QUANTITY
    (into / "_definitions.json").write_text(json.dumps({"definitions": strict}))
    for name, schema in definitions.items():
        for kind in schema.get("x-kubernetes-group-version-kind", []):
            file = into / _name(kind["kind"], kind["group"], kind["version"])
            file.write_text(json.dumps({"$ref": f"_definitions.json#/definitions/{name}"}))


def write_schemas_of_crds(crds: Iterable[Path], into: Path) -> None:
    """One schema for each version of these custom resources."""
    for crd in crds:
        # S506: the loader is a safe one, in C.
        spec = yaml.load(crd.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))["spec"]
        for version in spec["versions"]:
            schema = _strict(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            file = into / _name(spec["names"]["kind"], spec["group"], version["name"])
            file.write_text(json.dumps(schema))


def _name(kind: str, group: str, version: str) -> str:
    first = group.partition(".")[0]
    return "-".join(filter(None, (kind.lower(), first, version))) + ".json"


def _strict(schema: Any) -> Any:
    """The same in JSON Schema's own words, and with no room for what isn't named."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string") or schema.get("format") == "int-or-string":
        return dict(_INT_OR_STRING)
    if isinstance(ref := schema.get("$ref"), str):
        return {"$ref": ref.replace("#/definitions/", "_definitions.json#/definitions/")}
    made = {
        key: {name: _strict(each) for name, each in value.items()}
        if key == "properties"
        else _strict(value)
        for key, value in schema.items()
        if key != "description"
    }
    is_open = made.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(made.get("properties"), dict) and not is_open:
        made.setdefault("additionalProperties", False)
    return made
