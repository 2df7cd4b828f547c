"""The collector keeps to the document that it serves of itself, whatever is sent by it: schemathesis makes the requests."""

from collections.abc import Mapping
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from pipeline.edge import openapi
from tests.edge.running import PERSON, SITE, Running
from tests.edge.test_hostile import MEMORY, resident

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


document = schemathesis.openapi.from_dict(openapi.DOCUMENT)


def test_the_document_is_served(shared: Running) -> None:
    assert shared.get("/openapi.json").json() == openapi.DOCUMENT


@pytest.mark.timeout(600)
@document.parametrize()
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_in_the_document(case: Any, shared: Running) -> None:
    """Requests as the document allows, and as it does not: strangers' first, then from a page of the portal, which gets further."""
    _answered(case, shared.at, {})
    if "portal" in case.path_parameters:
        case.path_parameters["portal"] = SITE
    _answered(case, shared.at, PERSON)
    assert resident(shared) < MEMORY
    assert "a bug" not in shared.log


def _answered(case: Any, at: str, headers: Mapping[str, str]) -> None:
    answer = case.call(base_url=at, headers=headers, allow_redirects=False, timeout=30)
    case.validate_response(answer, checks=CHECKS)
