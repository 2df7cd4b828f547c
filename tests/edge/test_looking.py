"""What an operator sees: metrics without visitors in them, a portal's events as they arrive, and new portals in every process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from signal import SIGHUP

import requests

from infra import ports
from pipeline.settings import Settings
from tests.builders import utk
from tests.edge.requesting import view
from tests.edge.running import Running, running
from tests.waiting import until


def test_metrics(settings: Settings, tmp_path: Path) -> None:
    """Counts by type, reason, route and status; the page is on a port of its own and tells nothing of anybody."""
    port = ports.choose([])
    edge = Running(settings, tmp_path)
    edge.start(PIPELINE_EDGE__METRICS_PORT=str(port))
    try:
        edge.post([view(utk=utk("canary")), view(url="https://canary.example/")])
        told = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=30).text
        assert 'edge_events_total{type="page_view"} 1.0' in told
        assert 'edge_refused_total{reason="foreign_url"} 1.0' in told
        assert 'edge_requests_total{route="/e",status="202"} 1.0' in told
        assert "edge_spool_bytes 0.0" in told
        assert "edge_kafka_away 0.0" in told
        assert "canary" not in told
        assert utk("canary") not in told
        assert edge.get("/metrics").status_code == 404
    finally:
        edge.stop()


def test_debug_shows_events_as_they_arrive(edge: Running, settings: Settings, tmp_path: Path) -> None:
    """Those of the portal, and of no other."""
    shown = tmp_path / "shown"
    with shown.open("wb") as output:
        command = [sys.executable, "-m", "pipeline", "debug", "--portal", "7", "--json"]
        process = subprocess.Popen(command, env={**os.environ, **settings.environment()}, stdout=output)
    try:

        def seen() -> bool:
            edge.post(view(utk=utk("other")), 8)
            edge.post(view(utk=utk("mine")), 7)
            return shown.read_text().count("\n") >= 2

        until(seen, "events are shown", 90)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    events = [json.loads(line) for line in shown.read_text().splitlines()]
    assert {(event["type"], event["portal_id"], event["utk"]) for event in events} == {("page_view", 7, utk("mine"))}


def test_every_process_reads_the_portals_again(settings: Settings, tmp_path: Path) -> None:
    """SIGHUP to the command goes on to its processes, and stops none."""
    with running(settings, tmp_path, command=("edge", "--processes", "2")) as edge:
        until(lambda: edge.log.count("listening") == 2, lambda: f"both listen:\n{edge.log}", 150)
        edge.send(SIGHUP)
        until(lambda: edge.log.count("portals read again") == 2, "both have read the portals again")
        assert edge.post(view()).status_code == 202
        assert edge.stop() == 0
