"""Every response is one that the OpenAPI document describes, also for malformed requests."""

import pytest

schemathesis = pytest.importorskip("schemathesis")
positive_data_acceptance = pytest.importorskip("schemathesis.specs.openapi.checks").positive_data_acceptance
hypothesis = pytest.importorskip("hypothesis")

OPERATIONS = [("/v1/captions", "POST"), ("/v1/model", "GET"), ("/healthz", "GET")]
POSITIVE, NEGATIVE = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE


def test_the_document_describes_the_operations_that_are_tested_here(server):
    paths = server.app.openapi()["paths"]
    assert {(path, method.upper()) for path, methods in paths.items() for method in methods} == set(OPERATIONS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "method", "mode"),
    [*((path, method, POSITIVE) for path, method in OPERATIONS), ("/v1/captions", "POST", NEGATIVE)],
)
def test_every_response_is_one_that_the_document_describes(server, path, method, mode):
    operation = schemathesis.openapi.from_url(f"{server.address}/openapi.json")[path][method]

    @hypothesis.settings(max_examples=60, suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def check(case):
        # The document cannot describe which bytes are an image: random ones get 422.
        case.call_and_validate(excluded_checks=[positive_data_acceptance])

    check()
