"""`run --edge`: all of it on one machine, from a browser's request to the contact's timeline in ClickHouse."""

import time
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.settings import Settings
from pipeline.timelines import timeline
from tests.builders import utk
from tests.edge.requesting import PAGE, view
from tests.edge.running import SITE, Running
from tests.waiting import until

COOKIE = utk("visitor")


@pytest.mark.timeout(300)
def test_a_visitor_becomes_a_contact(settings: Settings, tmp_path: Path) -> None:
    """Two anonymous pages and a form: the pages are the contact's, in one session, each once; one signal ends everything."""
    edge = Running(settings, tmp_path, command=("run", "--edge"))
    try:
        edge.start()
        for name in ("a", "b"):
            hit = view(utk=COOKIE, url=f"http://www.site.localhost/{name}")
            assert [edge.post(hit).json()["accepted"] for _ in range(2)] == [1, 1], "sent again, as a browser does that heard no answer"
            time.sleep(0.01)
        form = {"fields": [{"name": "email", "value": "ann@x.io"}], "context": {"hutk": COOKIE, "pageUri": PAGE}}
        assert edge.form(form).status_code == 202
        until(lambda: len(entries(settings)) == 3, lambda: f"the timeline has all of it:\n{edge.log}", 150)
        found = entries(settings)
        assert [(entry.type, entry.url or entry.form_id) for entry in found] == [
            ("page_view", "http://www.site.localhost/a"),
            ("page_view", "http://www.site.localhost/b"),
            ("form_submission", "contact"),
        ]
        assert {(entry.email, entry.utk) for entry in found} == {("ann@x.io", COOKIE)}
        until(lambda: {entry.session_number for entry in entries(settings)} == {1}, "all of it is one session", 60)
        assert edge.stop() == 0
    finally:
        edge.stop(SIGKILL)


def entries(settings: Settings) -> list[Any]:
    """The contact's timeline; nothing while there is no such contact."""
    try:
        return list(timeline(settings, SITE, email="ann@x.io").entries)
    except UserError:
        return []
