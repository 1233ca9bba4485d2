'use strict';  // how an answer is shown: by the server's page, and by the page that runs the model itself
const at = id => document.getElementById(id);
const facts = at('main').dataset;

function markField(input, reason) {
  at('e' + input.id.slice(1)).textContent = reason;
  if (reason) input.setAttribute('aria-invalid', 'true'); else input.removeAttribute('aria-invalid');
}

function showResult(big, detail, isError) {
  at('big').textContent = big;
  at('big').removeAttribute('title');
  at('big').classList.toggle('bad', Boolean(isError));
  at('told').textContent = detail;
  at('scale').toggleAttribute('hidden', true);
  at('why').toggleAttribute('hidden', true);
}

function createElement(name, attributes, text = '') {
  const node = document.createElementNS('http://www.w3.org/2000/svg', name);
  Object.entries(attributes).forEach(([key, value]) => node.setAttribute(key, value));
  node.textContent = text;
  return node;
}

function showExplanation(answer) {
  const pick = value => typeof value === 'object' ? value[String(answer.prediction)] : value;
  const all = Object.entries(answer.explanation.contributions).map(([name, value]) => [name, pick(value)]);
  const largest = all.sort((a, b) => Math.abs(b[1]) - Math.abs(a[1])).slice(0, 8).filter(([, value]) => value);
  const most = Math.max(...largest.map(([, value]) => Math.abs(value)), Number.MIN_VALUE), nodes = [];
  largest.forEach(([name, value], place) => {
    const width = 50 * Math.abs(value) / most, x = value < 0 ? 205 - width : 205, y = 20 * place;
    const text = (value < 0 ? '' : '+') + Number(value.toPrecision(3));
    const bar = createElement('rect', {class: value < 0 ? 'less' : 'bar', x, y: y + 3, width, height: 12});
    bar.append(createElement('title', {}, name + ' ' + text));
    nodes.push(createElement('text', {x: 0, y: y + 13}, name.length > 22 ? name.slice(0, 21) + '…' : name), bar,
      createElement('text', {class: 'number', x: 300, y: y + 13}, text.replace('-', '−')));
  });
  nodes.push(createElement('line', {class: 'base', x1: 205, x2: 205, y1: 0, y2: 20 * largest.length}));
  at('reasons').setAttribute('viewBox', '0 0 300 ' + Math.max(20, 20 * largest.length));
  at('reasons').setAttribute('aria-label', largest.map(([name, value]) => name + ' ' + value.toFixed(3)).join(', '));
  at('reasons').replaceChildren(...nodes);
  at('why').toggleAttribute('hidden', false);
}

function showPrediction(answer) {
  if (!answer.probabilities) {
    showResult(String(Number(answer.prediction.toPrecision(6))), facts.target);
    at('big').title = answer.prediction;
    return;
  }
  const percent = value => (100 * value).toFixed(1) + ' %', threshold = Number(facts.threshold);
  const ranked = Object.entries(answer.probabilities).sort((a, b) => b[1] - a[1]).slice(0, 5);
  const likely = ranked.map(([name, value]) => name + ' ' + percent(value)).join(', ');
  const binary = answer.probability !== undefined, chance = binary ? answer.probability : ranked[0][1];
  const from = binary ? ' (' + facts.positive + ' from ' + percent(threshold) + ' on)' : '';
  showResult(String(answer.prediction), facts.target + ': ' + likely + from);
  at('big').title = chance;
  at('fill').setAttribute('width', 100 * chance);
  at('mark').setAttribute('x', binary ? 100 * threshold : -1);
  at('scale').setAttribute('aria-label', percent(chance) + ' of 100 %');
  at('scale').toggleAttribute('hidden', false);
}
