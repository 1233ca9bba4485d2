"""Settings: from three sources, strict, and each mistake told in one line."""

import hashlib
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mlops_pkg.serving.settings import (
    Key,
    Settings,
    SettingsError,
    authenticate,
    is_loopback,
    load_settings,
    new_key,
    show_settings,
)

DIGEST = "0" * 64
KEYS = {"SERVE_KEYS": f"planning:{DIGEST}"}


def said(
    flags: dict[str, Any], text: str | None = None, environ: dict[str, str] | None = None, folder: Path | None = None
) -> list[str]:
    """The lines that a start ends with."""
    file = None
    if text is not None:
        assert folder is not None
        file = folder / "serve.toml"
        file.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_settings(flags, file, environ or {})
    return str(caught.value).replace(f"{folder}/", "").splitlines()


def test_a_flag_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "serve.toml"
    file.write_text("port = 1\nworkers = 2\nmax_records = 3\n")
    environ = {"SERVE_PORT": "4", "SERVE_WORKERS": "5", "OTHER": "6"}
    settings = load_settings({"port": 7, "host": None}, file, environ)
    assert (settings.port, settings.workers, settings.max_records, settings.max_rows) == (7, 5, 3, 100_000)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("port", "0", 0),
        ("partial", "false", False),
        ("log_values", "true", True),
        ("header_seconds", "0.5", 0.5),
        ("header_seconds", "1e-1", 0.1),
        ("header_seconds", "3", 3.0),
        ("bundle", "some where", Path("some where")),
        ("log", "log.json", Path("log.json")),
        ("host", "::1", "::1"),
        ("keys", f"a:{DIGEST}, b:{'1' * 64}", (Key(name="a", sha256=DIGEST), Key(name="b", sha256="1" * 64))),
        ("keys", "", ()),
        ("cors", "https://a.example, http://localhost:3000", ("https://a.example", "http://localhost:3000")),
    ],
)
def test_the_environment_tells_every_kind_of_value(name: str, text: str, value: object) -> None:
    assert getattr(load_settings({}, environ={f"SERVE_{name.upper()}": text}), name) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("port", "http"),
        ("port", "80.5"),
        ("port", ""),
        ("port", "1_000"),
        ("port", "٣"),
        ("port", "70000"),
        ("port", "-1"),
        ("workers", "0"),
        ("header_seconds", "nan"),
        ("header_seconds", "inf"),
        ("header_seconds", "0"),
        ("header_seconds", "1.2.3"),
        ("partial", "yes"),
        ("partial", "True"),
        ("partial", "1"),
        ("host", ""),
        ("max_records", "99999999999999999999"),
    ],
)
def test_a_text_of_the_environment_that_is_no_value_is_refused_with_its_variable(name: str, text: str) -> None:
    (line,) = said({}, environ={f"SERVE_{name.upper()}": text})
    assert line.startswith(f"SERVE_{name.upper()} = ")
    assert text in line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('port = "80"', 'serve.toml: port = "80": input should be a valid integer'),
        ("port = true", "serve.toml: port = true: input should be a valid integer"),
        ("partial = 1", "serve.toml: partial = 1: input should be a valid boolean"),
        ("workers = 0", "serve.toml: workers = 0: input should be greater than or equal to 1"),
        ("header_seconds = inf", "serve.toml: header_seconds = Infinity: input should be a finite number"),
        ("bundle = 3", "serve.toml: bundle = 3: input is not a valid path"),
        ('cors = "https://a.example"', 'serve.toml: cors = "https://a.example": input should be a valid tuple'),
        ("prot = 80", "serve.toml: prot: unknown setting; did you mean 'port'?"),
        ("[server]\nport = 80", "serve.toml: server: unknown setting; did you mean 'log'?"),
    ],
)
def test_a_value_of_the_file_is_taken_as_it_is_or_refused(tmp_path: Path, text: str, line: str) -> None:
    found = said({}, text, folder=tmp_path)
    assert len(found) == 1
    assert found[0].startswith(line.partition("; did")[0])


def test_a_misspelt_variable_is_refused_with_the_nearest() -> None:
    assert said({}, environ={"SERVE_MAX_RECORD": "1"}) == [
        "SERVE_MAX_RECORD: unknown setting; did you mean 'SERVE_MAX_RECORDS'?"
    ]
    (line,) = said({}, environ={"SERVE_ZEBRA": "1"})
    assert "valid names: bundle, host, port" in line
    (line,) = said({}, environ={"serve_port": "1"})
    assert line == "serve_port: unknown setting; did you mean 'SERVE_PORT'?"


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    lines = said({"port": -1}, "prot = 1\nworkers = 0\n", {"SERVE_PARTIAL": "no"}, tmp_path)
    assert [line.partition(" ")[0] for line in lines] == ["serve.toml:", "--port", "serve.toml:", "SERVE_PARTIAL"]


@pytest.mark.parametrize("text", ["port = ", "port = 1\nport = 2\n", "port"])
def test_a_file_that_is_not_toml_is_told_with_the_place(tmp_path: Path, text: str) -> None:
    (line,) = said({}, text, folder=tmp_path)
    assert line.startswith("serve.toml: not TOML: ")
    assert "(at " in line


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    for file, why in ((tmp_path / "none", "no such file or directory"), (tmp_path, "is a directory")):
        with pytest.raises(SettingsError, match=why):
            load_settings({}, file, {})
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="not TOML"):
        load_settings({}, tmp_path / "bytes", {})


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "10.1.2.3", "fe80::1", "a.example", "localhost.a.example", "*", "LOCALHOST"]
)
def test_an_address_that_others_reach_needs_a_key(host: str) -> None:
    (line,) = said({"host": host})
    assert line.startswith(f'--host = "{host}": others can reach it, and there are no keys')
    assert "--new-key" in line
    assert load_settings({"host": host}, environ=KEYS).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_an_address_of_this_machine_alone_needs_none(host: str) -> None:
    assert is_loopback(host)
    assert load_settings({"host": host}, environ={}).keys == ()


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "null",
        "a.example",
        "https://a.example/",
        "https://a.example/page",
        "https://A.example",
        "ftp://a",
        "https://",
        "https://a b",
        "https://a.example:",
        "https://a@b",
        "https://a.example\n",
    ],
)
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(ValidationError):
        Settings(cors=(origin,))


@pytest.mark.parametrize(
    "origin", ["https://a.example", "http://localhost:3000", "http://127.0.0.1", "https://[::1]:8443"]
)
def test_an_origin_is_taken(origin: str) -> None:
    assert Settings(cors=(origin,)).cors == (origin,)


def test_a_body_that_no_memory_would_take_is_refused() -> None:
    (line,) = said({}, environ={"SERVE_MAX_WAITING_BYTES": "2000000"})
    assert line.startswith("default: max_arrow_bytes = 67108864: more than max_waiting_bytes, 2000000")


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1


# Keys


def test_a_key_is_random_and_only_its_digest_is_stored() -> None:
    made = [new_key("planning") for _ in range(100)]
    assert len({key for key, _ in made}) == 100
    key, stored = made[0]
    assert len(key) == 43  # 256 bits
    assert stored.sha256 == hashlib.sha256(key.encode()).hexdigest()
    assert key not in repr(stored)


def test_each_of_several_keys_is_known_by_its_name() -> None:
    (one, first), (two, second) = new_key("old"), new_key("new")
    keys = (first, second)
    assert [authenticate(key, keys) for key in (one, two, one + "a", one[:-1], "", "\udcff")] == [
        "old",
        "new",
        *[None] * 4,
    ]
    assert authenticate(one, ()) is None


def test_every_digest_is_compared_whatever_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    import hmac

    compared: list[str] = []
    whole = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append(b) or whole(a, b))
    made = [new_key(f"key{number}") for number in range(5)]
    keys = tuple(stored for _, stored in made)
    for key in (made[0][0], made[4][0], "guess"):
        compared.clear()
        authenticate(key, keys)
        assert compared == [one.sha256 for one in keys]


@pytest.mark.parametrize("name", ["", "a b", "a" * 65, 'a"', "a\n", "ä"])
def test_a_name_that_would_not_fit_into_a_log_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="--new-key"):
        new_key(name)


@pytest.mark.parametrize(
    "text",
    [
        'keys = [{name = "a", sha256 = "SECRET"}]',
        f'keys = [{{name = "a b SECRET", sha256 = "{DIGEST}"}}]',
        'keys = [{name = "a", key = "SECRET"}]',
        'keys = ["SECRET"]',
        'keys = "SECRET"',
        f'keys = [{{name = "SECRET", sha256 = "{DIGEST.replace("0", "A")}"}}]',
    ],
)
def test_a_key_in_the_place_of_its_digest_is_not_told(tmp_path: Path, text: str) -> None:
    lines = said({}, text, folder=tmp_path)
    assert all(line.startswith("serve.toml: keys") and "--new-key" in line for line in lines)
    assert "SECRET" not in "".join(lines)


def test_a_key_stands_once() -> None:
    one, two = f"a:{DIGEST}", f"b:{'1' * 64}"
    for environ in (f"{one},{two},a:{'2' * 64}", f"{one},{two},c:{DIGEST}"):
        (line,) = said({}, environ={"SERVE_KEYS": environ})
        assert line.startswith("SERVE_KEYS: the ")
        assert "of key 3" in line
        assert DIGEST not in line
    (line,) = said({}, environ={"SERVE_KEYS": "a"})
    assert line.startswith("SERVE_KEYS[0]")


# What is in force


def test_what_is_shown_is_read_back(tmp_path: Path) -> None:
    settings = Settings(
        bundle=Path('a "quoted" föld\ner'), port=1, partial=False, header_seconds=0.1, cors=("https://a.example",)
    )
    file = tmp_path / "serve.toml"
    file.write_text(show_settings(settings), encoding="utf-8")
    assert load_settings({}, file, {}) == settings
    assert set(tomllib.loads(show_settings(settings))) == set(Settings.model_fields) - {
        "log",
        "deployment",
        "prediction_log",
    }


@pytest.mark.parametrize("name", ["keys", "admin_keys", "reviewer_keys"])
def test_what_is_shown_holds_no_digest(name: str) -> None:
    settings = Settings.model_validate({name: (Key(name="planning", sha256=DIGEST),)})
    assert "planning" in show_settings(settings)
    assert DIGEST not in show_settings(settings)


def test_every_setting_says_what_it_is() -> None:
    assert all(field.description for field in Settings.model_fields.values())
