// One case at a time; a key labels it, and the next one appears. Labels of one character are their own keys.
"use strict";
const here = location.origin + location.pathname; // without a key that the address may hold
const find = (id) => document.getElementById(id);
let busy = false;
let present = null;

function row([name, value]) {
  const line = document.createElement("tr");
  line.append(...[name, value === null ? "missing" : String(value)].map((text) => Object.assign(document.createElement("td"), { textContent: text })));
  return line;
}

function show({ case: found, target, labels, progress }) {
  present = found;
  const kappa = progress.kappa === null ? "" : `; agreement (kappa) ${progress.kappa.toFixed(2)} on ${progress.twice} cases`;
  find("progress").textContent = `${progress.waiting} cases wait, ${progress.labelled} are labelled${kappa}`;
  find("number").textContent = found ? `no. ${found.number}` : "";
  find("question").textContent = found ? `What is ${target}?` : "No case waits for you";
  find("fields").tBodies[0].replaceChildren(...(found ? Object.entries(found.inputs).map(row) : []));
  find("shown").textContent = found && found.shown ? opinion(found.shown) : "";
  const plain = labels.every((label) => label.length === 1);
  const buttons = labels.map((label, place) => {
    const key = plain ? label : String(place + 1);
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: plain ? label : `${key}: ${label}` });
    button.addEventListener("click", () => decide(label));
    Object.assign(button.dataset, { label, key });
    return button;
  });
  find("labels").replaceChildren(...(found ? buttons : []));
}

function opinion({ prediction, probabilities }) {
  const chance = probabilities ? `, with a probability of ${(100 * probabilities[prediction]).toFixed(1)} %` : "";
  return `The model says ${prediction}${chance}.`;
}

async function ask(path, options) {
  if (busy) return;
  busy = true;
  try {
    const reply = await fetch(new URL(path, here), options);
    const values = await reply.json();
    find("told").textContent = reply.ok ? "" : values.error.message;
    if (reply.ok) show(values);
  } catch {
    find("told").textContent = "the server does not answer; your label is not stored";
  } finally {
    busy = false;
  }
}

const decide = (label) => ask(String(present.number), {
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify({ label }),
});

addEventListener("keydown", (event) => {
  const button = [...find("labels").children].find((one) => one.dataset.key === event.key);
  if (button && present && !event.repeat && !event.ctrlKey && !event.metaKey && !event.altKey) decide(button.dataset.label);
});
setInterval(() => {
  if (!present) ask("../cases");
}, 5000);
ask("../cases");
