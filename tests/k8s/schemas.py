"""Makes strict JSON schemas, laid out as kubeconform looks for them, of Kubernetes' own description of its API.

    schemas.py SWAGGER_JSON INTO

Strict: a key that the API does not know is a mistake. Two types are written as more than one: a port or quantity may be a number.
"""

import json
import pathlib
import sys

EITHER = ("io.k8s.apimachinery.pkg.util.intstr.IntOrString", "io.k8s.apimachinery.pkg.api.resource.Quantity")
FREE = ("JSON", "JSONSchemaProps", "RawExtension")


def main(swagger, into):
    definitions = json.loads(pathlib.Path(swagger).read_text())["definitions"]
    into = pathlib.Path(into)
    into.mkdir(parents=True, exist_ok=True)
    for name, schema in definitions.items():
        if name in EITHER:
            schema.pop("type", None)
            schema.update(oneOf=[{"type": "string"}, {"type": "number"}], format=None)
            schema.pop("format")
        elif "properties" in schema and not name.endswith(FREE):
            schema.setdefault("additionalProperties", False)
        for kind in schema.get("x-kubernetes-group-version-kind", []):
            if "properties" not in schema or "apiVersion" not in schema["properties"]:
                continue
            schema["properties"]["apiVersion"]["enum"] = [f"{kind['group']}/{kind['version']}".lstrip("/")]
            schema["properties"]["kind"]["enum"] = [kind["kind"]]
            group = kind["group"].split(".")[0]
            file = "-".join(filter(None, [kind["kind"].lower(), group, kind["version"]])) + ".json"
            (into / file).write_text(json.dumps({"$ref": f"_definitions.json#/definitions/{name}"}))
    # Last: whoever finds it finds the others.
    (into / "_definitions.json").write_text(json.dumps({"definitions": definitions}))


main(*sys.argv[1:])
