// node score.js IN OUT.csv: what the page does with a file, without a page. IN is csv, or columns of values as JSON;
// `--runtime FILE` takes another onnxruntime, such as that of onnxruntime-node.

import {readFile, writeFile} from 'node:fs/promises';
import {Model} from './model.js';
import {decode, readTable} from './table.js';

process.on('uncaughtException', error => { console.error(`${source}: ${error.message}`); process.exit(1); });
const [source, destination, , runtime = './ort.js'] = process.argv.slice(2);
const model = await Model.open(await import(runtime), name => readFile(new URL(name, import.meta.url)));
const content = await readFile(source);
const {columns, rejects: known = []} = source.endsWith('.json') ? {columns: JSON.parse(content)} :
  readTable(decode(content, model.site.encoding), model.signature);
const {answers, rejects} = await model.predict(columns, known);
await writeFile(destination, model.writeAnswers(answers));
if (rejects.length) await writeFile(destination.replace(/(\.csv)?$/, '.rejects.csv'), Model.writeRejects(rejects));
console.log(`${answers.length} rows: ${answers.filter(Boolean).length} answered`);
