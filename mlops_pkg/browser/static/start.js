// The page: a form for one record, and a file of records. `at`, `facts` and the show functions are those of answer.js.

import * as ort from './ort.js';
import {Model} from './model.js';
import {Mistake, parseIso} from './records.js';
import {decode, readTable} from './table.js';

const SHOWN = 20;  // rows of a scored file
const element = (name, attributes = {}, ...children) => {
  const node = document.createElement(name);
  Object.entries(attributes).forEach(([key, value]) => value !== null && node.setAttribute(key, value));
  node.append(...children);
  return node;
};

const inputs = () => [...document.querySelectorAll('input[data-name]')];

function valueOf(input) {
  if (input.validity.badInput) return new Mistake(input.dataset.kind === 'number' ? 'not a number' : 'not a date and time');
  if (input.value === '') return null;
  return {number: Number, datetime: parseIso, category: String}[input.dataset.kind](input.value);
}

// The answer to the first record in the shape of the endpoint's responses, which answer.js shows.
function asResponse(model, answer, explanation) {
  const names = model.site.class_names;
  if (!names.length) return {prediction: answer.value, ...explanation};
  const probabilities = Object.fromEntries(names.map((name, place) => [name, answer.probabilities[place]]));
  const binary = names.length === 2 ? {probability: answer.probabilities[1]} : {};
  return {prediction: names[answer.place], probabilities, ...binary, ...explanation};
}

async function explain(model, columns) {
  if (!model.terms) return {};
  const {contributions} = await model.explain(columns, 0), names = model.site.class_names;
  const shaped = values => values.length > 1 ? Object.fromEntries(names.map((name, place) => [name, values[place]])) : values[0];
  return {explanation: {contributions: Object.fromEntries(Object.entries(contributions).map(([name, values]) => [name, shaped(values)]))}};
}

async function predictOne(model) {
  inputs().forEach(input => markField(input, ''));
  const columns = Object.fromEntries(inputs().map(input => [input.dataset.name, [valueOf(input)]]));
  const {answers: [answer], rejects} = await model.predict(columns);
  if (answer) {
    const response = asResponse(model, answer, await explain(model, columns));
    showPrediction(response);
    if (response.explanation) showExplanation(response);
    return;
  }
  rejects.forEach(({field, reason}) => {
    const input = inputs().find(each => each.dataset.name === field);
    if (input) markField(input, reason);
  });
  showResult('No answer', rejects.every(each => each.field) ? 'What is wrong is marked in the form.' : rejects[0].reason, true);
  inputs().find(each => each.hasAttribute('aria-invalid'))?.focus();
}

function offer(link, name, text) {
  URL.revokeObjectURL(link.href);
  link.href = URL.createObjectURL(new Blob([text], {type: 'text/csv'}));
  link.download = name;
  link.toggleAttribute('hidden', false);
}

function showFirst(text) {
  const rows = text.split('\n').slice(0, SHOWN + 1).filter(Boolean).map(line => line.split(','));
  const cells = (row, tag) => element('tr', {}, ...row.map(cell => element(tag, {}, cell)));
  at('scored').replaceChildren(element('table', {}, cells(rows[0], 'th'), ...rows.slice(1).map(row => cells(row, 'td'))));
  at('scored').toggleAttribute('hidden', false);
}

const pause = () => new Promise(done => setTimeout(done));  // lets the browser paint

async function predictFile(model, file) {
  for (const id of ['answers', 'rejects', 'scored']) at(id).toggleAttribute('hidden', true);
  at('tally').textContent = `${file.name}: being read`;
  await pause();
  const text = decode(new Uint8Array(await file.arrayBuffer()), model.site.encoding);
  const {columns, rejects: known} = readTable(text, model.signature), count = value => value.toLocaleString('en');
  const {answers, rejects} = await model.predict(columns, known, async (done, all) => {
    at('tally').textContent = `${file.name}: ${count(done)} of ${count(all)} rows`;
    await pause();
  });
  const stem = file.name.replace(/\.[^.]*$/, ''), scored = model.writeAnswers(answers), refused = answers.filter(one => !one).length;
  at('tally').textContent = `${file.name}: ${count(answers.length)} rows: ${count(answers.length - refused)} answered, ${count(refused)} rejected`;
  offer(at('answers'), `${stem}.predictions.csv`, scored);
  if (rejects.length) offer(at('rejects'), `${stem}.rejects.csv`, Model.writeRejects(rejects));
  showFirst(scored);
}

// Run a handler, and show a mistake of the user, or a fault, in place of an answer.
async function guarded(work, show) {
  try {
    await work();
  } catch (error) {
    show(error instanceof Mistake ? error.message : `The model has failed: ${error.message}`);
  }
}

async function start() {
  const model = await Model.open(ort, async name => {
    const reply = await fetch(name);
    if (!reply.ok) throw new Error(`${name}: ${reply.status} ${reply.statusText}`);
    return new Uint8Array(await reply.arrayBuffer());
  });
  const fail = text => showResult('No answer', text, true);
  at('form').addEventListener('submit', event => {
    event.preventDefault();
    guarded(() => predictOne(model), fail);
  });
  at('form').addEventListener('reset', () => setTimeout(() => inputs().forEach(input => markField(input, ''))));
  at('file').addEventListener('change', ({target}) => target.files.length &&
    guarded(() => predictFile(model, target.files[0]), text => { at('tally').textContent = `${target.files[0].name}: ${text}`; }));
  showResult('?', 'Fill in the form and press the button.');
  document.querySelector('button[type=submit]').disabled = at('file').disabled = false;
}

guarded(start, text => showResult('No model', text, true));
