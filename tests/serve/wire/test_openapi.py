"""Whatever may be sent by the OpenAPI document, nothing of it is the server's fault."""

from hypothesis import HealthCheck, Phase, given, settings

from redraft.api import Engine
from redraft.serve.state import ServerSettings
from tests.serve.conftest import NAME, serving

_EXAMPLES = 8


def test_nothing_that_the_document_allows_is_a_fault_of_the_server(engine: Engine) -> None:
    # Here, since it takes a second to import, in each process that tests are shared out among.
    import schemathesis
    from schemathesis.checks import not_a_server_error
    from schemathesis.core.result import Ok

    with serving(engine, ServerSettings(NAME, max_tokens=20)) as up:
        schema = schemathesis.openapi.from_url(f"{up.url}/openapi.json")
        results = list(schema.get_all_operations())
        operations = [result.ok() for result in results if isinstance(result, Ok)]
        assert len(operations) == len(results)
        assert len(operations) > 10
        for operation in operations:

            @settings(
                max_examples=_EXAMPLES,
                deadline=None,
                database=None,
                derandomize=True,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy())
            def run(case: schemathesis.Case) -> None:
                if isinstance(case.body, dict) and "model" in case.body:
                    case.body["model"] = NAME
                case.call_and_validate(checks=[not_a_server_error], timeout=600)

            run()
