"""The same route without a model: what FastAPI and uvicorn cost by themselves; and uvicorn alone, `bare`.

    SIGNATURE=artifacts/package/signature.json uvicorn benchmarks.serving.empty:app

The request is checked by a model of pydantic with the fields of the signature; the reply has the form of this project's
and is always the same.
"""

import json
import os
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, create_model

TYPES = {"category": str, "number": float, "datetime": str}
SIGNATURE = json.loads(Path(os.environ["SIGNATURE"]).read_text())
FIELDS: dict[str, Any] = {
    field["name"]: (TYPES[field["kind"]] | None, None) if field["nullable"] else (TYPES[field["kind"]], ...)
    for field in SIGNATURE["fields"]
}
Record = create_model("Record", **FIELDS)
ANSWER = {"prediction": 0, "probability": 0.123456789, "probabilities": {"0": 0.876543211, "1": 0.123456789}}
MODEL = {"name": SIGNATURE["name"], "version": "0" * 12, "digest": "0" * 64}


class Body(BaseModel):
    """What a request holds."""

    records: list[Record]  # type: ignore[valid-type]


app = FastAPI()


@app.post("/predict")
async def predict(body: Body) -> dict[str, Any]:
    """One answer a record."""
    return {"predictions": [ANSWER] * len(body.records), "model": MODEL}


@app.get("/ready")
async def ready() -> dict[str, str]:
    """Alive."""
    return {"status": "ready"}


REPLY = json.dumps({"predictions": [ANSWER], "model": MODEL}).encode()
HEAD = [(b"content-type", b"application/json"), (b"content-length", str(len(REPLY)).encode())]


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """Answer any request with the same reply: the least that uvicorn costs."""
    if scope["type"] == "lifespan":
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEAD})
    await send({"type": "http.response.body", "body": REPLY})
