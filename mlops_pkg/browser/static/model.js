// The model of the bundle, run by onnxruntime in WebAssembly: the graph and nothing else computes a prediction.

import {floatText, readColumns, roundEven} from './records.js';
import {writeCsv} from './table.js';

const CHUNK = 8192, DECIMALS = 1e9;
const TYPES = {category: 'string', number: 'float64', datetime: 'int64'};
const ARRAYS = {category: values => values, number: values => Float64Array.from(values), datetime: values => BigInt64Array.from(values)};
const NO_ANSWER = 'the model has no answer to this record';

const roundNine = value => roundEven(value * DECIMALS) / DECIMALS;  // to 9 decimals, as numpy rounds

async function checkDigest(name, content, digest) {
  if (!globalThis.crypto?.subtle) return;  // a page that is served over plain http may not compute digests
  const found = new Uint8Array(await crypto.subtle.digest('SHA-256', content));
  const text = Array.from(found, byte => byte.toString(16).padStart(2, '0')).join('');
  if (text !== digest) throw new Error(`${name}: changed since this page was written; write it again with mlops_pkg page`);
}

// The terms of an explanation, as browser/site.py writes them: numbers in one array, and where each part of it begins.
function openTerms(facts, content) {
  const numbers = new Float64Array(content.buffer, content.byteOffset, content.byteLength / 8);
  return {...facts, at: ([first, count]) => numbers.subarray(first, first + count)};
}

// What each feature of one row adds to each target: bundle/explanation.py has the same sums.
function contributionsOf(terms, x) {
  const {features, targets} = terms, total = new Float64Array(features * targets);
  if (terms.coefficients) {
    const coefficients = terms.at(terms.coefficients), means = terms.at(terms.means);
    return total.map((_, place) => coefficients[place] * (x[place % features] - means[place % features]));
  }
  for (const group of terms.groups) {
    const part = Object.fromEntries(Object.entries(group.parts).map(([name, where]) => [name, terms.at(where)]));
    const {depth, leaves, points} = group, difference = new Float64Array(depth), sum = new Float64Array(depth);
    for (let leaf = 0; leaf < leaves; leaf += 1) {
      for (let d = 0; d < depth; d += 1) {
        const cell = d * leaves + leaf, value = x[part.place[cell] % features];
        const passes = Number.isNaN(value) ? part.missing[cell] : +(value <= part.high[cell] && !(value <= part.low[cell]));
        difference[d] = passes - part.zero[cell];
      }
      sum.fill(0);
      for (let point = 0; point < points; point += 1) {
        const node = part.nodes[point];
        let product = 1;
        for (let d = 0; d < depth; d += 1) product *= node * difference[d] + part.zero[d * leaves + leaf];
        product *= part.weights[point * leaves + leaf];
        for (let d = 0; d < depth; d += 1) sum[d] += product / (node * difference[d] + part.zero[d * leaves + leaf]);
      }
      for (let d = 0; d < depth; d += 1) total[part.place[d * leaves + leaf]] += difference[d] * sum[d];
    }
  }
  return total;
}

export class Model {
  constructor(site, session, terms, ort) {
    Object.assign(this, {site, signature: site.signature, session, terms, ort});
    this.outputs = Object.fromEntries(session.outputNames.map(name => [name.replace(/^:/, ''), name]));
  }

  // The model of a site; `read` returns the bytes of one of its files.
  static async open(ort, read) {
    const site = JSON.parse(new TextDecoder().decode(await read('site.json')));
    const content = Object.fromEntries(await Promise.all(Object.keys(site.files).map(async name => [name, await read(name)])));
    for (const [name, digest] of Object.entries(site.files)) await checkDigest(name, content[name], digest);
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmBinary = content[site.wasm];
    const session = await ort.InferenceSession.create(content['model.onnx']);
    return new Model(site, session, site.terms && openTerms(site.terms, content['terms.bin']), ort);
  }

  async run(feeds, first, last, outputs) {
    const tensors = this.signature.fields.map(({name, kind}) => {
      const values = feeds[name].slice(first, last);
      return [name, new this.ort.Tensor(TYPES[kind], ARRAYS[kind](values), [values.length])];
    });
    const found = await this.session.run(Object.fromEntries(tensors), outputs.map(name => this.outputs[name]));
    return outputs.map(name => found[this.outputs[name]].data);
  }

  // The predictions for columns by field, row by row, null for a rejected row: {value}, or of a class {place, probabilities}.
  async predict(columns, known = [], progress = () => {}) {
    const {feeds, rejects} = readColumns(columns, this.signature.fields, known), classes = this.site.class_names.length;
    const rows = Object.values(feeds)[0].length, width = classes > 2 ? classes : 1, answers = [];
    const refused = new Set(rejects.map(reject => reject.row));
    for (let first = 0; first < rows; first += CHUNK) {
      const last = Math.min(rows, first + CHUNK), [values] = await this.run(feeds, first, last, ['answer']);
      for (let row = first; row < last; row += 1) {
        const found = Array.from(values.subarray((row - first) * width, (row - first + 1) * width));
        if (!refused.has(row) && !found.every(Number.isFinite)) {
          rejects.push({row, field: '', value: '', reason: NO_ANSWER});
          refused.add(row);
        }
        answers.push(refused.has(row) ? null : this.answer(found));
      }
      await progress(last, rows);
    }
    return {answers, rejects: rejects.sort((one, other) => one.row - other.row)};
  }

  answer(values) {
    if (!this.site.class_names.length) return {value: values[0]};
    const {threshold} = this.signature, place = threshold === null ? values.indexOf(Math.max(...values)) : +(values[0] >= threshold);
    return {place, probabilities: values.length > 1 ? values : [roundNine(1 - values[0]), values[0]]};
  }

  // What each field of the record in a row adds to the margin of each target: {base, contributions: field -> targets}.
  async explain(columns, row) {
    const one = Object.fromEntries(Object.entries(columns).map(([name, values]) => [name, [values[row]]]));
    const {feeds} = readColumns(one, this.signature.fields), {terms} = this;
    const [features, margin] = await this.run(feeds, 0, 1, ['features', 'margin']);
    const added = contributionsOf(terms, features), shares = terms.at(terms.shares), {fields} = this.signature;
    const contributions = fields.map(({name}, field) => [name, terms.base.map((_, target) => {
      let sum = 0;
      for (let at = 0; at < terms.features; at += 1) sum += added[target * terms.features + at] * shares[at * fields.length + field];
      return sum;
    })]);
    return {base: terms.base, contributions: Object.fromEntries(contributions), margin: Array.from(margin)};
  }

  // The predictions as csv, as `mlops_pkg predict` writes them.
  writeAnswers(answers) {
    const {class_names: names, class_cells: cells} = this.site, ends = names.length > 2 ? names.map(name => `_${name}`) : [''];
    const header = ['row', 'prediction', ...(names.length ? ends.map(end => `probability${end}`) : [])];
    return writeCsv(header, answers.map((answer, row) => {
      if (!answer) return [row, ...header.slice(1).map(() => '')];
      if (!names.length) return [row, floatText(answer.value)];
      const chances = names.length > 2 ? answer.probabilities : [answer.probabilities[1]];
      return [row, cells[answer.place], ...chances.map(floatText)];
    }));
  }

  // The rejects as csv.
  static writeRejects(rejects) {
    return writeCsv(['row', 'field', 'value', 'reason'], rejects.map(one => [one.row, one.field, one.value, one.reason]));
  }
}
