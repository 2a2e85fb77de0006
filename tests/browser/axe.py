"""axe-core, fetched by npm into the user's cache, checked, and run in a page."""

import base64
import hashlib
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from tests.servers.install import SetupError

VERSION = "4.10.3"
#: As the registry states it for this version.
_SHA512 = "Xm7bpRXnDSX2YE2YFfBk2FnF0ep6tmG7xPh8iHee8MIcrgq762Nkce856dYtJYLkuIoYZvGfTs/PbZhideTcEg=="
_MATTERS = ("serious", "critical")


def axe_script() -> str:
    """axe.min.js. Raises SetupError where npm is missing or gives something else."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pixtide"
    cache.mkdir(parents=True, exist_ok=True)
    kept = cache / f"axe-core-{VERSION}.min.js"
    if not kept.exists():
        with tempfile.TemporaryDirectory() as folder:
            script = _fetched(Path(folder))
        partial = kept.with_suffix(".partial")
        partial.write_bytes(script)
        partial.replace(kept)
    return kept.read_text()


def _fetched(folder: Path) -> bytes:
    try:
        subprocess.run(
            ["npm", "pack", "--silent", f"axe-core@{VERSION}"],
            cwd=folder,
            check=True,
            capture_output=True,
            timeout=120,
        )
    except FileNotFoundError as error:
        raise SetupError("axe-core is fetched by npm: install the package `npm`") from error
    except subprocess.CalledProcessError as error:
        raise SetupError(f"npm pack axe-core: {error.stderr.decode()}") from error
    [archive] = folder.glob("*.tgz")
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if digest != _SHA512:
        raise SetupError(f"axe-core {VERSION} has the SHA-512 {digest}, not the pinned one")
    with tarfile.open(archive) as tar:
        member = tar.extractfile("package/axe.min.js")
        assert member is not None
        return member.read()


def complaints(page: Page) -> list[str]:
    """What axe finds in the page as it stands that is serious or worse."""
    page.evaluate(axe_script())
    found: dict[str, Any] = page.evaluate("axe.run()")
    return [
        f"{violation['id']}: {node['target']} {node['failureSummary']}"
        for violation in found["violations"]
        if violation["impact"] in _MATTERS
        for node in violation["nodes"]
    ]
