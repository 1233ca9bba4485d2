"""The graph under construction: columns by name, what most steps need, the registry, and the finished file."""

from typing import Any

import numpy as np
import onnx
import pytest

from mlops_pkg.portable.graph import (
    EMITTERS,
    NO_TIME,
    Graph,
    UnsupportedError,
    add_outputs,
    as_matrix,
    drop,
    emit,
    emits,
    is_finite,
    is_missing,
    look_up,
    new_graph,
    open_session,
    put,
    require,
    require_finite,
    require_present,
    round_decimals,
    serialize,
    stack_columns,
    type_name,
    values_of,
)

INPUTS = {"wind": "number", "gust": "number", "carrier": "category", "at": "datetime"}


def make_graph() -> Graph:
    """Return a graph of two numbers, a text and a time."""
    return new_graph(INPUTS)


def answers(g: Graph, tensor: str, width: int = 1, **columns: list[Any]) -> np.ndarray[Any, Any]:
    """Return the values of a tensor for each row; fill the columns that are not given."""
    rows = len(next(iter(columns.values())))
    fill = {"wind": 0.0, "gust": 0.0, "carrier": "", "at": 0}
    kinds = {"wind": np.float64, "gust": np.float64, "carrier": object, "at": np.int64}
    add_outputs(g, tensor, tensor, width)
    feeds = {name: np.array(columns.get(name, [fill[name]] * rows), dtype=kinds[name]) for name in INPUTS}
    return np.asarray(open_session(serialize(g, INPUTS)).run(["margin"], feeds)[0])


def flags(g: Graph, condition: str) -> str:
    """Return booleans as numbers."""
    return g.op("Cast", condition, to=onnx.TensorProto.DOUBLE)


def test_equal_constants_are_kept_once() -> None:
    g = make_graph()

    names = [g.constant(1.5), g.constant(np.float64(1.5)), g.constant(1.5)]

    assert len(set(names)) == len(g.constants) == 1


@pytest.mark.parametrize("values", [(1, 1.0), (0.0, -0.0), (1.0, [1.0]), ("1", 1), (["a", "b"], ["b", "a"])])
def test_constants_that_differ_in_type_sign_or_shape_are_two(values: tuple[Any, Any]) -> None:
    g = make_graph()

    assert len({g.constant(value) for value in values}) == 2


@pytest.mark.parametrize(
    ("operator", "value"),
    [("Mul", 1 + 1e-9), ("Div", 1 + 1e-9), ("Mul", 1 - 2**-53), ("Div", 1 + 2**-52), ("Add", 1e-46), ("Sub", 1e-300)],
)
@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_constant_that_is_nearly_neutral_is_not_left_out(operator: str, value: float, shape: tuple[int, ...]) -> None:
    g = make_graph()
    rows = np.array([1.2345678, -3.0, 0.0]) * (1.0 if value > 0.5 else value)

    result = g.op(operator, g.op("Neg", "wind"), g.constant(np.full(shape, value)))

    operate = {"Mul": np.multiply, "Div": np.divide, "Add": np.add, "Sub": np.subtract}[operator]
    assert answers(g, result, wind=list(rows)).tolist() == operate(-rows, value).tolist()


def test_constants_that_are_neutral_or_far_from_it_cost_nothing() -> None:
    g = make_graph()

    for value in (0.0, 1.0, 0.5, 1e-40, 1.001):
        g.op("Mul", g.op("Add", "wind", g.constant(value)), g.constant(value))

    assert len(g.nodes) == 10


def test_a_column_that_is_set_again_keeps_its_place_and_a_new_one_comes_last() -> None:
    g = make_graph()

    put(g, "wind", g.op("Neg", "wind"))
    put(g, "calm", g.op("Neg", "gust"))

    assert list(g.columns) == ["wind", "gust", "carrier", "at", "calm"]
    assert g.columns["wind"].tensor != "wind"


def test_a_column_named_twice_is_dropped_once() -> None:
    g = make_graph()

    drop(g, ["gust", "gust", "at"])

    assert list(g.columns) == ["wind", "carrier"]


@pytest.mark.parametrize("name", ["carrier", "at"])
def test_text_and_times_are_no_numbers(name: str) -> None:
    with pytest.raises(UnsupportedError, match=f"column '{name}' holds te?i?[mx][et]t?, and a number is needed"):
        values_of(make_graph(), name)


def test_missing_is_nan_the_empty_text_and_no_time() -> None:
    g = make_graph()
    found = [is_missing(g, name) for name in ("wind", "carrier", "at")]
    together = g.op("Concat", *(g.op("Unsqueeze", flags(g, one), g.constant([1])) for one in found), axis=1)

    gaps = {"wind": [np.nan, np.inf, 0.0], "carrier": ["", " ", "nan"], "at": [NO_TIME, 0, -1]}
    held = answers(g, together, width=3, **gaps)

    assert held.tolist() == [[1, 1, 1], [0, 0, 0], [0, 0, 0]]
    assert np.array(["NaT"], "datetime64[us]").astype(np.int64)[0] == NO_TIME


def test_only_numbers_that_are_neither_missing_nor_infinite_are_finite() -> None:
    g = make_graph()

    held = answers(g, flags(g, is_finite(g, "wind")), wind=[np.nan, np.inf, -np.inf, 1.7e308, 5e-324, -0.0])

    assert held.tolist() == [0, 0, 0, 1, 1, 1]


def test_a_row_that_breaks_a_condition_is_nan_in_both_outputs() -> None:
    g = make_graph()
    require_present(g, ["carrier"])
    require_finite(g, ["wind"])
    add_outputs(g, "wind", "gust")
    session = open_session(serialize(g, INPUTS))

    columns = {"wind": [1.0, np.inf, 2.0], "gust": [3.0, 4.0, 5.0], "carrier": ["UA", "UA", ""], "at": [0, 0, 0]}
    dtypes = {"carrier": object, "at": np.int64}
    feeds = {name: np.array(values, dtype=dtypes.get(name, np.float64)) for name, values in columns.items()}
    margin, answer = session.run(["margin", "answer"], feeds)

    assert np.array_equal(margin, [1.0, np.nan, np.nan], equal_nan=True)
    assert np.array_equal(answer, [3.0, np.nan, np.nan], equal_nan=True)


def test_a_refused_row_is_nan_for_every_class() -> None:
    g = make_graph()
    require_finite(g, ["wind"])

    held = answers(g, stack_columns(g, ["wind", "gust"]), width=2, wind=[1.0, np.nan], gust=[2.0, 3.0])

    assert np.array_equal(held, [[1.0, 2.0], [np.nan, np.nan]], equal_nan=True)


def test_a_condition_is_asked_once() -> None:
    g = make_graph()

    for _ in range(2):
        require(g, "same")

    assert g.conditions == ["same"]


def test_a_number_or_an_array_among_the_inputs_of_an_operation_is_a_constant() -> None:
    g = make_graph()
    filled = g.op("Where", is_missing(g, "wind"), -1.0, "wind")

    held = answers(g, g.op("Mul", filled, np.array([2.0])), wind=[np.nan, 2.0, -np.inf])

    assert held.tolist() == [-2.0, 4.0, -np.inf]


def test_a_text_is_looked_up_as_it_is_written() -> None:
    g = make_graph()
    codes = {"UA": 0.1, "UA ": 2.0, "Þ9": 3.0, "ua": 4.0, "U\x00A": 5.0}

    held = answers(g, look_up(g, "carrier", codes, -1.0), carrier=[*codes, "", "U", "Þ"])

    assert held.tolist() == [*codes.values(), -1.0, -1.0, -1.0]


def test_a_number_is_looked_up_by_its_value() -> None:
    g = make_graph()
    codes = {0: 1.0, 0.1: 2.0, 1e300: 3.0}

    held = answers(g, look_up(g, "wind", codes, -1.0), wind=[0.0, -0.0, 0.1, np.nextafter(0.1, 1), 1e300, np.nan])

    assert held.tolist() == [1.0, 1.0, 2.0, -1.0, 3.0, -1.0]


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_columns_stand_side_by_side_in_the_order_in_which_they_are_named(rows: int) -> None:
    g = make_graph()
    wind, gust = np.arange(rows) * 1.0, np.arange(rows) * -1.0

    held = answers(g, stack_columns(g, ["gust", "wind"]), width=2, wind=list(wind), gust=list(gust))

    assert held.shape == (rows, 2)
    assert np.array_equal(held, np.stack([gust, wind], axis=1))


def test_the_matrix_is_made_once_and_takes_no_text() -> None:
    g = make_graph()
    with pytest.raises(UnsupportedError, match="column 'carrier' holds text"):
        as_matrix(g)
    drop(g, ["carrier", "at"])

    assert as_matrix(g) == as_matrix(g)


class Doubler:
    """Doubles every column."""


class Tripler(Doubler):
    """Does something else, although it is a subclass."""


@pytest.fixture
def doubler(monkeypatch: pytest.MonkeyPatch) -> Doubler:
    """Register a step for the time of a test."""
    monkeypatch.setattr("mlops_pkg.portable.graph.EMITTERS", EMITTERS)
    for kind in (Doubler, Tripler):
        monkeypatch.setattr(kind, "__module__", "toys.animals")
    before = dict(EMITTERS)

    @emits("toys.Doubler")
    def _(g: Graph, step: Any) -> None:
        for name in g.columns:
            put(g, name, g.op("Mul", values_of(g, name), g.constant(2.0)))

    yield Doubler()  # type: ignore[misc]
    EMITTERS.clear()
    EMITTERS.update(before)


def test_a_step_is_found_by_library_and_class(doubler: Doubler) -> None:
    g = make_graph()
    drop(g, ["carrier", "at"])

    emit(g, doubler, "twice")

    assert type_name(doubler) == "toys.Doubler"
    assert answers(g, g.columns["wind"].tensor, wind=[1.5, -2.0]).tolist() == [3.0, -4.0]


def test_a_subclass_is_not_mistaken_for_its_parent(doubler: Doubler) -> None:
    with pytest.raises(UnsupportedError, match=r"^step 'thrice' \(toys.Tripler\): not supported; of toys: Doubler$"):
        emit(make_graph(), Tripler(), "thrice")


def test_a_step_of_a_library_that_nobody_knows_is_refused() -> None:
    said = r"^step 'text' \(builtins.str\): not supported; give it an emitter with @emits\(.*\)$"
    with pytest.raises(UnsupportedError, match=said):
        emit(make_graph(), "anything", "text")


def test_the_error_of_a_step_names_the_step(doubler: Doubler) -> None:
    with pytest.raises(UnsupportedError, match=r"^step 'twice' \(toys.Doubler\): column 'carrier' holds text"):
        emit(make_graph(), doubler, "twice")


def test_columns_come_in_the_order_in_which_the_step_was_fitted(doubler: Doubler) -> None:
    g = make_graph()
    drop(g, ["carrier", "at"])
    doubler.feature_names_in_ = np.array(["gust", "wind"])  # type: ignore[attr-defined]

    emit(g, doubler, "twice")

    assert list(g.columns) == ["gust", "wind"]


@pytest.mark.parametrize(
    ("seen", "strange"),
    [(["wind"], "gust"), (["wind", "gust", "rain"], "rain"), (["wind", "rain"], "gust, rain")],
)
def test_a_step_that_was_fitted_on_other_columns_is_refused(doubler: Doubler, seen: list[str], strange: str) -> None:
    g = make_graph()
    drop(g, ["carrier", "at"])
    doubler.feature_names_in_ = np.array(seen)  # type: ignore[attr-defined]

    with pytest.raises(UnsupportedError, match=f"fitted on other columns than the steps before it give: {strange}$"):
        emit(g, doubler, "twice")


def test_the_answer_is_rounded_as_numpy_rounds() -> None:
    g = make_graph()
    values = np.r_[np.random.default_rng(0).random(2000), 0.5e-9, 1.5e-9, -2.5e-9, 1e300, -1e308, np.inf, np.nan]

    held = answers(g, round_decimals(g, "wind", 9), wind=list(values))

    with np.errstate(over="ignore"):
        assert np.array_equal(held, np.round(values, 9), equal_nan=True)


def test_a_column_needs_a_name() -> None:
    with pytest.raises(UnsupportedError, match="a column has no name"):
        new_graph({**INPUTS, "": "number"})


OWN = ["margin", "answer", ":answer", "constant:0", "Mul:0", ":Mul:0", "::constant:1"]


@pytest.mark.parametrize("names", [[], *([name] for name in OWN), OWN])
def test_a_column_may_have_the_name_of_any_other_tensor(names: list[str]) -> None:
    inputs = {**INPUTS, **dict.fromkeys(names, "number")}
    g = new_graph(inputs)
    total = "wind"
    for name in names:
        total = g.op("Add", g.op("Mul", total, g.constant(2.0)), name)
    add_outputs(g, total, total)

    session = open_session(serialize(g, inputs))

    feeds = {name: np.array([1.0]) for name, kind in inputs.items() if kind == "number"}
    found = session.run(None, {**feeds, "carrier": np.array([""], object), "at": np.array([0])})
    assert [item.name for item in session.get_inputs()] == list(inputs)
    assert [item.name.lstrip(":") for item in session.get_outputs()] == ["margin", "answer"]
    assert [values.tolist() for values in found] == [[2.0 ** (len(names) + 1) - 1]] * 2


@pytest.mark.parametrize("name", ["wind speed", "wind/é\n", "'", "x" * 300])
def test_any_other_name_will_do(name: str) -> None:
    g = new_graph({name: "number"})
    add_outputs(g, name, name)

    session = open_session(serialize(g, {name: "number"}))

    assert session.run(["answer"], {name: np.array([0.25])})[0].tolist() == [0.25]


def test_a_file_says_what_it_needs_and_nothing_of_the_machine() -> None:
    g = make_graph()
    add_outputs(g, "wind", "gust")

    made = onnx.load_from_string(serialize(g, INPUTS))

    assert {(opset.domain, opset.version) for opset in made.opset_import} == {("", 19), ("ai.onnx.ml", 5)}
    assert (made.ir_version, made.producer_name, made.producer_version) == (10, "mlops_pkg", "")
    assert [value.name for value in made.graph.input] == list(INPUTS)
    assert [value.name for value in made.graph.output] == ["margin", "answer"]


def test_no_constant_is_left_over() -> None:
    g = make_graph()
    add_outputs(g, g.op("Mul", "wind", g.constant(1 + 1e-9)), "gust")

    made = onnx.load_from_string(serialize(g, INPUTS))

    taken = {name for node in made.graph.node for name in node.input}
    assert {constant.name for constant in made.graph.initializer} <= taken


@pytest.mark.filterwarnings("error")
def test_a_constant_that_no_32_bit_float_can_hold_is_as_good_as_any() -> None:
    g = make_graph()

    held = answers(g, g.op("Mul", "wind", g.constant(1e308)), wind=[0.5, -1.0])

    assert held.tolist() == [5e307, -1e308]


def test_equal_graphs_are_equal_bytes() -> None:
    contents = set()
    for _ in range(2):
        g = make_graph()
        add_outputs(g, look_up(g, "carrier", {"UA": 1.0, "B6": 2.0}, 0.0), "gust")
        contents.add(serialize(g, INPUTS))

    assert len(contents) == 1
