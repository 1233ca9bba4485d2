// A csv file to columns of values, and predictions to csv: as `mlops_pkg predict` reads and writes them.

import {Mistake, microseconds, parseIso, roundEven} from './records.js';

const MONTHS = ['jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec'];
const DIRECTIVES = {Y: '\\d{4}', y: '\\d\\d', m: '1[0-2]|0?[1-9]', d: '3[01]|[12]\\d|0?[1-9]', H: '2[0-3]|[01]?\\d',
  M: '[0-5]?\\d', S: '[0-5]?\\d', f: '\\d{1,6}', b: MONTHS.join('|')};
const quote = text => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');

// The rows of a csv text, each a list of cells; throws a Mistake for text that is not csv.
export function parseCsv(text, separator) {
  const rows = [], special = new RegExp(`["\\n\\r${quote(separator)}]`, 'g');
  let row = [], cell = '', at = 0, isEmpty = true;
  const end = () => {
    if (!isEmpty || row.length) rows.push([...row, cell]);
    row = [];
    cell = '';
    isEmpty = true;
  };
  while (at < text.length) {
    if (text[at] === '"' && isEmpty) {
      isEmpty = false;
      let close = at;
      do {
        const open = close + 1;
        close = text.indexOf('"', open);
        if (close < 0) throw new Mistake(`row ${rows.length - 1} is not csv: a quote is open at the end of the file`);
        cell += text.slice(open, close);
        if (text[close + 1] === '"') cell += '"';
      } while (text[++close] === '"');
      at = close;
      if (at < text.length && !['\n', '\r', separator].includes(text[at])) {
        throw new Mistake(`row ${rows.length - 1} is not csv: '${separator}' expected after '"'`);
      }
    } else {
      special.lastIndex = at;
      let stop = special.exec(text);
      while (stop && stop[0] === '"') stop = special.exec(text);
      const until = stop ? stop.index : text.length;
      cell += text.slice(at, until);
      isEmpty &&= until === at;
      at = until;
    }
    if (text[at] === separator) {
      row.push(cell);
      cell = '';
      at += 1;
      isEmpty = true;
      if (at === text.length) row.push('');
    } else if (at < text.length) {
      at += text.startsWith('\r\n', at) ? 2 : 1;
      end();
    }
  }
  end();
  return rows;
}

// A reader of times in a format of Python's strptime.
function timeReader(format) {
  const names = [];
  const pattern = format.split(/(%.|\s+)/).map(part => {
    if (/^\s+$/.test(part)) return '\\s+';
    if (!/^%./.test(part)) return quote(part);
    names.push(part[1]);
    return `(${DIRECTIVES[part[1]]})`;
  });
  const expression = new RegExp(`^${pattern.join('')}$`, 'i');
  return cell => {
    const found = expression.exec(cell);
    if (!found) return null;
    const part = Object.fromEntries(names.map((name, place) => [name, found[place + 1]]));
    const year = part.Y ?? (part.y === undefined ? 1900 : +part.y + (part.y < 69 ? 2000 : 1900));
    const month = part.b ? MONTHS.indexOf(part.b.toLowerCase()) + 1 : part.m ?? 1;
    return microseconds(year, month, part.d ?? 1, part.H, part.M, part.S, part.f);
  };
}

const isNumber = (decimal, thousands) => {
  const whole = thousands ? `(?:[0-9]{1,3}(?:${quote(thousands)}[0-9]{3})+|[0-9]+)` : '[0-9]+';
  return new RegExp(`^[+-]?(?:${whole}(?:${quote(decimal)}[0-9]*)?|${quote(decimal)}[0-9]+)(?:[eE][+-]?[0-9]+)?$`);
};

function excelTime(cell) {
  const text = cell.replace(',', '.'), days = isNumber('.', '').test(text) ? Number(text) : NaN;
  if (!(days >= 61 && days < 2958466)) return null;
  return 1000n * (BigInt(roundEven(days * 86400000)) - 2209161600000n);
}

// A function from the text of a cell to its value; a Mistake stands for a cell that is not a time.
export function cellReader(field, written) {
  const missing = new Set([...written.missing, '']);
  if (field.kind === 'category') return cell => missing.has(cell) ? '' : cell;
  if (field.kind === 'number') {
    const pattern = isNumber(written.decimal, written.thousands);
    return cell => {
      if (missing.has(cell)) return NaN;
      if (!pattern.test(cell)) return cell;
      return Number((written.thousands ? cell.replaceAll(written.thousands, '') : cell).replace(written.decimal, '.'));
    };
  }
  const format = written.times[field.name];
  const known = {excel: excelTime, zoned: cell => parseIso(cell, true)};
  const read = format === undefined ? cell => parseIso(cell) : known[format] ?? timeReader(format);
  return cell => {
    if (missing.has(cell)) return null;
    let moment = null;
    try {
      moment = read(cell);
    } catch (mistake) {
      if (!(mistake instanceof Mistake)) throw mistake;
    }
    if (moment !== null) return moment;
    return Object.assign(new Mistake(`not a time (${format ?? 'ISO 8601, such as 2013-01-31T05:15:00'})`), {value: cell});
  };
}

const clean = name => name.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]/g, ' ').trim().normalize('NFC');

// The text of a file in the encoding of the training data; throws a Mistake if it is in another one.
export function decode(bytes, encoding) {
  if (encoding === 'latin-1') return Array.from(bytes, byte => String.fromCharCode(byte)).join('');
  try {
    return new TextDecoder(encoding, {fatal: true}).decode(bytes);
  } catch {
    throw new Mistake(`not ${encoding.toUpperCase()} text; save the file as ${encoding.toUpperCase()}`);
  }
}

// The columns of a csv text by field, and a reject for each row of too few or too many cells.
export function readTable(text, signature) {
  const {fields, file_format: written} = signature, [header, ...rows] = parseCsv(text, written.separator);
  if (!header) throw new Mistake('expected the names of the columns in the first line, found nothing');
  const names = header.map(clean).map(name => Object.hasOwn(written.rename, name) ? written.rename[name] : name);
  for (const {name} of fields) {
    const count = names.filter(other => other === name).length;
    if (count !== 1) throw new Mistake(`column '${name}' is ${count ? `there ${count} times` : 'missing'}`);
  }
  const rejects = [];
  rows.forEach((cells, row) => {
    if (cells.length === names.length) return;
    const value = cells.join(written.separator).slice(0, 80);
    rejects.push({row, field: '', value, reason: `expected ${names.length} cells, found ${cells.length}`});
    rows[row] = names.map(() => '');
  });
  const columns = fields.map(field => {
    const place = names.indexOf(field.name), read = cellReader(field, written);
    return [field.name, rows.map(cells => read(cells[place]))];
  });
  return {columns: Object.fromEntries(columns), rejects};
}

const quoted = text => /["\n\r,]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;

// Rows of values as csv.
export function writeCsv(names, rows) {
  return [names, ...rows].map(row => row.map(value => quoted(String(value))).join(',') + '\n').join('');
}
