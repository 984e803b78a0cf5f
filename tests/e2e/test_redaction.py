"""What must not be kept is nowhere on the disk and in no line of the log."""

from __future__ import annotations

import json

import pytest

KEY = "a key for tests only"
SECRETS = {
    "feature": 123456.625,
    "entity": "zqPATIENTzq",
    "label": "zqBRANDzq",
    "attribute": "zqNAMEzq",
    "deep": "zqDEEPzq",
    "header": "zqHEADERzq",
    "mail": "zqsomeone@example.com",
    "unread": "zqUNREADzq",
}
RULES = [
    {"path": "inputs.a", "action": "drop"},
    {"path": "inputs.b", "action": "round", "digits": -3},
    {"path": "entities.*", "action": "hash"},
    {"path": "labels.brand", "action": "mask"},
    {"path": "attributes.name", "action": "mask"},
    {"path": "attributes.**.secret", "action": "drop"},
    {"path": "attributes.undeclared_labels", "action": "drop"},
    {"path": "inputs.name", "action": "hash"},
    {"path": "outputs.prediction.greeting", "action": "mask"},
    {"path": "request_id", "action": "hash"},
]
SETTINGS = {
    "E2I_SERVING_REDACTION_RULES": json.dumps(RULES),
    "E2I_SERVING_REDACTION_PATTERNS": json.dumps(["email", "zqUNREADzq"]),
    "E2I_SERVING_REDACTION_KEY": KEY,
}


@pytest.fixture(scope="module")
def redacting(serve):
    """The probe, with rules for all that the tests send it."""
    with serve("probe:Probe", **SETTINGS) as server:
        yield server


def test_secrets_reach_no_file_and_no_line(redacting, eventually):
    """Sent in inputs, entities, labels, attributes, a header, and raised in a message: none is kept anywhere."""
    headers = {"X-Request-ID": SECRETS["header"]}
    answers = [
        redacting.predict(
            headers,
            instances=[[SECRETS["feature"], SECRETS["feature"], 1.0, 2.0]],
            entities=[{"patient": SECRETS["entity"]}],
            labels={"brand": SECRETS["label"]},
            attributes={
                "name": SECRETS["attribute"],
                "list": [{"secret": SECRETS["deep"]}],
                "note": f"write to {SECRETS['mail']}",
            },
        ),
        redacting.predict(
            headers, instances=[[1.0, 2.0, 3.0, 4.0]], attributes={"do": "raise", "what": SECRETS["mail"]}
        ),
        redacting.post("/greet", json={"name": SECRETS["attribute"]}, headers=headers),
        redacting.post("/predict", content=json.dumps({"instances": SECRETS["unread"]}), headers=headers),
    ]
    assert [answer.status_code for answer in answers] == [200, 500, 200, 400]
    assert answers[0].headers["x-request-id"] == SECRETS["header"]  # the caller's own id goes back to it as it came

    ids = [answer.headers["x-prediction-id"] for answer in answers]
    with redacting.trail() as trail:
        rows = [eventually(lambda one=one: trail.get(one), what=f"the row of {one}") for one in ids]
        assert trail.query(entity=f"patient={SECRETS['entity']}").rows() == []  # asked without the key
    first, failed, greeted, invalid = rows
    assert first["item_rows"][0]["inputs"] == {"a": None, "b": 123000.0, "c": 1.0, "d": 2.0}
    assert first["attributes"] == {"name": "***", "list": [{}], "note": "write to ***"}
    assert first["labels"] == {"brand": "***"}
    assert {"inputs.a", "inputs.b", "entities.*", "request_id", "attributes.pattern:email"} <= set(first["redactions"])
    assert failed["error_message"] == "no model for ***"
    assert greeted["item_rows"][0]["inputs"]["name"].startswith("hmac:")
    assert invalid["outcome"] == "invalid"

    contents = {path: path.read_bytes() for path in redacting.data_dir.rglob("*") if path.is_file()}
    assert {"audit.db", "ledger.db"} <= {path.name for path in contents}
    lines = [line for line in redacting.log.read_bytes().splitlines() if line.startswith(b'{"time"')]
    assert len(lines) >= len(answers)
    contents[redacting.log] = b"\n".join(lines)
    assert KEY.encode() not in contents.pop(redacting.data_dir / "settings.json")  # quotes one secret as a pattern
    for name, secret in SECRETS.items():
        for path, content in contents.items():
            assert str(secret).encode() not in content, f"The {name} is in {path.name}."
    assert not [path for path, content in contents.items() if KEY.encode() in content]


def test_an_entity_is_found_by_its_hash(redacting, eventually, monkeypatch):
    """Who has the key can ask for a patient; the trail has no name."""
    redacting.predict(instances=[[1.0, 2.0, 3.0, 4.0]], entities=[{"patient": "zqFINDMEzq"}])
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    with redacting.trail() as trail:
        found = eventually(lambda: trail.query(entity="patient=zqFINDMEzq").rows(), what="the patient's row")
    assert len(found) == 1
