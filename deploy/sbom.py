"""Writes what pixtide is made of, as CycloneDX 1.6, from requirements.lock: `make sbom`.

Each package with its version and the digests of every file that the lock accepts of it, so that a
scanner can say what is known of it, and an auditor that nothing else was installed.
"""

import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_PINNED = re.compile(r"^([\w.-]+)==([^\s;\\]+)(?: ; ([^\\]+))?")


def bill_of_materials() -> dict[str, Any]:
    """The whole document. It is the same for the same lock: no time, no serial number."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    name, version = project["name"], project["version"]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": name,
                "name": name,
                "version": version,
                "licenses": [{"license": {"id": project["license"]}}],
            }
        },
        "components": components((ROOT / "requirements.lock").read_text()),
    }


def components(lock: str) -> list[dict[str, Any]]:
    """The packages of a lock that `uv pip compile --generate-hashes` wrote."""
    found: list[dict[str, Any]] = []
    for line in lock.splitlines():
        if pinned := _PINNED.match(line):
            name, version, marker = pinned.groups()
            purl = f"pkg:pypi/{name.lower()}@{version}"
            component = {"type": "library", "bom-ref": purl, "name": name, "version": version}
            component |= {"purl": purl}
            where = [{"name": "pixtide:where", "value": marker.strip()}] if marker else []
            found.append(component | {"hashes": []} | ({"properties": where} if where else {}))
        elif digest := re.match(r"\s+--hash=sha256:([0-9a-f]{64})", line):
            found[-1]["hashes"].append({"alg": "SHA-256", "content": digest[1]})
    return found


if __name__ == "__main__":
    into = Path(sys.argv[1])
    into.parent.mkdir(exist_ok=True)
    into.write_text(json.dumps(bill_of_materials(), indent=1) + "\n")
