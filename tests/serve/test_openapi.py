"""What the server answers is what its OpenAPI document says: schemathesis reads the document and
asks every route what it may be asked, and what it may not."""

import os
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    allow_header_conformance,
    content_type_conformance,
    ignored_auth,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from tests.serve.asking import bearer
from tests.serve.server import ServerUnderTest
from tests.serve.test_first_start import KEY

EXAMPLES = max(int(os.environ.get("FUZZ_EXAMPLES", "0")) // 20, 8)
"""For each operation and each mode."""

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    allow_header_conformance,
    unsupported_method,
    ignored_auth,
    negative_data_rejection,
]


@pytest.fixture(scope="module")
def document(echo: ServerUnderTest) -> Any:
    return schemathesis.openapi.from_url(f"{echo.url}/openapi.json", wait_for_schema=10)


@pytest.fixture(scope="module")
def staff_key(echo: ServerUnderTest) -> str:
    """Who may ask every route."""
    (key,) = KEY.findall(echo.out)
    return key


@pytest.mark.parametrize("mode", GenerationMode)
def test_every_operation_keeps_to_the_document(document, echo, staff_key, mode) -> None:
    failures = []
    for found in document.get_all_operations():
        operation = found.ok()
        try:
            try_out(operation, mode, bearer(staff_key))
        except Unsatisfiable:
            assert mode is GenerationMode.NEGATIVE, "it takes nothing that could be wrong"
        except (Exception, BaseExceptionGroup) as failure:
            failures.append(f"{operation.label}: {failure}")
    assert not failures, "\n\n".join(failures)
    assert "Traceback" not in echo.err


def try_out(operation: Any, mode: GenerationMode, headers: dict[str, str]) -> None:
    with requests.Session() as session:

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize="FUZZ_EXAMPLES" not in os.environ,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=[*HealthCheck],
        )
        def keeps_to_the_document(case: Any) -> None:
            case.call_and_validate(session=session, headers=headers, checks=CHECKS, timeout=60)

        keeps_to_the_document()
