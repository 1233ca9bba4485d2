"""NVIDIA's client of the Open Inference Protocol, as its makers distribute it, against the endpoint."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlops_pkg.bundle.predictor import Predictor
from mlops_pkg.core.workspace import read_table
from tests.serving.conftest import start

pytestmark = pytest.mark.slow
LOCK = Path(__file__).with_name("tritonclient.txt")
ASK = """
import json, sys
import numpy as np
import tritonclient.http as http

url, name, content = sys.argv[1], sys.argv[2], json.load(open(sys.argv[3]))
client = http.InferenceServerClient(url)
said = {"live": client.is_server_live(), "ready": client.is_server_ready(), "model": client.is_model_ready(name)}
said["inputs"] = [one["name"] for one in client.get_model_metadata(name)["inputs"]]
said["server"] = client.get_server_metadata()["name"]
types = {"FP64": np.float64, "BYTES": np.object_}
arrays = {field: np.array(values, types[kind]) for field, (kind, values) in content.items()}
for binary in (True, False):  # as JSON, this client writes a missing number as NaN
    inputs = []
    for field, (kind, _) in content.items():
        array = arrays[field]
        one = http.InferInput(field, list(array.shape), kind)
        one.set_data_from_numpy(array, binary_data=binary)
        inputs.append(one)
    outputs = [http.InferRequestedOutput("probability", binary_data=binary)]
    said[str(binary)] = client.infer(name, inputs, outputs=outputs).as_numpy("probability").tolist()
try:
    client.infer("another", inputs)
except http.InferenceServerException as error:
    said["refused"] = str(error)
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment variables with which Python finds tritonclient."""
    folder = tmp_path_factory.mktemp("tritonclient")
    command = ["uv", "pip", "install", "--quiet", "--require-hashes", "--target", str(folder), "-r", str(LOCK)]
    subprocess.run(command, check=True)
    return {**os.environ, "PYTHONPATH": str(folder)}


def test_every_test_row_has_the_bundles_answer(built: Path, client: dict[str, str], tmp_path: Path) -> None:
    bundle = built / "artifacts" / "package"
    predictor = Predictor.load(bundle)
    rows = read_table(built / "artifacts" / "ingest" / "test.parquet")
    expected = predictor.predict(rows[[field.name for field in predictor.signature.fields]]).answer
    rows, expected = rows[~np.isnan(expected)].head(900), expected[~np.isnan(expected)][:900]
    content: dict[str, Any] = {}
    for field in predictor.signature.fields:
        if field.kind == "number":
            content[field.name] = ("FP64", rows[field.name].tolist())
        else:
            texts = rows[field.name].map(lambda value: value.isoformat() if hasattr(value, "isoformat") else value)
            content[field.name] = ("BYTES", texts.where(rows[field.name].notna(), "").tolist())
    (tmp_path / "rows.json").write_text(json.dumps(content))

    with start(bundle) as server:
        command = [sys.executable, "-c", ASK, server.url.removeprefix("http://"), predictor.name, "rows.json"]
        done = subprocess.run(command, cwd=tmp_path, env=client, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["live"] is said["ready"] is said["model"] is True
    assert said["inputs"] == [field.name for field in predictor.signature.fields]
    assert said["server"] == "mlops_pkg"
    assert said["True"] == expected.tolist()
    assert said["False"] == expected.tolist()
    assert "no such model or version" in said["refused"]
