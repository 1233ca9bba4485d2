"""Figures of the servers as goals, a table and a chart."""

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

OURS, EMPTY, CONSTANT, BARE = "this server", "empty route", "this server, constant graph", "empty ASGI app"
CLIENTS, ARROW_CLIENTS = ("1", "16", "256"), ("1", "4")
Rounds = dict[str, list[dict[str, Any]]]  # by server


def at(figures: dict[str, Any], name: str, clients: str = "16") -> float:
    """A figure of a server with some clients."""
    return float(figures["clients"][clients][name])


def ratio(rounds: Rounds, other: str, name: str, clients: str = "16") -> float | None:
    """The median of this server's figure over another's within a round; None without the other."""
    if other not in rounds:
        return None
    pairs = zip(rounds[OURS], rounds[other], strict=True)
    return median(at(mine, name, clients) / at(theirs, name, clients) for mine, theirs in pairs)


def arrow_ratio(rounds: Rounds) -> float:
    """Rows a second of the server over those of the bare graph, with as many clients as suit it best."""
    return max(
        median(
            one["arrow"][clients]["rows_per_second"] / one["arrow"][clients]["graph_rows_per_second"]
            for one in rounds[OURS]
        )
        for clients in ARROW_CLIENTS
    )


def mine(name: str) -> Callable[[Rounds], float]:
    """A figure of this server."""
    return lambda rounds: median(one[name] for one in rounds[OURS])


# what is meant, its figure, the goal, and whether more is better
GOALS: tuple[tuple[str, Callable[[Rounds], float | None], float, bool], ...] = (
    ("requests/s of MLflow, 16 clients", lambda r: ratio(r, "MLflow", "requests_per_second"), 100, True),
    ("requests/s of the empty route, 16 clients", lambda r: ratio(r, EMPTY, "requests_per_second"), 0.6, True),
    ("p99 of the empty route, 16 clients", lambda r: ratio(r, EMPTY, "p99_ms"), 3, False),
    ("requests/s of the empty ASGI app, 16 clients", lambda r: ratio(r, BARE, "requests_per_second"), 0.3, True),
    ("p50 of the empty ASGI app, 1 client", lambda r: ratio(r, BARE, "p50_ms", "1"), 3, False),
    ("Arrow rows/s of the bare graph", arrow_ratio, 0.8, True),
    ("memory of a worker, MB", mine("rss_mb"), 100, False),
    ("start to ready, seconds", mine("start_seconds"), 1, False),
)


def goals(rounds: Rounds) -> list[dict[str, Any]]:
    """Each goal with its figure, and whether it is reached; None where it was not measured."""
    found: list[dict[str, Any]] = []
    for name, figure, goal, more in GOALS:
        value = figure(rounds)
        reached = None if value is None else value >= goal if more else value <= goal
        text = None if value is None else float(f"{value:.3g}")
        found.append({"goal": name, "at_least" if more else "at_most": goal, "found": text, "reached": reached})
    return found


def plain(value: float | None, digits: int = 0) -> str:
    """A number for people; a dash for none."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.{max(digits, int(abs(value) < 10))}f}"


def table(figures: dict[str, Any]) -> str:
    """Servers, Arrow and goals as Markdown."""
    lines = [
        "| one record per request | requests/s: 1 client | 16 | 256 | p50 ms, 16 | p99 ms, 16 | CPU ms per request | "
        "memory MB | ready after s | answers |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for name, one in figures["servers"].items():
        rates = [plain(one["clients"][clients]["requests_per_second"]) for clients in CLIENTS]
        cells = [
            name, *rates, plain(at(one, "p50_ms"), 1), plain(at(one, "p99_ms"), 1),
            plain(at(one, "cpu_seconds_per_1000_requests"), 2), plain(one["rss_mb"]),
            plain(one["start_seconds"], 2), said(one.get("answers")),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    arrow, after = figures["servers"][OURS]["arrow"], figures["servers"][OURS]["after_arrow"]
    lines += [
        "",
        f"| Arrow, {arrow['rows_a_body']:,} rows per request | rows/s | bare graph | CPU ms per 1,000 rows |",
        "| --- | ---: | ---: | ---: |",
    ]
    for clients in ARROW_CLIENTS:
        one = arrow[clients]
        cost = one["cpu_seconds_per_1000_requests"] / arrow["rows_a_body"] * 1000
        rates = f"{plain(one['rows_per_second'])} | {plain(one['graph_rows_per_second'])} | {plain(cost, 2)}"
        lines.append(f"| {clients} client{'s' * (clients != '1')} | {rates} |")
    two, mine_ = figures["several_workers"], figures["servers"][OURS]
    lines += [
        "",
        f"Memory of a worker: {plain(mine_['rss_mb'])} MB resident, {plain(mine_['pss_mb'])} MB its share (PSS); "
        f"of two workers the larger {plain(two['rss_mb'])} and {plain(two['pss_mb'])} MB; "
        f"after Arrow bodies {plain(after['rss_mb'])} and {plain(after['pss_mb'])} MB.",
        generator(figures),
        "",
        "| goal | | measured | |",
        "| --- | ---: | ---: | --- |",
    ]
    for one in figures["goals"]:
        wanted = f"≥ {one['at_least']:g}" if "at_least" in one else f"≤ {one['at_most']:g}"
        lines.append(f"| {one['goal']} | {wanted} | {plain(one['found'], 2)} | {verdict(one)} |")
    return "\n".join(lines)


def generator(figures: dict[str, Any]) -> str:
    """How far the load itself can be trusted."""
    loads = [one for server in figures["servers"].values() for one in server["clients"].values()]
    busy, failed = max(one["generator_busy"] for one in loads), sum(one["failed"] for one in loads)
    text = f"The load kept its core busy for at most {busy:.0%}; {failed:,.0f} requests failed."
    wrk = figures["servers"][OURS]["wrk_requests_per_second"]
    if wrk:
        own = at(figures["servers"][OURS], "requests_per_second")
        text += f" With 16 clients wrk finds {plain(wrk)} requests/s where this load finds {plain(own)}."
    return text


def verdict(goal: dict[str, Any]) -> str:
    """Reached, or missed by how much."""
    if goal["reached"] is None:
        return "not measured"
    if goal["reached"]:
        return "reached"
    wanted = goal.get("at_least", goal.get("at_most"))
    return f"missed by {abs(goal['found'] / wanted - 1):.0%}"


def said(answers: dict[str, Any] | None) -> str:
    """How the answers compare with the fitted pipeline's."""
    if answers is None:
        return "none: no model"
    if answers["equal"] == answers["records"]:
        return "equal to the last digit"
    same = "equal when rounded to 9 digits" if answers["largest_difference"] <= 5.1e-10 else "DIFFERENT"
    return f"{same}, {answers['labels_equal']:g} of {answers['records']:g} labels"


def draw(figures: dict[str, Any], path: Path) -> None:
    """The chart: requests a second and the slowest of a hundred replies, by server and number of clients."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style = {"svg.fonttype": "none", "svg.hashsalt": "serving", "font.size": 9}
    bare = {"axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False}
    servers = dict(sorted(figures["servers"].items(), key=lambda one: -at(one[1], "requests_per_second")))
    charts = {
        "requests_per_second": ("Requests a second (log scale)", 0),
        "p99_ms": ("p99 in milliseconds (log scale)", 1),
    }
    colors = {"1": "#93c5fd", "16": "#2563eb", "256": "#1e3a8a"}
    with rc_context({**style, **bare}):
        canvas = Figure(figsize=(9, 0.62 * len(servers) + 1.1), layout="constrained", facecolor="white")
        for ax, (key, (title, digits)) in zip(canvas.subplots(1, 2, sharey=True), charts.items(), strict=True):
            for place, clients in enumerate(CLIENTS):
                values = [one["clients"][clients][key] for one in servers.values()]
                rows = [row + 0.27 * (place - 1) for row in range(len(servers))]
                bars = ax.barh(rows, values, height=0.24, color=colors[clients], label=clients)
                ax.bar_label(bars, [plain(value, digits) for value in values], padding=3, fontsize=8)
            ax.set_xscale("log")
            low, high = ax.get_xlim()
            ax.set_xlim(min(low, 1 if key == "requests_per_second" else 0.1), high * 4)
            ax.xaxis.set_major_formatter("{x:,.7g}")
            ax.set_yticks(range(len(servers)), [name.replace(", ", ",\n") for name in servers])
            ax.tick_params(axis="y", length=0)
            ax.set_title(title, loc="left")
        ax.invert_yaxis()
        handles, labels = ax.get_legend_handles_labels()
        canvas.legend(handles, labels, title="clients", loc="outside lower center", ncols=3, frameon=False)
        canvas.savefig(path, metadata={"Date": None})
