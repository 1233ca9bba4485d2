"""What the endpoint tells of itself: a document that is OpenAPI, and that says what the model does."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import schemathesis
from jsonschema import Draft202012Validator

from mlops_pkg.bundle.example import example_record, example_value
from mlops_pkg.bundle.predictor import Predictor
from mlops_pkg.bundle.records import read_records
from mlops_pkg.bundle.signature import Field, Signature
from mlops_pkg.serving.messages import ModelInfo
from mlops_pkg.serving.schema import field_schema, openapi
from mlops_pkg.serving.settings import Settings, new_key
from tests.conftest import ROOT
from tests.toy import RECORD, TOY

PACKAGE = ROOT / "artifacts" / "package"
INFO = ModelInfo("toy", "0" * 12, "0" * 64)
MOMENTS: tuple[Any, ...] = (
    "2013-01-01", "2013-01-01T21:00", "2013-01-01 21:00:59.123456789", "2013-13-01", "0000-01-01", "2013-01-01T24:00",
    "2013-01-01T21:00Z", "2013-01-01 21:00 +05:30", "2013-01-01T21:00-0530", "2013-01-01T21:00+24:00", "2013-01-01Z",
    "2013-01-01T21", "", None, 0, "yesterday",
)  # fmt: skip
REFERENCE = {
    "columns": {
        "origin": {"missing": 0.0, "shares": {"EWR": 0.4, "JFK": 0.6}},
        "wind": {"missing": 0.01, "quantiles": {"0.5": 9.206239999}},
        "start": {"missing": 0.0, "first": "2013-01-01T05:15:00"},
    }
}


def document(signature: Signature = TOY, reference: Any = REFERENCE, **settings: Any) -> dict[str, Any]:
    """The document of the toy model, after a trip through JSON."""
    made = openapi(INFO, "Late in the day", signature, reference, Settings(**settings))
    found: dict[str, Any] = json.loads(json.dumps(made, allow_nan=False))
    return found


def validator(name: str, **settings: Any) -> Draft202012Validator:
    """What checks a value by a schema of the document."""
    schemas = {"components": document(**settings)["components"]}
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", **schemas})


def test_the_document_is_openapi_and_every_schema_in_it_is_one() -> None:
    told = document()
    schemathesis.openapi.from_dict(told).validate()

    assert told["openapi"].startswith("3.1")
    assert told["info"] == {"title": "toy", "version": "0" * 12, "description": "Late in the day"}
    for schema in told["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_the_check_of_the_document_sees_a_fault() -> None:
    broken = document()
    broken["paths"]["/predict"]["post"]["responses"] = ["200"]

    with pytest.raises(Exception, match="200"):
        schemathesis.openapi.from_dict(broken).validate()


def test_all_that_can_be_asked_is_told_with_what_comes_back() -> None:
    paths = document()["paths"]
    told = {path: sorted(next(iter(methods.values()))["responses"]) for path, methods in paths.items()}

    assert told == {
        "/predict": ["200", "400", "408", "413", "415", "422", "503"],
        "/model": ["200"],
        "/health": ["200"],
        "/ready": ["200", "503"],
        "/metrics": ["200"],
        "/invocations": ["200", "400", "408", "413", "415", "503"],
        "/ping": ["200"],
        "/v2": ["200"],
        "/v2/health/live": ["200"],
        "/v2/health/ready": ["200"],
        "/v2/models/{name}": ["200", "404"],
        "/v2/models/{name}/ready": ["200", "404"],
        "/v2/models/{name}/infer": ["200", "400", "404", "408", "413", "503"],
        "/v2/models/{name}/versions/{version}": ["200", "404"],
        "/v2/models/{name}/versions/{version}/ready": ["200", "404"],
        "/v2/models/{name}/versions/{version}/infer": ["200", "400", "404", "408", "413", "503"],
    }
    content = paths["/predict"]["post"]["requestBody"]["content"]
    names = {"json", "vnd.apache.arrow.stream", "vnd.apache.parquet"}
    assert set(content) == {"text/csv", *(f"application/{name}" for name in names)}
    assert set(paths["/predict"]["post"]["responses"]["200"]["content"]) == set(content)


def test_keys_are_told_where_there_are_any() -> None:
    _, key = new_key("planning")
    told = document(keys=(key,))

    assert "security" not in document()
    assert told["security"] == [{"bearer": []}, {"basic": []}]
    assert {scheme["scheme"] for scheme in told["components"]["securitySchemes"].values()} == {"bearer", "basic"}
    assert "401" in told["paths"]["/predict"]["post"]["responses"]
    assert told["paths"]["/health"]["get"]["security"] == told["paths"]["/ready"]["get"]["security"] == []
    assert key.sha256 not in json.dumps(told)


def test_units_ranges_and_examples_come_from_the_signature() -> None:
    wind = document()["components"]["schemas"]["Record"]["properties"]["wind"]

    assert (wind["type"], wind["x-unit"], wind["minimum"], wind["maximum"]) == (
        ["number", "null"],
        "miles per hour",
        -10,
        250,
    )
    assert "miles per hour" in wind["description"]
    assert wind["examples"] == [9.206]
    assert field_schema(TOY.fields[0], "JFK")["examples"] == ["JFK", "EWR"]
    assert "enum" not in field_schema(TOY.fields[0])


def test_the_schema_takes_what_the_model_answers() -> None:
    values: dict[str, tuple[Any, ...]] = {
        "origin": ("EWR", "Mars", "", None, 3, ["EWR"], True),
        "wind": (2, -10, -10.5, 250, 251, None, "2", False, 1e300, {}),
        "start": MOMENTS,
        "end": (1, None),
    }
    changed = [{**RECORD, name: value} for name, some in values.items() for value in some]
    left_out = [{name: value for name, value in RECORD.items() if name != one} for one in RECORD]
    check = validator("Record")

    for record in [RECORD, *changed, *left_out, {}]:
        assert check.is_valid(record) == (not read_records([record], TOY).rejects), record


def test_the_schema_of_a_request_has_the_limits_of_the_server() -> None:
    check = validator("Request", max_records=2)

    assert check.is_valid({"records": [RECORD] * 2})
    for wrong in ({"records": [RECORD] * 3}, {"records": []}, {"records": [RECORD], "more": 1}, {}, [RECORD]):
        assert not check.is_valid(wrong)


def test_an_answer_fits_its_schema() -> None:
    check = validator("Answer")
    none = {"prediction": None, "probability": None, "probabilities": None}

    assert check.is_valid({"prediction": 1, "probability": 0.7, "probabilities": {"0": 0.3, "1": 0.7}})
    assert check.is_valid({**none, "errors": [{"field": "wind", "value": "-11", "reason": "low"}]})
    assert not check.is_valid({"prediction": 0.7})
    assert not check.is_valid({"prediction": 1, "probability": 1.7, "probabilities": {"0": 0.3, "1": 0.7}})
    regression = document(replace(TOY, task="regression", threshold=None))["components"]["schemas"]["Answer"]
    assert list(regression["properties"]) == ["prediction", "explanation", "errors"]


def test_the_example_is_a_likely_record_that_is_answered() -> None:
    assert example_record(TOY, REFERENCE) == {"origin": "JFK", "wind": 9.206, "start": "2013-01-01T05:15:00"}
    for reference in (None, [], {}, {"columns": 3}, {"columns": {"wind": {"quantiles": 1}}}, REFERENCE):
        assert not read_records([example_record(TOY, reference)], TOY).rejects, reference


@pytest.mark.parametrize(
    ("field", "seen", "example"),
    [
        (Field("a", "number", False, minimum=5), {"quantiles": {"0.5": 1.0}}, 5),
        (Field("a", "number", False, maximum=5), {}, 1.0),
        (Field("a", "number", False, maximum=-5), {}, -5),
        (Field("a", "number", True), {"missing": 0.7, "quantiles": {"0.5": 1.0}}, None),
        (Field("a", "number", False), {"missing": 0.7, "quantiles": {"0.5": 1.0}}, 1.0),
        (Field("a", "category", False), {}, "text"),
        (Field("a", "category", False, categories=()), {"shares": {}}, "text"),
        (Field("a", "number", False), {"quantiles": {"0.5": math.pi}}, 3.142),
    ],
)
def test_an_example_lies_within_its_field(field: Field, seen: dict[str, Any], example: Any) -> None:
    assert example_value(field, {"columns": {"a": seen}}) == example


def test_the_real_bundle_answers_its_own_example() -> None:
    if not PACKAGE.is_dir():
        pytest.skip("artifacts/package: missing; `make run` writes it")
    predictor = Predictor.load(PACKAGE)
    reference = json.loads((PACKAGE / "reference.json").read_text())
    example = example_record(predictor.signature, reference)
    told = document(predictor.signature, reference)

    assert predictor.predict([example]).rejects == ()
    assert told["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    schema = {"$ref": "#/components/schemas/Request", "components": told["components"]}
    assert Draft202012Validator(schema).is_valid({"records": [example]})
