"""Who may ask, what a stranger can make the server do, and what it lets out."""

import base64
import gzip
import hashlib
import hmac
import json
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import requires
from pathlib import Path

import onnx
import pyarrow as pa
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mlops_pkg.bundle.manifest import CARD, MANIFEST, MODEL, SIGNATURE, BundleError
from mlops_pkg.bundle.predictor import Predictor
from mlops_pkg.serving.settings import Key, authenticate, new_key
from tests.conftest import ROOT
from tests.serving.conftest import Server, launch, start, until
from tests.serving.wire import Reply, Wire, asking, request, rss
from tests.toy import RECORD, seal, toy_answer, write_bundle

JSON, ARROW = "application/json", "application/vnd.apache.arrow.stream"
FIRST, SECOND = (  # as `new_key` makes them, and the same in each process that runs a part of these tests
    (key, Key(name=name, sha256=hashlib.sha256(key.encode()).hexdigest()))
    for name, key in (("first", "b7Zc-" * 8 + "Qx1"), ("second", "9_fKe" * 8 + "aB2"))
)
KEYS = "\n".join(f'[[keys]]\nname = "{key.name}"\nsha256 = "{key.sha256}"' for _, key in (FIRST, SECOND))
RIGHT = {"authorization": f"Bearer {FIRST[0]}"}


@pytest.fixture(scope="module")
def guarded(bundle: Path) -> Iterator[Server]:
    """A server that takes two keys, one of which is being replaced by the other."""
    with start(bundle, config=KEYS) as running:
        yield running


def said(server: Server, content: bytes, method: str = "GET") -> Reply:
    """The reply to these bytes."""
    with Wire(server.port) as wire:
        wire.send(content)
        return wire.reply(method)


def basic(name: str, key: str) -> str:
    """What a browser sends for a name and a password."""
    return "Basic " + base64.b64encode(f"{name}:{key}".encode()).decode()


def check_answers(server: Server, headers: dict[str, str] | None = None) -> None:
    """The server answers as ever."""
    prediction = said(server, asking([RECORD], headers)).json["predictions"][0]
    assert prediction["probability"] == toy_answer(**RECORD)


# Keys


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "TRACE", "PATCH"])
@pytest.mark.parametrize(
    "path",
    [
        *("/", "/docs", "/openapi.json", "/metrics", "/model", "/predict", "/nothing", "/static/x.js", "/redoc"),
        *("/health/", "//health", "/health/../model", "/ready%2f..%2fmodel", "/HEALTH", "/ready;x", "/health%00", "*"),
    ],
)
def test_without_a_key_nothing_is_told_but_that_one_is_needed(guarded: Server, method: str, path: str) -> None:
    reply = said(guarded, request(method, path, body=b""), method)

    assert reply.status == 401
    assert "www-authenticate" in reply.headers
    assert not {"allow", "location", "etag"} & set(reply.headers)
    if method != "HEAD":
        assert reply.code == "no_key"


@pytest.mark.parametrize("path", ["/health", "/ready", "/health?x=1"])
def test_whoever_looks_after_the_server_needs_no_key(guarded: Server, path: str) -> None:
    assert said(guarded, request(path=path)).status == 200


@pytest.mark.parametrize(
    "told",
    [
        *("", "Bearer", "Bearer ", "Bearer x", f"Bearer {FIRST[0][:-1]}", f"Bearer {FIRST[0]}x", FIRST[0]),
        *(f"Bearer {FIRST[0].swapcase()}", f"Bearer {FIRST[1].sha256}", f"Token {FIRST[0]}", f"Digest {FIRST[0]}"),
        *(basic(FIRST[0], ""), basic("", ""), basic("first", SECOND[1].sha256), f"Basic {FIRST[0]}", "Basic %%%"),
        *("Bearer \xe9\xff", f"Bearer {FIRST[0]}, Bearer {FIRST[0]}", "Bearer " + "x" * 8000, f"Bearer:{FIRST[0]}"),
        *(f"Bearer {FIRST[0]} {SECOND[0]}", "Bearer \t", "Basic", "Basic /w=="),
    ],
)
def test_anything_but_a_key_in_its_place_is_refused(guarded: Server, told: str) -> None:
    reply = said(guarded, asking([RECORD], {"authorization": told}), "POST")

    assert reply.status == 401
    assert reply.code in ("no_key", "wrong_key")
    assert FIRST[0] not in reply.body.decode()


@pytest.mark.parametrize("where", ["x-api-key", "cookie", "proxy-authorization", "x-authorization"])
def test_a_key_in_another_place_is_none(guarded: Server, where: str) -> None:
    for value in (FIRST[0], f"Bearer {FIRST[0]}", f"authorization=Bearer {FIRST[0]}"):
        assert said(guarded, asking([RECORD], {where: value})).status == 401
    assert said(guarded, request(path=f"/model?key={FIRST[0]}&authorization=Bearer%20{FIRST[0]}")).status == 401


@pytest.mark.parametrize("key", [FIRST[0], SECOND[0]])
def test_each_of_several_keys_is_right(guarded: Server, key: str) -> None:
    for told in (f"Bearer {key}", f"bearer {key}", basic("anybody", key), basic("", key)):
        check_answers(guarded, {"authorization": told})


def test_a_key_is_held_against_each_that_is_known_whichever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[tuple[str, str]] = []
    compare = hmac.compare_digest

    def watched(one: str, other: str) -> bool:
        held.append((one, other))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", watched)
    keys = (FIRST[1], SECOND[1])
    assert len(FIRST[0]) == len(new_key("x")[0]), "these are keys as they are made"
    for key, name in ((FIRST[0], "first"), (SECOND[0], "second"), ("x", None), ("", None), ("\xe9", None)):
        held.clear()
        assert authenticate(key, keys) == name
        assert [other for _, other in held] == [one.sha256 for one in keys]
        assert all(len(one) == len(other) for one, other in held), "the digests are compared, not the keys"


def test_keys_are_in_no_log_no_error_and_no_list_of_processes(bundle: Path) -> None:
    secrets = [FIRST[0], SECOND[0], FIRST[0] + "x", "hunter2hunter2"]
    with start(bundle, config=KEYS) as server:
        told = b""
        for key in secrets:
            for headers in ({"authorization": f"Bearer {key}"}, {"authorization": basic("a", key)}):
                for path in ("/model", "/nothing", "/metrics", "/"):
                    told += said(server, request(path=path, headers=headers)).body
        listed = Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
        listed += Path(f"/proc/{server.process.pid}/environ").read_bytes()
        server.end()
        for place in (told.decode(), listed.decode(), server.log.read_text()):
            for secret in [*secrets, FIRST[1].sha256, SECOND[1].sha256]:
                assert secret not in place
        asked = server.events("request")
        assert {line["key"] for line in asked} == {"", "first", "second"}, "who asks is known by a name"


def test_an_address_that_others_reach_needs_keys(bundle: Path) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.com", ""):
        process, log = launch("--bundle", str(bundle), "--port", "0", "--host", host)
        assert process.wait(30) != 0, host
        assert len(log.read_text().splitlines()) == 1


# Bombs


def check_memory(server: Server, before: int) -> None:
    """What was refused has not been held."""
    assert rss(server.process.pid) < before + (192 << 20)
    check_answers(server)


def head(media: str, *lines: str) -> bytes:
    """The headers of a body that is yet to come."""
    told = ["POST /predict HTTP/1.1", "host: localhost", f"content-type: {media}", *lines]
    return "\r\n".join([*told, "", ""]).encode()


@pytest.mark.parametrize("length", [(1 << 20) + 1, 10**12, 2**63 - 1])
def test_a_body_that_is_too_long_is_refused_before_it_comes(server: Server, length: int) -> None:
    reply = said(server, head(JSON, f"content-length: {length}"))

    assert (reply.status, reply.code) == (413, "too_large")
    assert reply.headers["connection"] == "close"
    check_answers(server)


@pytest.mark.parametrize(("media", "block"), [(JSON, 1 << 14), (ARROW, 1 << 20)])
def test_chunks_without_end_are_refused_when_they_are_too_many(server: Server, media: str, block: int) -> None:
    before = rss(server.process.pid)
    with Wire(server.port) as wire:
        wire.send(head(media, "transfer-encoding: chunked"))
        with suppress(ConnectionError):
            for _ in range(100):
                wire.socket.sendall(b"%x\r\n%s\r\n" % (block, b" " * block))
        reply = wire.reply()

    assert (reply.status, reply.code) == (413, "too_large")
    check_memory(server, before)


@pytest.mark.parametrize("name", ["deflate", "br", "zstd", "gzip, identity", "x-gzip"])
def test_a_body_of_another_compression_than_gzip_is_not_taken(server: Server, name: str) -> None:
    body = gzip.compress(b" " * 10_000_000)

    reply = said(server, request("POST", "/predict", {"content-type": JSON, "content-encoding": name}, body))

    assert reply.status == 415
    check_answers(server)


@pytest.mark.parametrize("name", ["gzip", "GZIP"])
def test_a_gzip_bomb_is_refused_when_it_has_swollen_to_the_limit(server: Server, name: str) -> None:
    before = rss(server.process.pid)
    for media in (JSON, "text/csv"):
        body = gzip.compress(b" " * 500_000_000)[: 1 << 20]

        reply = said(server, request("POST", "/predict", {"content-type": media, "content-encoding": name}, body))

        assert (reply.status, reply.code) == (413, "too_large")
    check_memory(server, before)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * (1 << 20),
        b'{"a":' * 200_000,
        b'{"records":' * 90_000,
        b"[" * 500_000 + b"]" * 500_000,
        b"1" * (1 << 20),
        b'{"records": [' + b"1" * 1_000_000 + b"]}",
        b'{"records": [' + b"{}," * 340_000 + b"{}]}",
        b'"' + b"\\ud800" * 170_000 + b'"',
        b'{"records": [{' + b",".join(b'"%d":0' % number for number in range(90_000)) + b', "0": 1}]}',
        b'{"records": [{' + b",".join(b'"%d":0' % number for number in range(90_000)) + b', "89999": 1}]}',
        b'{"records": [{"origin": ' + b"[" * 400_000 + b"]" * 400_000 + b"}]}",
        b'{"records": [{"start": "' + b"2013-01-01T" * 90_000 + b'"}]}',
    ],
    ids=lambda body: body[:12].decode(),
)
def test_a_body_that_is_costly_to_read_is_refused_in_the_time_of_any_other(server: Server, body: bytes) -> None:
    before = rss(server.process.pid)

    reply = said(server, request("POST", "/predict", {"content-type": JSON}, body))

    assert reply.status in (400, 422)
    assert len(reply.body) < 4096, "a large mistake needs no large answer"
    check_memory(server, before)


def stream(table: pa.Table, squeezed: str | None = None) -> bytes:
    """A table as a stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=squeezed)) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


ROWS = 50_000
LONG = "x" * 1_000_000


def long_dictionary() -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array([0] * ROWS, pa.int32()), pa.array([LONG]))


def long_views() -> pa.Array:
    view = struct.pack("<i4sii", len(LONG), LONG[:4].encode(), 0, 0)
    buffers = [None, pa.py_buffer(view * ROWS), pa.py_buffer(LONG.encode())]
    return pa.Array.from_buffers(pa.string_view(), ROWS, buffers)


def long_runs() -> pa.Array:
    return pa.RunEndEncodedArray.from_arrays([ROWS], pa.array([LONG]))


def long_lists() -> pa.Array:
    firsts, sizes = pa.array([0] * ROWS, pa.int32()), pa.array([ROWS] * ROWS, pa.int32())
    return pa.ListViewArray.from_arrays(firsts, sizes, pa.array([0.0] * ROWS))


@pytest.mark.parametrize("squeezed", ["zstd", "lz4"])
@pytest.mark.parametrize("name", ["origin", "more"])
def test_a_compressed_arrow_stream_does_not_swell(bundle: Path, squeezed: str, name: str) -> None:
    batch = pa.record_batch({name: pa.array(["x" * 2_000_000] * 32)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression=squeezed)) as writer:
        for _ in range(8):
            writer.write_batch(batch)

    check_bomb(bundle, bytes(sink.getvalue().to_pybytes()))


@pytest.mark.parametrize("column", [long_dictionary, long_views, long_runs, long_lists])
def test_an_arrow_column_that_says_one_thing_often_does_not_swell(bundle: Path, column: Callable[[], pa.Array]) -> None:
    rest = {"wind": pa.nulls(ROWS, pa.float64()), "start": pa.array(["2013-01-01"] * ROWS)}

    check_bomb(bundle, stream(pa.table({"origin": column(), **rest})))


def test_rows_without_bytes_are_counted_before_they_are_made(bundle: Path) -> None:
    check_bomb(bundle, stream(pa.table({"origin": pa.nulls(2**31 - 1)})))


def check_bomb(bundle: Path, body: bytes) -> None:
    """The stream is refused, and the memory that it would have filled was never taken."""
    with start(bundle) as server:
        small = stream(pa.table({key: [value] for key, value in RECORD.items()}))
        assert said(server, request("POST", "/predict", {"content-type": ARROW}, small)).status == 200
        before = rss(server.process.pid)

        reply = said(server, request("POST", "/predict", {"content-type": ARROW}, body))

        assert reply.status in (400, 413, 415, 422)
        assert reply.code
        peak = Path(f"/proc/{server.process.pid}/status").read_text().split("VmHWM:")[1].split()[0]
        assert int(peak) * 1024 < before + (192 << 20)
        check_answers(server)


# Paths, headers and pages


@pytest.mark.parametrize(
    "path",
    [
        *("/static/../../params.yaml", "/static/..%2f..%2fparams.yaml", "/static/%2e%2e/%2e%2e/params.yaml"),
        *("/../../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/static//etc/passwd", "/static/%2fetc%2fpasswd"),
        *("/static/..\\..\\params.yaml", "/static/%5c..%5cparams.yaml", "/static/x%00.js", "/docs/../params.yaml"),
        *("/static-offline-docs/../../params.yaml", "/static-offline-docs/..%2f..%2f__init__.py", "file:///etc/passwd"),
        *(
            "/static-offline-docs//etc/passwd",
            "/static-offline-docs/%00",
            "/static-offline-docs/" + "../" * 20 + "etc/passwd",
        ),
        *(
            "/model/../../manifest.json",
            "/manifest.json",
            "/model.onnx",
            "/artifacts/package/model.onnx",
            "/.env",
            "/.git/HEAD",
        ),
    ],
)
def test_no_path_leads_to_a_file(server: Server, path: str) -> None:
    reply = said(server, request(path=path))

    assert reply.status in (400, 404)
    assert reply.code
    assert "root:" not in reply.body.decode()


def test_what_a_client_sends_cannot_become_a_header_or_a_line_of_the_log(bundle: Path) -> None:
    evil = 'x"}\n{"time": "forged", "event": "request", "status": 200}\n\x1b[2J\r\nset-cookie: a=b'
    with start(bundle) as server:
        for number in ("a\tb", "a b", "x" * 300, "\xff\xfe", '"}', "a;b", "%0d%0aset-cookie:a=b", "<script>", ""):
            reply = said(server, request(path="/model", headers={"x-request-id": number}))
            assert re.fullmatch(r"[\w.-]{1,64}", reply.headers["x-request-id"], re.ASCII)
            assert reply.headers["x-request-id"] != number
        path = "/" + "".join(f"%{byte:02x}" for byte in evil.encode())
        replies = [said(server, request(path=path)), said(server, request("PUT", path))]
        replies.append(said(server, asking([{**RECORD, "origin": evil, evil: 1}])))
        replies.append(
            said(
                server,
                asking(
                    [RECORD],
                    {"content-type": "text/plain\t" + evil.replace("\n", "").replace("\r", "").replace("\x1b", "")},
                ),
            )
        )
        for reply in replies:
            assert "set-cookie" not in reply.headers
        server.end()
        lines = server.log.read_text().splitlines()[1:]
        assert [json.loads(line)["event"] for line in lines].count("request") == 9 + len(replies)
        assert "\x1b" not in server.log.read_text()


def test_other_pages_may_not_ask_by_default(server: Server) -> None:
    for origin in ("https://evil.example", "null", server.url):
        asked = {
            "origin": origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": "content-type",
        }
        for reply in (
            said(server, request("OPTIONS", "/predict", asked, b"")),
            said(server, request("OPTIONS", "/model", asked, b"")),
            said(server, asking([RECORD], {"origin": origin})),
        ):
            assert not [name for name in reply.headers if name.startswith("access-control")]


def test_an_origin_that_is_named_may_ask_and_no_other(bundle: Path) -> None:
    with start(bundle, config=f'cors = ["https://good.example"]\n{KEYS}') as server:
        for origin, allowed in (("https://good.example", True), ("https://good.example.evil.example", False)):
            asked = {"origin": origin, "access-control-request-method": "POST"}
            preflight = said(server, request("OPTIONS", "/predict", asked, b""))
            reply = said(server, asking([RECORD], {"origin": origin, **RIGHT}))
            for one in (preflight, reply):
                assert one.headers.get("access-control-allow-origin") == (origin if allowed else None)
                assert "access-control-allow-credentials" not in one.headers
            assert said(server, asking([RECORD], {"origin": origin})).status == 401


@pytest.mark.parametrize(
    "media", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
def test_what_a_form_of_another_site_can_send_is_refused(server: Server, media: str) -> None:
    body = json.dumps({"records": [RECORD]}).encode()

    reply = said(server, request("POST", "/predict", {"content-type": media}, body))

    assert (reply.status, reply.code) == (415, "media_type")


def test_a_page_whose_name_points_at_this_machine_learns_nothing(server: Server, bundle: Path) -> None:
    for host in (
        "evil.example",
        "evil.example:8000",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "8.8.8.8",
        "x",
    ):
        for method, path in (("GET", "/"), ("GET", "/model"), ("GET", "/metrics"), ("POST", "/predict")):
            reply = said(server, f"{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 0\r\n\r\n".encode())
            assert (reply.status, reply.code) == (421, "host")
    for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000", "127.9.9.9"):
        assert said(server, f"GET /model HTTP/1.1\r\nhost: {host}\r\n\r\n".encode()).status == 200
    assert said(server, b"GET /health HTTP/1.1\r\nhost: evil.example\r\n\r\n").status == 200
    with start(bundle, config='allowed_hosts = ["late.example"]\n') as named:
        for host, status in (("late.example:80", 200), ("evil.example", 421)):
            assert said(named, f"GET /model HTTP/1.1\r\nhost: {host}\r\n\r\n".encode()).status == status
    with start(bundle, config=KEYS) as keyed:
        assert said(keyed, request(path="/model", headers={**RIGHT, "host": "late.example"})).status == 200


TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    "sent",
    [
        *("", "00", f"00-{TRACE}", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE}-{SPAN}-01-x"),
        *(f"00-{TRACE.upper()}-{SPAN}-01", f"ff-{TRACE}-{SPAN}-01", f'00-{TRACE}-{SPAN}-01"}}', "x" * 8000),
        *(f"00-{TRACE}-{SPAN}-0\xe9", "%0d%0aset-cookie:a=b"),
    ],
)
def test_a_trace_that_is_none_is_neither_answered_nor_logged(server: Server, sent: str) -> None:
    lines = len(server.events("request"))
    reply = said(server, asking([RECORD], {"traceparent": sent}))

    assert reply.status == 200
    assert "traceparent" not in reply.headers
    [line] = until(lambda: server.events("request")[lines:])
    assert "trace" not in line


def test_a_graph_whose_data_lies_in_another_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.bin").write_bytes(b"S" * 64)
    bundle = write_bundle(tmp_path / "bundle")
    whole = onnx.load_from_string((bundle / MODEL).read_bytes())
    for place in ("secret.bin", str(tmp_path / "secret.bin"), "../secret.bin", "/etc/passwd"):
        model = onnx.ModelProto()
        model.CopyFrom(whole)
        tensor = model.graph.initializer[0]
        tensor.ClearField("double_data")
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", place), ("offset", "0"), ("length", "24")):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
        (bundle / MODEL).write_bytes(model.SerializeToString())
        with pytest.raises(BundleError, match="model.onnx: onnxruntime cannot open it"):
            Predictor.load(seal(bundle))


@pytest.mark.parametrize("host", ["evil.example", "", "a\tb", "[::1", "x" * 2000, "evil.example:99999", "<script>"])
def test_the_name_that_a_client_gives_the_server_comes_back_nowhere(server: Server, host: str) -> None:
    for path in ("/", "/docs", "/openapi.json", "/model", "/predict/", "/nothing"):
        reply = said(server, f"GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
        assert "location" not in reply.headers
        assert len(host) < 3 or host not in reply.body.decode() or host == "<script>"
        assert "<script>evil" not in reply.body.decode()


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_may_load_from_here_alone_and_be_framed_by_nobody(server: Server, path: str) -> None:
    reply = said(server, request(path=path))

    policy = dict(part.strip().partition(" ")[::2] for part in reply.headers["content-security-policy"].split(";"))
    assert reply.status == 200
    assert policy["frame-ancestors"] == "'none'"
    assert policy["default-src"] in ("'none'", "'self'")
    assert policy["base-uri"] == "'none'"
    assert policy["form-action"] in ("'none'", "'self'")
    for source in " ".join(policy.values()).split():
        assert source in ("'none'", "'self'", "data:", "'unsafe-inline'") or source.startswith("'sha256-"), source
    assert "'unsafe-inline'" not in policy.get("script-src", policy["default-src"])
    assert not re.findall(r"""(?:src|href)=["'](?:https?:)?//""", reply.body.decode()), "nothing is fetched elsewhere"


@pytest.mark.parametrize("path", ["/", "/docs", "/model", "/metrics", "/openapi.json", "/health", "/nothing"])
def test_a_reply_is_what_it_says_it_is_and_stays_in_no_cache(server: Server, path: str) -> None:
    headers = said(server, request(path=path)).headers

    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["content-type"]
    assert "server" not in headers, "which software this is, is nobody's business"
    assert "set-cookie" not in headers


def test_an_error_names_no_file_and_no_line_of_code(server: Server) -> None:
    refused = [
        *(
            request("POST", "/predict", {"content-type": JSON}, body)
            for body in (b"", b"{", b"\xff", b"[" * 9999, b"[1]")
        ),
        *(
            request("POST", "/predict", {"content-type": ARROW}, body)
            for body in (b"", b"x" * 99, stream(pa.table({"a": [1]})))
        ),
        *(request("POST", "/predict", {"content-type": media}, b"{}") for media in ("a/b", "/etc/passwd")),
        *(request(method, path) for method in ("GET", "PUT") for path in ("/nothing", "/%00", "/predict", "/model/x")),
        asking([{}] * 2000),
        asking([]),
        b"GET / HTTP/9\r\n\r\n",
        b"\x00\r\n\r\n",
    ]
    for content in refused:
        reply = said(server, content)
        assert 400 <= reply.status < 500
        assert reply.code
        for word in (
            "Traceback",
            "File ",
            "site-packages",
            ".py",
            "/tmp",
            "/home",
            "/root",
            str(ROOT),
            "pyarrow",
            "object at 0x",
        ):
            assert word not in reply.body.decode(), content


# Bundles


def plant_pickle(bundle: Path) -> None:
    (bundle / "model.pkl").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")


def list_pickle(bundle: Path) -> None:
    plant_pickle(bundle)
    seal(bundle)


def swap_digests(bundle: Path) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    files = manifest["files"]
    files[MODEL], files[CARD] = files[CARD], files[MODEL]
    (bundle / MANIFEST).write_text(json.dumps(manifest))


def list_outside(bundle: Path) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["files"]["../../etc/passwd"] = hashlib.sha256(Path("/etc/passwd").read_bytes()).hexdigest()
    (bundle / MANIFEST).write_text(json.dumps(manifest))


def link_file(bundle: Path) -> None:
    shutil.move(bundle / MODEL, bundle.parent / "elsewhere.onnx")
    (bundle / MODEL).symlink_to(bundle.parent / "elsewhere.onnx")


def link_folder(bundle: Path) -> None:
    (bundle / "more").symlink_to("/etc")


def pickled_model(bundle: Path) -> None:
    (bundle / MODEL).write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    seal(bundle)


def change_a_bit(bundle: Path) -> None:
    content = bytearray((bundle / MODEL).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / MODEL).write_bytes(content)


def list_deeply(bundle: Path) -> None:
    (bundle / MANIFEST).write_text("[" * 100_000)


def list_numbers(bundle: Path) -> None:
    (bundle / MANIFEST).write_text(json.dumps({"format": 2, "files": {MODEL: 1, SIGNATURE: None}}))


FORGERIES = (
    *(plant_pickle, list_pickle, swap_digests, list_outside, link_file, link_folder, pickled_model, change_a_bit),
    *(list_deeply, list_numbers),
)


@pytest.mark.parametrize("forge", FORGERIES, ids=lambda forge: forge.__name__)
def test_a_bundle_that_was_tampered_with_is_not_served(tmp_path: Path, forge: Callable[[Path], None]) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    forge(bundle)

    process, log = launch("--bundle", str(bundle), "--port", "0", folder=tmp_path)

    assert process.wait(30) not in (0, None)
    *before, told = log.read_text().splitlines()
    assert len(before) <= 1, "one line, after that with the address"
    assert str(bundle) in told or MODEL in told
    assert "Traceback" not in log.read_text()
    assert not list(Path.cwd().glob("owned"))


# What is installed to serve


def locked() -> dict[str, list[str]]:
    """The hashes of each package of the locked runtime."""
    text = (ROOT / "requirements-serve.txt").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    found = {}
    for line in lines:
        told, *hashes = re.split(r"\s+--hash=", line.strip())
        requirement = Requirement(told)
        assert re.fullmatch(r"==[\w.]+", str(requirement.specifier)), f"{line} names no one version"
        found[canonicalize_name(requirement.name)] = hashes
    return found


def test_each_package_of_the_locked_runtime_has_its_hashes() -> None:
    for name, hashes in locked().items():
        assert hashes, f"{name} has no hash"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one.strip()) for one in hashes), name


def test_the_locked_runtime_holds_what_serving_needs_and_nothing_else() -> None:
    settings = (ROOT / "settings.ini").read_text()
    told = " ".join(re.findall(r"^(?:requirements|serve_requirements) = (.*)$", settings, re.M))
    wanted, needed = [Requirement(one) for one in told.split()], set()
    while wanted:
        requirement = wanted.pop()
        if canonicalize_name(requirement.name) not in needed:
            needed.add(canonicalize_name(requirement.name))
            for line in requires(requirement.name) or ():
                one = Requirement(line)
                extras = [{"extra": extra} for extra in requirement.extras] or [{"extra": ""}]
                if one.marker is None or any(one.marker.evaluate(extra) for extra in extras):
                    wanted.append(one)

    assert set(locked()) == needed
    assert not needed & {"scikit-learn", "pandas", "feature-engine", "scipy", "joblib", "cloudpickle", "pyyaml"}


def test_what_is_locked_can_be_looked_up_for_known_faults() -> None:
    """The data base of known faults is on the network; what can be held to here is that the command is told."""
    assert (
        "pip-audit --require-hashes --disable-pip -r requirements-serve.txt" in (ROOT / "CONTRIBUTING.md").read_text()
    )
