'use strict';
const inputs = [...document.querySelectorAll('input[data-name]')];
const base = new URL('.', location.href);
base.username = base.password = '';  // fetch refuses a URL that holds credentials

function record() {
  const values = {};
  for (const input of inputs) {
    const text = input.value;
    values[input.dataset.name] = text === '' ? null : input.dataset.kind === 'number' ? Number(text) : text;
  }
  return values;
}

function showCurl() {
  const quote = text => "'" + text.replaceAll("'", "'\\''") + "'";
  const key = facts.key ? ' -H "authorization: Bearer $KEY"' : '';
  at('curl').textContent = 'curl ' + quote(base + 'predict') + key +
    " -H 'content-type: application/json' -d " + quote(JSON.stringify({records: [record()]}));
}

function showResponse(reply) {
  if (reply.error) return showResult('No answer', reply.error.message, true);
  const answer = reply.predictions[0];
  if (reply.model.digest !== facts.digest) {
    at('quiet').textContent = 'Another model is serving now: reload this page.';
  }
  if (!answer.errors) {
    showPrediction(answer);
    if (answer.explanation) showExplanation(answer);
    return;
  }
  const rest = [];
  for (const error of answer.errors) {
    const input = inputs.find(each => each.dataset.name === error.field);
    if (input) markField(input, error.reason); else rest.push((error.field + ' ' + error.reason).trim());
  }
  const count = answer.errors.length - rest.length;
  const marked = count ? (count === 1 ? 'One field is' : count + ' fields are') + ' marked in the form.' : '';
  showResult('No answer', [marked, ...rest].join(' '), true);
  inputs.find(each => each.hasAttribute('aria-invalid'))?.focus();
}

async function submitForm(event) {
  event.preventDefault();
  const button = document.querySelector('button[type=submit]');
  inputs.forEach(input => markField(input, ''));
  const invalid = inputs.filter(input => input.validity.badInput);
  invalid.forEach(input => markField(input, input.dataset.kind === 'number' ? 'not a number' : 'not a date and time'));
  if (invalid.length) {
    invalid[0].focus();
    return showResult('No answer', 'What is marked in the form cannot be read.', true);
  }
  button.disabled = true;
  try {
    const body = JSON.stringify({records: [record()], explain: Boolean(facts.explain)});
    const reply = await fetch(base + 'predict', {method: 'POST', headers: {'content-type': 'application/json'}, body});
    showResponse(await reply.json());
  } catch (error) {
    showResult('No answer', 'The server cannot be reached: ' + error.message, true);
  } finally {
    button.disabled = false;
  }
  if (!inputs.some(each => each.hasAttribute('aria-invalid'))) at('answer').scrollIntoView({block: 'nearest'});
}

at('form').addEventListener('submit', submitForm);
at('form').addEventListener('input', showCurl);
at('form').addEventListener('reset', () => setTimeout(() => {
  inputs.forEach(input => markField(input, ''));
  showCurl();
}));
at('copy').addEventListener('click', () => {
  getSelection().selectAllChildren(at('curl'));
  document.execCommand('copy');
});
showCurl();

function readMetrics(text) {
  const samples = [];
  for (const line of text.split('\n')) {
    const parts = /^([\w:]+)(?:\{(.*)\})? (\S+)/.exec(line);
    if (!parts) continue;
    const labels = {};
    for (const pair of (parts[2] || '').matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) labels[pair[1]] = pair[2];
    samples.push({name: parts[1], labels, value: Number(parts[3])});
  }
  const select = (name, labels) => samples.filter(sample => sample.name === name &&
    Object.entries(labels).every(([key, value]) => sample.labels[key] === value));
  const sum = (name, labels = {}) => select(name, labels).reduce((total, sample) => total + sample.value, 0);
  const buckets = name => select(name + '_bucket', {})
    .map(({labels, value}) => [labels.le === '+Inf' ? Infinity : Number(labels.le), value]).sort((a, b) => a[0] - b[0]);
  return {time: performance.now() / 1000, requests: sum('requests_total', {path: '/predict'}),
    records: sum('records_total'), refused: sum('refused_total'), inFlight: sum('in_flight'),
    seconds: buckets('predict_seconds'), answers: buckets('answers')};
}

function quantile(share, now, before) {
  const counts = now.map(([le, count], place) => [le, count - (before[place]?.[1] || 0)]);
  const all = counts.length ? counts[counts.length - 1][1] : 0;
  if (!all) return 'none yet';
  const place = counts.findIndex(([, count]) => count >= share * all);
  const low = place ? counts[place - 1] : [0, 0], high = counts[place];
  const format = seconds => Number((1000 * seconds).toPrecision(2)) + ' ms';
  if (!place) return '< ' + format(high[0]);
  if (high[0] === Infinity) return '> ' + format(low[0]);
  return format(low[0] + (high[0] - low[0]) * (share * all - low[1]) / (high[1] - low[1]));
}

function drawBars(buckets) {
  const counts = buckets.map(([, count], place) => count - (place ? buckets[place - 1][1] : 0));
  const most = Math.max(...counts, 1), width = 300 / Math.max(counts.length, 1), nodes = [];
  counts.forEach((count, place) => {
    const height = 80 * count / most, from = place ? buckets[place - 1][0] : '', to = buckets[place][0];
    const bar = createElement('rect', {class: 'bar', x: place * width + 1, y: 90 - height, width: width - 2, height});
    const range = to === Infinity ? 'above ' + from : from === '' ? 'up to ' + to : from + ' to ' + to;
    bar.append(createElement('title', {}, range + ': ' + count.toLocaleString('en')));
    nodes.push(bar);
    if (place && (place === 1 || place === counts.length - 1 || place === Math.ceil(counts.length / 2))) {
      nodes.push(createElement('text', {x: place * width, y: 105, 'text-anchor': 'middle'}, String(from)));
    }
  });
  nodes.push(createElement('line', {class: 'base', x1: 0, x2: 300, y1: 90, y2: 90}));
  at('bars').replaceChildren(...nodes);
}

const snapshots = [];

async function refreshMetrics() {
  if (document.hidden) return;
  let now;
  try {
    const reply = await fetch(base + 'metrics');
    if (!reply.ok) throw new Error(reply.status);
    now = readMetrics(await reply.text());
  } catch (error) {
    at('quiet').textContent = 'No figures: the server did not return them (' + error.message + ').';
    return;
  }
  if (at('quiet').textContent.startsWith('No figures')) at('quiet').textContent = '';
  if (snapshots.length && now.requests < snapshots[snapshots.length - 1].requests) snapshots.length = 0;
  snapshots.push(now);
  while (snapshots[0].time < now.time - 60) snapshots.shift();
  const first = snapshots[0], before = snapshots[Math.max(0, snapshots.length - 4)];
  const format = count => count.toLocaleString('en');
  const rate = (now.records - before.records) / Math.max(now.time - before.time, 1e-3);
  const since = now.requests > first.requests ? first.seconds : [];
  at('requests').textContent = format(now.requests);
  at('rate').textContent = rate < 10 ? rate.toFixed(1) : format(Math.round(rate));
  at('p50').textContent = quantile(0.5, now.seconds, since);
  at('p99').textContent = quantile(0.99, now.seconds, since);
  at('refused').textContent = format(now.refused);
  at('flying').textContent = format(Math.max(0, now.inFlight - 1));
  drawBars(now.answers);
}

refreshMetrics();
setInterval(refreshMetrics, 2000);
