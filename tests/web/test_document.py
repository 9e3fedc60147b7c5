"""The interface holds what its OpenAPI document says, also for requests that no client would make."""

import pytest

schemathesis = pytest.importorskip("schemathesis")
hypothesis = pytest.importorskip("hypothesis")


@pytest.fixture(scope="session")
def document(server):
    return schemathesis.openapi.from_url(f"{server.address}/openapi.json")


schema = schemathesis.pytest.from_fixture("document")
NOT_PROMISED = [
    # A document cannot say which bytes are a picture: random ones are refused with 422.
    schemathesis.checks.CHECKS.get_one("positive_data_acceptance"),
]


@schema.parametrize()
@hypothesis.settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
def test_every_answer_is_one_that_the_document_names(case):
    case.call_and_validate(excluded_checks=NOT_PROMISED)
