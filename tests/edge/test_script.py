"""The script as a file: it decides as the collector does, it is built from its source, it is small, and it is served to be cached."""

import gzip
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.core.events import PortalId
from pipeline.edge import served_script
from pipeline.edge.core.portal import Portal

SOURCE = served_script.BUILT.parent
NODE = shutil.which("node")
ESBUILD = SOURCE / "node_modules" / ".bin" / "esbuild"
PORTAL = Portal(PortalId(7), ("site.example",), texts={"en": {"title": '</script> "\u2028'}}, keys=(b"k" * 32,), server_key=b"canary" * 4)


@pytest.mark.skipif(NODE is None, reason="there is no node: the browser tests run the same script")
def test_the_script_decides_as_the_collector_does() -> None:
    """One table of cases for both (cases.json)."""
    assert NODE is not None
    table = Path(__file__).with_name("cases.json")
    printed = subprocess.run([NODE, str(table.with_name("script_cases.mjs"))], capture_output=True, text=True, check=True).stdout
    count = sum(map(len, json.loads(table.read_text(encoding="utf-8")).values()))
    assert printed == f"compared {count}\n"


@pytest.mark.skipif(not ESBUILD.exists(), reason="the build tool is not there: `npm ci` in pipeline/edge/script")
def test_the_built_files_are_the_sources(tmp_path: Path) -> None:
    """A build of the source gives the files that are served, byte for byte."""
    command = json.loads((SOURCE / "package.json").read_text())["scripts"]["build"].split()
    command = [str(ESBUILD), *command[1:-1], f"--outdir={tmp_path}"]
    subprocess.run(command, cwd=SOURCE, check=True, capture_output=True)
    for name in ("tracking.js", "banner.js"):
        assert (tmp_path / name).read_bytes() == (served_script.BUILT / name).read_bytes(), f"{name}: npm run build"


def test_the_core_is_small() -> None:
    """Under 10 KB gzipped, with a portal's configuration in it."""
    assert len(gzip.compress(served_script.tracking(PORTAL).body, mtime=0)) < 10_000


def test_what_is_served_holds_no_secret() -> None:
    """The configuration is in the script, and nothing that the page must not know."""
    body = served_script.tracking(PORTAL).body
    assert served_script.PLACE not in body
    assert b'"portal":7' in body
    assert b"canary" not in body
    assert b"eval(" not in body


def test_another_configuration_is_another_script() -> None:
    """The ETag follows what is served."""
    assert served_script.tracking(PORTAL).etag == served_script.tracking(PORTAL).etag
    assert served_script.tracking(PORTAL).etag != served_script.tracking(Portal(PortalId(8), ("site.example",))).etag
