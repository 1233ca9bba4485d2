// The split, the guards and the ledger of a deployment, every second; and the buttons that decide.
"use strict";
const here = location.origin + location.pathname; // without a key that the address may hold
const silent = "the server does not answer";
const find = (id) => document.getElementById(id);
const percent = (value) => (value === null ? "" : `${(100 * value).toFixed(2)} %`);

function fill(id, rows) {
  const lines = rows.map((cells) => {
    const line = document.createElement("tr");
    line.append(...cells.map((text) => Object.assign(document.createElement("td"), { textContent: text })));
    return line;
  });
  find(id).tBodies[0].replaceChildren(...lines);
}

function bar(x, width, color, title) {
  const box = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  for (const [name, value] of Object.entries({ x, y: 0, width, height: 8, fill: color })) box.setAttribute(name, value);
  const label = document.createElementNS("http://www.w3.org/2000/svg", "title");
  label.textContent = title;
  box.append(label);
  return box;
}

function show({ state, counts, guards, ledger }) {
  const share = state.share;
  find("mode").textContent = state.plan.mode;
  const condition = state.over ? `over: ${state.decision}` : state.paused ? "paused" : "under way";
  find("condition").textContent = `The challenger answers ${percent(share)} of the requests; ${condition}.`;
  find("split").replaceChildren(
    bar(0, 300 * (1 - share), "#3b6ea5", `champion ${percent(1 - share)}`),
    bar(300 * (1 - share), 300 * share, "#d9822b", `challenger ${percent(share)}`),
  );
  fill("models", state.bundles.map(({ role, name, identity }) => {
    const of = counts[role];
    const numbers = [of.requests, of.failed, of.records, of.rejected, of.paired, of.changed];
    return [role, `${name} (${identity.slice(0, 12)})`, ...numbers.map((number) => number.toLocaleString("en"))];
  }));
  fill("guards", guards.map((one) => [
    one.guard + (one.tripped ? " (tripped)" : ""), percent(one.share), percent(one.champion), percent(one.bound), percent(one.limit),
  ]));
  fill("ledger", ledger.map((one) => [one.number, one.time.slice(0, 19).replace("T", " "), one.by, one.decision, percent(one.share), one.reason]));
}

async function ask(path, options) {
  try {
    const reply = await fetch(new URL(path, here), options);
    const values = await reply.json();
    if (reply.ok) show(values);
    if (!reply.ok) find("told").textContent = values.error.message;
    else if (options || find("told").textContent === silent) find("told").textContent = ""; // what a decision met with stays
  } catch {
    find("told").textContent = silent;
  }
}

for (const button of document.querySelectorAll("[data-decision]")) {
  button.addEventListener("click", () => ask(button.dataset.decision, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ reason: find("reason").value }),
  }));
}
const look = async () => {
  await ask("../deployment");
  setTimeout(look, 1000);
};
look();
