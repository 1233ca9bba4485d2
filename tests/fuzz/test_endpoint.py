"""Whatever is sent to the endpoint: no 5xx, no wrong answer, and the next request finds it as it was."""

import gzip
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from mlops_pkg.bundle.predictor import Answers, Predictor
from mlops_pkg.bundle.records import RecordsError
from mlops_pkg.bundle.signature import Field
from tests.serving.conftest import Server, start, until
from tests.serving.wire import Reply, Wire, asking, request, rss
from tests.toy import RECORD, write_bundle

JSON, ARROW = "application/json", "application/vnd.apache.arrow.stream"
MOST = 1000  # records that a request may hold
PER_TURN = 50  # requests of a kind before the next is taken
TEXTS = st.one_of(
    st.text(st.characters(), max_size=8),  # all of Unicode, lone surrogates too
    st.sampled_from(["", "\x00", "\ud800", "é", "\U0001f600", "NaN", "null", "2013-02-30", "x" * 300, "\n\r", "../.."]),
)
RAW = st.one_of(  # what may stand where JSON has a value
    st.sampled_from(["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e-999", "-0", "01", "1.", "+1", ".5"]),
    st.sampled_from(["true", "false", "null", "None", "undefined", "'x'", "", "9" * 400, "9" * 4400]),
    st.sampled_from(["18446744073709551616", "-9223372036854775809", "123456789012345678901234", "[]", "{}", "0x10"]),
    st.floats().map(json.dumps),
    st.integers().map(json.dumps),
    TEXTS.map(json.dumps),
    TEXTS.map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.recursive(st.none() | st.booleans() | TEXTS, lambda of: st.lists(of) | st.dictionaries(TEXTS, of), max_leaves=4)
    .map(json.dumps),
)  # fmt: skip
EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.sampled_from(["flip", "cut", "drop", "insert", "copy"]), st.integers(0, 255)),
    min_size=1,
    max_size=4,
)


class Asked(NamedTuple):
    """One request, and what is known of it."""

    kind: str
    content: bytes  # as it is sent
    method: str = "POST"
    media: str = ""  # JSON or ARROW where the body is one, sent to /predict in good order
    body: bytes = b""
    hangs_up: bool = False  # the client goes before a reply can come
    alone: bool = False  # what the connection holds afterwards is not known
    strict: bool = True  # what the predictor answers must be answered


def value_of(field: Field, chance: random.Random) -> Any:
    """A value that the field takes."""
    if field.kind == "category":
        return chance.choice([*(field.categories or ("a", "b")), "", "ZZ"])
    if field.kind == "datetime":
        time = datetime(2012, 1, 1) + timedelta(seconds=chance.randrange(10**8))
        return time.isoformat(*chance.choice([("T",), (" ",), ("T", "minutes"), ("T", "microseconds")]))
    low = -1e6 if field.minimum is None else field.minimum
    high = 1e6 if field.maximum is None else field.maximum
    return chance.choice([low, high, chance.uniform(low, high), chance.randint(math.ceil(low), math.floor(high))])


def edited(body: bytes, edits: list[tuple[float, str, int]]) -> bytes:
    """A body after some edits."""
    for where, what, byte in edits:
        at = int(where * max(len(body) - 1, 0))
        if what == "flip" and body:
            body = body[:at] + bytes([body[at] ^ (1 << byte % 8)]) + body[at + 1 :]
        elif what == "cut":
            body = body[:at]
        elif what == "drop":
            body = body[:at] + body[at + 1 + byte % 16 :]
        elif what == "insert":
            body = body[:at] + bytes([byte]) * (1 + byte % 5) + body[at:]
        else:
            body = body[:at] + body[at // 2 : at] + body[at:]
    return body


def post(body: bytes, media: str | None = JSON, **headers: str) -> bytes:
    """A body, in good order."""
    told = {} if media is None else {"content-type": media}
    return request("POST", "/predict", told | {name.replace("_", "-"): one for name, one in headers.items()}, body)


def as_chunks(body: bytes, sizes: list[int], end: bytes = b"0\r\n\r\n") -> bytes:
    """A body in chunks."""
    lines = ["POST /predict HTTP/1.1", "host: localhost", f"content-type: {JSON}", "transfer-encoding: chunked", "", ""]
    head = "\r\n".join(lines).encode()
    parts, at = [], 0
    for size in sizes:
        part = body[at : at + size]
        parts.append(b"%x\r\n%s\r\n" % (len(part), part) if part else b"")
        at += size
    rest = body[at:]
    return head + b"".join(parts) + (b"%X;a=b\r\n%s\r\n" % (len(rest), rest) if rest else b"") + end


class Requests:
    """The generator: strategies for each kind of request, made from what a bundle takes."""

    def __init__(self, predictor: Predictor, openapi: dict[str, Any] | None = None) -> None:
        self.fields = predictor.signature.fields
        self.names = [field.name for field in self.fields]
        chance = random.Random(0)  # ten thousand good records are enough, and quicker drawn than made
        pool = [{field.name: value_of(field, chance) for field in self.fields} for _ in range(10_000)]
        self.record = st.sampled_from(pool)
        self.good = st.lists(self.record, min_size=1, max_size=5).map(
            lambda records: json.dumps({"records": records}).encode()
        )
        self.kinds: dict[str, st.SearchStrategy[Asked]] = {
            "good": self._plain("good", self.good),
            "values": self._plain("values", self._objects()),
            "twice": self._plain("twice", self._objects(twice=True)),
            "shape": self._plain("shape", self._shapes()),
            "edited": self._plain("edited", st.builds(edited, self.good, EDITS)),
            "noise": self._plain("noise", st.binary(max_size=60)),
            "deep": self._plain("deep", self._deep()),
            "media": self._media(),
            "encoded": self._encoded(),
            "cut": self._cut(),
            "chunks": self._chunks(),
            "chunks broken": self._chunks_broken(),
            "length": self._lengths(),
            "arrow": self._arrow(),
            "arrow types": self._arrow_types(),
            "arrow broken": self._arrow_broken(),
            "routes": self._routes(),
            "headers": self._headers(),
            "lines": self._lines(),
            "large": self._large(),
        }
        if openapi is not None:
            self.kinds["schema"] = self._from_openapi(openapi)

    def _plain(self, kind: str, bodies: st.SearchStrategy[bytes]) -> st.SearchStrategy[Asked]:
        return bodies.map(lambda body: Asked(kind, post(body), media=JSON, body=body))

    def _objects(self, twice: bool = False) -> st.SearchStrategy[bytes]:
        """Records with wrong values, and with fields that are missing, unknown or there twice."""
        key = st.sampled_from(self.names) | TEXTS | st.sampled_from([self.names[0] + "s", self.names[-1].upper()])
        change = st.tuples(st.sampled_from(["set", "set", "drop", "add"]), key, RAW)

        def write(record: dict[str, Any], changes: list[tuple[str, str, str]]) -> str:
            pairs = [(name, json.dumps(value)) for name, value in record.items()]
            for what, name, raw in changes:
                if what != "add" or not twice:
                    pairs = [pair for pair in pairs if pair[0] != name]
                if what != "drop":
                    pairs.append((name, raw))
            return "{" + ", ".join(f"{json.dumps(name)}: {raw}" for name, raw in pairs) + "}"

        one = st.builds(write, self.record, st.lists(change, max_size=3))
        texts = st.lists(one, min_size=1, max_size=4).map(lambda all_: '{"records": [' + ", ".join(all_) + "]}")
        return texts.map(lambda text: text.encode("utf-8", "surrogatepass"))

    def _shapes(self) -> st.SearchStrategy[bytes]:
        """JSON that is no list of records."""
        fixed = st.sampled_from(
            [
                "",
                " ",
                "[]",
                "{}",
                "null",
                "0",
                '"records"',
                '{"records": []}',
                '{"records": {}}',
                '{"records": null}',
                '{"records": [[]]}',
                '{"records": [null, 1, "x", true]}',
                '{"Records": [{}]}',
                '\ufeff{"records": [{}]}',
                '{"records": [{}], "records": [{}]}',
                '{"records": [{}], "more": 1}',
                '{"records": [{}]} {}',
            ]
        )
        many = st.sampled_from([1, 2, MOST, MOST + 1, 3 * MOST]).map(
            lambda n: f'{{"records": [{", ".join(["{}"] * n)}]}}'
        )
        return st.one_of(fixed, many, RAW, RAW.map(lambda raw: f'{{"records": [{raw}]}}')).map(
            lambda text: text.encode("utf-8", "surrogatepass")
        )

    def _deep(self) -> st.SearchStrategy[bytes]:
        depth = st.integers(1, 300) | st.sampled_from([3000, 50_000])
        forms = st.sampled_from([("[", "]"), ('{"a":', "}"), ("[", ""), ('{"records":[', "]}"), ("[[],", "]")])
        inside = st.sampled_from(["%s", '{"records": [%s]}', '{"records": [{"' + self.names[0] + '": %s}]}'])

        def write(depth: int, form: tuple[str, str], inside: str) -> bytes:
            return (inside % (form[0] * depth + "0" + form[1] * depth)).encode()

        return st.builds(write, depth, forms, inside)

    def _media(self) -> st.SearchStrategy[Asked]:
        taken = st.sampled_from([JSON, "Application/JSON", f"{JSON}; charset=utf-8", f"{JSON} ;x=y", f" {JSON}"])
        other = st.sampled_from(
            [
                None,
                "",
                "text/plain",
                "application/x-www-form-urlencoded",
                "multipart/form-data; boundary=x",
                "*/*",
                "text/json",
                f"{JSON}x",
                "application/vnd.api+json",
                "x" * 3000,
                "é",
                ";",
                f"text/plain, {JSON}",
            ]
        )
        good = st.builds(lambda body, media: Asked("media", post(body, media), media=JSON, body=body), self.good, taken)
        bad = st.builds(lambda body, media: Asked("media", post(body, media)), self.good, other)
        mixed = self.good.map(lambda body: Asked("media", post(body, ARROW), media=ARROW, body=body))
        return st.one_of(good, bad, mixed)

    def _encoded(self) -> st.SearchStrategy[Asked]:
        names = st.sampled_from(["gzip", "deflate", "br", "x-gzip", "gzip, gzip", "zstd"])
        squeezed = st.builds(
            lambda body, name: Asked("encoded", post(gzip.compress(body, 1), content_encoding=name)), self.good, names
        )
        plain = st.builds(lambda body, name: Asked("encoded", post(body, content_encoding=name)), self.good, names)
        return squeezed | plain

    def _cut(self) -> st.SearchStrategy[Asked]:
        return st.builds(
            lambda body, part: Asked("cut", post(body)[: int(part * (len(post(body)) - 1))], hangs_up=True),
            self.good,
            st.floats(0, 1),
        )

    def _chunks(self) -> st.SearchStrategy[Asked]:
        sizes = st.lists(st.integers(1, 40), max_size=5)
        ends = st.sampled_from([b"0\r\n\r\n", b"000\r\n\r\n", b"0\r\nx-trailer: 1\r\n\r\n"])
        return st.builds(
            lambda body, sizes, end: Asked("chunks", as_chunks(body, sizes, end), media=JSON, body=body),
            self.good | self._objects(),
            sizes,
            ends,
        )

    def _chunks_broken(self) -> st.SearchStrategy[Asked]:
        ends = st.sampled_from(
            [b"x\r\n\r\n", b"-1\r\n", b"ffffffffffffffffff\r\n", b"5\r\nabc\r\n0\r\n\r\n", b"\x00\x00\r\n"]
        )
        return st.builds(
            lambda body, sizes, end: Asked(
                "chunks broken", as_chunks(body, sizes, end), alone=True, hangs_up=end[:1] == b"f"
            ),
            self.good,
            st.lists(st.integers(1, 40), max_size=3),
            ends,
        )

    def _lengths(self) -> st.SearchStrategy[Asked]:
        """A length that is not that of the body, or none at all."""
        told = st.sampled_from(
            ["-1", "+5", "x", "1e3", "5, 5", "0x10", "99999999999", "18446744073709551617", "\xb2", "1048577"]
        )

        def write(body: bytes, told: str, more: str) -> Asked:
            head = f"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: {JSON}\r\n"
            head += f"content-length: {told}\r\n{more}\r\n"
            return Asked("length", head.encode("latin-1") + body, alone=True)

        more = st.sampled_from(["", "transfer-encoding: chunked\r\n", "content-length: 7\r\n"])
        short = st.integers(0, 20).flatmap(lambda size: self.good.map(lambda body: write(body, str(size), "")))
        none = self.good.map(
            lambda body: Asked("length", request("POST", "/predict", {"content-type": JSON}) + body, alone=True)
        )
        return st.one_of(st.builds(write, self.good, told, more), short, none)

    def _table(self, draw: st.DrawFn, foreign: bool) -> pa.Table:
        records = draw(st.lists(self.record, max_size=6))
        columns = {}
        for field in self.fields:
            values = [record[field.name] for record in records]
            if draw(st.integers(0, 9)) == 0:
                values = [None for _ in values]
            arrays = _ARRAYS[field.kind]
            made = draw(st.sampled_from(arrays if not foreign else arrays + _FOREIGN))
            try:
                columns[field.name] = made(values)
            except (pa.ArrowException, ValueError, TypeError, OverflowError):
                columns[field.name] = pa.array(values, pa.float64() if field.kind == "number" else pa.string())
        names = list(columns)
        if foreign:
            names = draw(st.permutations(names))
            what = draw(st.sampled_from(["", "", "drop", "more", "rename", "twice"]))
            if what == "drop":
                names = names[1:]
            table = pa.table({name: columns[name] for name in names})
            if what == "more":
                table = table.append_column("more", pa.nulls(len(records)))
            if what == "rename":
                table = table.rename_columns([f"{name}_" for name in names])
            if what == "twice":
                table = table.append_column(names[0], columns[names[0]])
            return table
        return pa.table(columns)

    def _arrow(self) -> st.SearchStrategy[Asked]:
        @st.composite
        def streams(draw: st.DrawFn) -> Asked:
            body = stream_of(self._table(draw, foreign=False), draw(st.sampled_from([1, 3, 100])))
            return Asked("arrow", post(body, ARROW), media=ARROW, body=body)

        return streams()

    def _arrow_types(self) -> st.SearchStrategy[Asked]:
        @st.composite
        def streams(draw: st.DrawFn) -> Asked:
            table = self._table(draw, foreign=True)
            squeezed = draw(st.sampled_from([None, None, "lz4", "zstd"]))
            body = stream_of(table, draw(st.sampled_from([1, 3, 100])), squeezed)
            return Asked("arrow types", post(body, ARROW), media=ARROW, body=body, strict=False)

        return streams()

    def _arrow_broken(self) -> st.SearchStrategy[Asked]:
        @st.composite
        def streams(draw: st.DrawFn) -> Asked:
            squeezed = draw(st.sampled_from([None, None, "lz4", "zstd"]))
            body = edited(stream_of(self._table(draw, foreign=draw(st.booleans())), 3, squeezed), draw(EDITS))
            return Asked("arrow broken", post(body, ARROW), media=ARROW, body=body, strict=False)

        return streams()

    def _routes(self) -> st.SearchStrategy[Asked]:
        methods = st.sampled_from(
            ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "POST", "PROPFIND", "get"]
        )
        known = st.sampled_from(["/predict", "/model", "/health", "/ready", "/metrics", "/openapi.json", "/docs", "/"])
        odd = st.sampled_from(
            [
                "/predict/",
                "//predict",
                "/predict?x=1",
                "/PREDICT",
                "/pre%64ict",
                "/%00",
                "/%ff%fe",
                "/../../etc/passwd",
                "/%2e%2e/",
                "/static/../../params.yaml",
                "/docs/%2e%2e/%2e%2e/params.yaml",
                "/redoc",
                "*",
                "http://x/model",
                "/model#x",
                "/" + "a" * 9000,
            ]
        )
        text = st.text("abc/%.~?&=;:@ \\", max_size=12).map(lambda text: "/" + text.replace(" ", "%20"))

        def write(method: str, path: str, body: bytes) -> Asked:
            body = b"" if method in ("GET", "HEAD", "get") else body
            return Asked("routes", request(method, path, {"content-type": JSON}, body), method, alone=True)

        return st.builds(write, methods, known | odd | text, st.just(b"") | self.good)

    def _headers(self) -> st.SearchStrategy[Asked]:
        odd = st.sampled_from(
            [
                ("x-request-id", "a\tb"),
                ("x-request-id", "ÿ" * 99),
                ("cookie", "a=b; " * 500),
                ("host", "127.0.0.1:9"),
                ("origin", "https://evil.example"),
                ("accept", "text/html;q=x"),
                ("range", "bytes=0-1"),
                ("te", "trailers"),
                ("if-none-match", "*"),
                ("x-forwarded-for", "1.2.3.4"),
                ("forwarded", "for=x"),
                ("connection", "keep-alive, x"),
                ("authorization", "Basic é"),
                ("authorization", "Bearer"),
                ("accept-encoding", "gzip, \x80"),
                ("expect", "x"),
                ("x-" + "a" * 500, "b"),
                ("x-http-method-override", "DELETE"),
                ("expect", "100-continue"),
                ("date", "0"),
            ]
        )
        broken = st.sampled_from(
            [
                "a b: c",
                ": x",
                "no colon",
                "x: a\x00b",
                "x : y",
                " folded",
                "x: y\rz: 1",
                "\x01: x",
                "x" * 70000,
                "x: " + "y" * 70000,
                "upgrade: websocket\r\nconnection: upgrade",
                "upgrade: h2c\r\nconnection: upgrade, http2-settings",
                "connection: close\r\nconnection: keep-alive",
                "transfer-encoding: gzip",
                "transfer-encoding: chunked, x",
            ]
        )

        def fine(body: bytes, headers: list[tuple[str, str]]) -> Asked:
            return Asked("headers", post(body, JSON, **dict(headers)), media=JSON, body=body)

        def wrong(body: bytes, line: str) -> Asked:
            head, _, rest = post(body).partition(b"\r\n")
            return Asked("headers", head + b"\r\n" + line.encode("latin-1") + b"\r\n" + rest, alone=True)

        return st.builds(fine, self.good, st.lists(odd, max_size=4)) | st.builds(wrong, self.good, broken)

    def _lines(self) -> st.SearchStrategy[Asked]:
        heads = st.sampled_from(
            [
                b"GET / HTTP/0.9\r\n\r\n",
                b"GET / HTTP/1.0\r\n\r\n",
                b"GET / HTTP/3\r\n\r\n",
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                b"GET  /\r\n\r\n",
                b"G\x00T / HTTP/1.1\r\n\r\n",
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
                b"GET / HTTP/1.1\n\n",
                b"CONNECT x:1 HTTP/1.1\r\nhost: localhost\r\n\r\n",
                b"GET \xff HTTP/1.1\r\n\r\n",
                b"POST /predict\r\n\r\n",
                b"GET /" + b"a" * 70000,
            ]
        )
        return (heads | st.binary(min_size=1, max_size=40)).map(
            lambda head: Asked("lines", head, "GET", alone=True, hangs_up=True)
        )

    def _large(self) -> st.SearchStrategy[Asked]:
        sizes = st.sampled_from([1 << 20, (1 << 20) + 1])
        forms = st.sampled_from([" ", "[", '"', "1", "{", "\\u0000", '{"a":'])
        return st.builds(
            lambda size, form: Asked("large", post((form * size)[:size].encode()), alone=True), sizes, forms
        )

    def _from_openapi(self, openapi: dict[str, Any]) -> st.SearchStrategy[Asked]:
        """What schemathesis makes of the description: data that fits it, and data that does not."""
        import schemathesis

        schema = schemathesis.openapi.from_dict(openapi)
        cases = [
            result.ok().as_strategy(generation_mode=mode)
            for result in schema.get_all_operations()
            for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
        ]
        return st.one_of(cases).map(_asked_by)


def _asked_by(case: Any) -> Asked:
    """The request of a case of schemathesis."""
    from urllib.parse import quote, urlencode

    path = quote(case.formatted_path) + ("?" + urlencode(case.query or {}, doseq=True) if case.query else "")
    headers = {
        name: str(value).encode("latin-1", "replace").decode("latin-1").replace("\r", " ").replace("\n", " ")
        for name, value in (case.headers or {}).items()
        if name.lower() not in ("content-length", "transfer-encoding", "host", "connection", "content-type")
    }
    if type(case.body).__name__ == "NotSet":
        return Asked("schema", request(case.method, path, headers, b""), case.method, alone=True)
    media = case.media_type or JSON
    if media != JSON:
        body = case.body if isinstance(case.body, bytes) else json.dumps(case.body).encode()
        return Asked(
            "schema", request(case.method, path, headers | {"content-type": media}, body), case.method, alone=True
        )
    body = case.body if isinstance(case.body, bytes) else json.dumps(case.body).encode("utf-8", "surrogatepass")
    told = request(case.method, path, headers | {"content-type": media}, body)
    whole = case.method == "POST" and case.path == "/predict" and not headers and not case.query
    return Asked("schema", told, case.method, media=JSON if whole else "", body=body, alone=not whole)


def _dictionary(values: list[Any]) -> pa.Array:
    return pa.array(values).dictionary_encode()


def _typed(kind: Any) -> Callable[[list[Any]], pa.Array]:
    def make(values: list[Any]) -> pa.Array:
        return pa.array(values).cast(kind)

    return make


_ARRAYS: dict[str, list[Callable[[list[Any]], pa.Array]]] = {
    "category": [_typed(pa.string()), _typed(pa.large_string()), _dictionary],
    "number": [_typed(pa.float64()), _typed(pa.float32())],
    "datetime": [
        _typed(pa.string()),
        _typed(pa.timestamp("us")),
        _typed(pa.timestamp("ms")),
        _typed(pa.timestamp("ns")),
    ],
}
_FOREIGN: list[Callable[[list[Any]], pa.Array]] = [
    *map(
        _typed, [pa.binary(), pa.string_view(), pa.bool_(), pa.int8(), pa.uint64(), pa.float16(), pa.decimal128(38, 9)]
    ),
    *map(_typed, [pa.date32(), pa.date64(), pa.timestamp("us", "UTC"), pa.duration("s"), pa.time64("us")]),
    lambda values: pa.nulls(len(values)),
    lambda values: pa.array([[value] for value in values]),
    lambda values: pa.array([{"a": value} for value in values]),
    lambda values: pa.array([b"12"] * len(values), pa.binary(2)),
    lambda values: pa.RunEndEncodedArray.from_arrays([len(values)] if values else [], pa.array(values[:1])),
]


def stream_of(table: pa.Table, rows: int, squeezed: str | None = None) -> bytes:
    """A table as a stream of batches."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=squeezed)) as writer:
        writer.write_table(table, rows)
    return bytes(sink.getvalue().to_pybytes())


# What must come back: the predictor of this process is asked as well.


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def _constant(name: str) -> None:
    raise ValueError(name)


def records_of(body: bytes) -> list[Any] | None:
    """The records of a body of JSON; None for one that holds none."""
    try:
        found = json.loads(body.decode(), object_pairs_hook=_pairs, parse_constant=_constant)
    except (ValueError, AssertionError, RecursionError):
        return None
    if not isinstance(found, dict) or list(found) != ["records"] or not isinstance(found["records"], list):
        return None
    return found["records"] if 1 <= len(found["records"]) <= MOST else None


def check_form(asked: Asked, reply: Reply) -> None:
    """The reply is one of those that are documented."""
    assert reply.status < 500, "a fault of the server"
    if asked.method == "HEAD" or reply.status == 204:
        return
    media = reply.headers.get("content-type", "")
    path = asked.content.split(b" ")[1].partition(b"?")[0]
    if reply.status >= 400 and path.startswith((b"/v2/", b"/invocations")):
        told = reply.json
        assert list(told) in (["error"], ["error_code", "message"]) or reply.code
    elif reply.status >= 400:
        assert media == JSON or (reply.status == 422 and media in (ARROW, "text/csv"))
        if media == JSON and not (reply.status == 422 and "predictions" in reply.json):
            assert reply.code
    elif media == JSON:
        assert path == b"/ping" or reply.json is not None  # MLflow's answer to it is an empty line
    else:
        assert media in (ARROW,) or media.startswith("text/"), media


def check_answer(asked: Asked, reply: Reply, predictor: Predictor) -> int:
    """What is answered is what the predictor answers here, and what is refused is refused here; how many records."""
    answers = None
    if asked.media == JSON:
        records = records_of(asked.body)
        if records is None:
            assert reply.status in (400, 413, 422), "a body without records is refused"
            assert reply.code
        else:
            answers = predictor.predict(records)
            check_json(answers, reply)
    elif asked.media == ARROW:
        with suppress(RecordsError, pa.ArrowException, OSError, ValueError):
            table = pa.ipc.open_stream(asked.body).read_all()
            table.validate(full=True)
            answers = predictor.predict(table) if table.num_rows else None
        if reply.headers["content-type"] == ARROW:
            assert answers is not None, "answered, and should have been refused"
            check_arrow(answers, reply)
        else:
            assert reply.status in (400, 413, 415, 422)
            assert reply.code
            assert answers is None or not asked.strict, "refused, and should have been answered"
            answers = None
    return 0 if answers is None else len(answers.answer)


def whole(name: str) -> str:
    """A name as a reply tells it: half of a character is written out."""
    return name.encode("utf-8", "backslashreplace").decode()


def check_json(answers: Answers, reply: Reply) -> None:
    """The reply holds these answers."""
    predictions = reply.json["predictions"]
    silent = np.isnan(answers.answer)
    assert reply.status == (422 if silent.all() else 200)
    assert len(predictions) == len(silent)
    for row, told in enumerate(predictions):
        wrong = [
            {"field": field, "value": value, "reason": reason}
            for at, field, value, reason in answers.rejects
            if at == row
        ]
        errors = told.pop("errors", [])
        assert [error["field"] for error in errors] == [whole(error["field"]) for error in wrong]
        assert [error["reason"] for error in errors] == [error["reason"] for error in wrong]
        answer = None if silent[row] else float(answers.answer[row])
        if answers.label is None:
            assert told == {"prediction": answer}
        else:
            label = None if silent[row] else int(answers.label[row])
            assert (told["prediction"], told["probability"]) == (label, answer)
            assert told["probabilities"] == (answer and {"0": round(1 - answer, 9), "1": answer})


def check_arrow(answers: Answers, reply: Reply) -> None:
    """The stream holds these answers."""
    table = pa.ipc.open_stream(reply.body).read_all()
    told = table["prediction" if answers.label is None else "probability"].to_pylist()
    assert told == [None if math.isnan(answer) else answer for answer in answers.answer.tolist()]
    if answers.label is not None:
        assert table["prediction"].to_pylist() == [None if label < 0 else label for label in answers.label.tolist()]
    errors = table["errors"].to_pylist() if "errors" in table.column_names else [None] * len(told)
    fields = [(row, error["field"], error["reason"]) for row, all_ in enumerate(errors) for error in all_ or ()]
    assert fields == [(row, field, reason) for row, field, _, reason in answers.rejects]


def example(predictor: Predictor) -> dict[str, Any]:
    """A record that is answered."""
    values = {"datetime": "2013-01-31T05:15:00", "number": None, "category": "a"}
    record = {field.name: values[field.kind] for field in predictor.signature.fields}
    for field in predictor.signature.fields:
        if field.categories:
            record[field.name] = field.categories[0]
        if field.kind == "number":
            record[field.name] = max(1.0, field.minimum or 0)
    assert not predictor.predict([record]).rejects
    return record


class Attack:
    """Requests that are sent to a server, one after the other on one connection as long as it lasts."""

    def __init__(self, server: Server, predictor: Predictor, probe: Any) -> None:
        self.server, self.predictor = server, predictor
        self.kinds: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.records = 0  # that were answered here as well
        self._probe, self._right = asking([probe]), predictor.predict([probe])
        self._wire = Wire(server.port)

    def send(self, asked: Asked) -> None:
        """Send one, and check what comes of it."""
        self.kinds[asked.kind] += 1
        try:
            if asked.hangs_up or asked.alone:
                self._alone(asked)
            else:
                self._wire.send(asked.content)
                reply = self._wire.reply(asked.method)
                self._check(asked, reply)
                if reply.headers.get("connection") == "close":
                    self._wire.close()
                    self._wire = Wire(self.server.port)
            self._wire.send(self._probe)
            check_json(self._right, self._wire.reply())
        except ConnectionError:
            assert self.server.process.poll() is None, "the server has died"
            raise AssertionError("a connection was closed in the middle") from None
        except BaseException:
            self._wire.close()
            self._wire = Wire(self.server.port)
            raise

    def _alone(self, asked: Asked) -> None:
        """On a connection of its own, because what it holds afterwards is not known."""
        with Wire(self.server.port) as wire:
            wire.send(asked.content)
            if asked.hangs_up:
                self.statuses["none"] += 1
            else:
                self._check(asked, wire.reply(asked.method))

    def _check(self, asked: Asked, reply: Reply) -> None:
        self.statuses[str(reply.status)] += 1
        check_form(asked, reply)
        self.records += check_answer(asked, reply, self.predictor)

    def check_end(self) -> None:
        """The server is as it was: the same process, nothing in flight, and a log of JSON without a trace."""
        assert self.server.process.poll() is None
        until(lambda: self.server.metric("in_flight") == 1)  # the request that asks
        first, *lines = self.server.log.read_text().splitlines()
        assert first.startswith("http://")
        for line in lines:
            json.loads(line)
            assert "Traceback" not in line, line


def send_all(attack: Attack, requests: Requests, number: int, turn: int = 0) -> int:
    """Send so many requests, of all kinds in turn; how many turns that took. What is sent hangs on the turn alone."""
    most = attack.kinds.total() + number
    while attack.kinds.total() < most:
        for kind in requests.kinds:
            part = PER_TURN // 5 if kind == "schema" else PER_TURN  # schemathesis takes its time
            send_some(attack, requests.kinds[kind], min(part, most - attack.kinds.total()), turn)
        turn += 1
    return turn


def send_some(attack: Attack, some: st.SearchStrategy[Asked], number: int, turn: int) -> None:
    """Send at most so many of one kind; it ends with the smallest request that fails."""

    @seed(turn)
    @settings(
        max_examples=max(number, 1), deadline=None, database=None, suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink], report_multiple_bugs=False,
    )  # fmt: skip
    @given(some)
    def one(asked: Asked) -> None:
        attack.send(asked)

    one()


TOLERANT = ("/invocations", "/infer")  # they take more than is described, as the servers of their protocols do


@pytest.fixture(scope="module", params=["positive", "negative"])
def described(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
    """A server; for requests that violate the schema, one that refuses them for a single invalid record."""
    env = {"SERVE_PARTIAL": "true" if request.param == "positive" else "false"}
    with start(write_bundle(tmp_path_factory.mktemp("described") / "bundle"), env=env) as server:
        yield server, request.param


def test_schemathesis_finds_nothing_in_the_whole_api(described: tuple[Server, str]) -> None:
    import schemathesis
    from schemathesis.checks import CHECKS
    from schemathesis.core.failures import FailureGroup

    server, mode = described
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    accepts, rejects = (CHECKS.get_one(f"{name}") for name in ("positive_data_acceptance", "negative_data_rejection"))

    def check(case: Any) -> None:
        left_out = [rejects] if case.path.endswith(TOLERANT) else []
        if case.media_type in ("text/csv", "application/vnd.apache.parquet"):  # which a schema cannot describe
            left_out = [accepts, rejects]
        try:
            case.call_and_validate(excluded_checks=left_out)
        except FailureGroup as group:  # a text "true" is wrong in the schema, and right in a URL
            flags = {str(value).lower() for value in (case.query or {}).values()}
            if flags - {"true", "false"} or not all("in query\n" in str(error) for error in group.exceptions):
                raise

    assert len(operations) == 16
    if mode == "negative":  # what takes nothing cannot be given anything wrong
        operations = [operation for operation in operations if operation.method == "post"]
        assert len(operations) == 4
    for number, operation in enumerate(operations):
        cases = operation.as_strategy(generation_mode=schemathesis.GenerationMode(mode))
        run = seed(number)(given(cases)(check))
        settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))(run)()


def test_two_thousand_requests_of_all_kinds_leave_the_server_right_and_as_it_was(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    predictor = Predictor.load(bundle)
    with start(bundle) as server:
        openapi = server.get("/openapi.json").json
        attack, requests = Attack(server, predictor, RECORD), Requests(predictor, openapi)
        turn = send_all(attack, requests, 1000)
        warm = rss(server.process.pid)
        send_all(attack, requests, 1000, turn)
        attack.check_end()
        assert rss(server.process.pid) < 1.1 * warm
        assert set(requests.kinds) == set(attack.kinds)
