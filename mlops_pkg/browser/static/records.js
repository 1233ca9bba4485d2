// Values of records to the inputs of the graph, with a reason for every value that is rejected: as bundle/records.py reads them.

const MISSING = {category: '', number: NaN, datetime: -(2n ** 63n)};
const DAY = '(\\d{4})-(\\d\\d)-(\\d\\d)', CLOCK = '[T ](\\d\\d):(\\d\\d)(?::(\\d\\d)(?:\\.(\\d{1,9}))?)?';
const ZONE = ' ?(?:(Z)|([+-])(\\d\\d)(?::?(\\d\\d))?)';
const ISO = new RegExp(`^${DAY}(?:${CLOCK})?$`), ZONED = new RegExp(`^${DAY}${CLOCK}${ZONE}$`);

export class Mistake extends Error {}  // a value or a file that cannot be read; the message is the reason

// Microseconds since 1970 of a date and a time on a clock; null if there is no such time.
export function microseconds(year, month, day, hour = 0, minute = 0, second = 0, fraction = '') {
  const date = new Date(0);
  date.setUTCFullYear(year, month - 1, day);  // Date.UTC would take the year 13 for 1913
  const isDay = date.getUTCFullYear() === +year && date.getUTCMonth() === month - 1 && date.getUTCDate() === +day;
  if (!isDay || year < 1 || year > 9999 || hour > 23 || minute > 59 || second > 59) return null;
  const seconds = BigInt(date.getTime() / 1000 + 3600 * hour + 60 * minute + +second);
  return 1000000n * seconds + BigInt(fraction.padEnd(6, '0').slice(0, 6));
}

const FIRST = microseconds(1, 1, 1), LAST = microseconds(9999, 12, 31, 23, 59, 59, '999999');

// The microseconds in a text as ISO 8601 writes it, in UTC if it has a zone; null if there is none.
export function parseIso(text, needsZone = false) {
  const found = (!needsZone && ISO.exec(text)) || ZONED.exec(text);
  if (!found) return null;
  const [, year, month, day, hour, minute, second, fraction, , sign, hours = 0, minutes = 0] = found;
  const local = microseconds(year, month, day, hour, minute, second, fraction);
  if (local === null || hours > 23 || minutes > 59) return null;
  const moment = local - BigInt(sign ? (sign === '-' ? -60 : 60) * (60 * hours + +minutes) : 0) * 1000000n;
  if (moment < FIRST || moment > LAST) throw new Mistake('outside the years 1 to 9999');
  return moment;
}

function readText(value) {
  if (typeof value !== 'string') throw new Mistake(`expected text, found ${typeof value}`);
  return value;
}

function readNumber(value) {
  if (typeof value !== 'number') throw new Mistake(`expected a number, found ${typeof value === 'string' ? 'text' : typeof value}`);
  if (!Number.isFinite(value)) throw new Mistake('not a finite number');
  return value;
}

function readMoment(value) {
  const moment = typeof value === 'bigint' ? value : parseIso(readText(value));
  if (moment === null) throw new Mistake('not a date and time as ISO 8601 writes it, such as 2013-01-31T05:15:00');
  return moment;
}

const READ = {category: readText, number: readNumber, datetime: readMoment};
const round = value => Number(value.toPrecision(15)).toLocaleString('en-US', {maximumSignificantDigits: 15});

// One value as the graph takes it; throws a Mistake if the field cannot take it.
export function readValue(value, field) {
  const isEmpty = value === null || value === undefined || Number.isNaN(value) || (value === '' && field.kind !== 'number');
  if (isEmpty) {
    if (!field.nullable) throw new Mistake('missing');
    return MISSING[field.kind];
  }
  const read = READ[field.kind](value), unit = field.unit ? ` ${field.unit}` : '';
  if (field.minimum !== null && read < field.minimum) throw new Mistake(`below the minimum of ${round(field.minimum)}${unit}`);
  if (field.maximum !== null && read > field.maximum) throw new Mistake(`above the maximum of ${round(field.maximum)}${unit}`);
  return read;
}

// The nearest whole number, halves to the even neighbour, as Python and numpy round.
export function roundEven(value) {
  const whole = Math.round(value);
  return Math.abs(value % 1) === 0.5 && whole % 2 ? whole - 1 : whole;
}

// A number as Python writes it: the shortest text that reads back as the same number.
export function floatText(value) {
  if (!Number.isFinite(value)) return value > 0 ? 'inf' : value < 0 ? '-inf' : 'nan';
  const [digits, exponent] = value.toExponential().split('e');
  if (+exponent >= 16 || (value && +exponent < -4)) return `${digits}e${exponent < 0 ? '-' : '+'}${exponent.slice(1).padStart(2, '0')}`;
  const text = Object.is(value, -0) ? '-0' : String(value).includes('e') ? value.toFixed(20).replace(/0+$/, '') : String(value);
  return text.includes('.') ? text : `${text}.0`;
}

// A value as Python writes it, cut at 80 characters; nothing for a missing one.
function shown(value) {
  if (value === null || value === undefined || value === '' || Number.isNaN(value)) return '';
  if (typeof value !== 'string') return typeof value === 'number' ? floatText(value) : String(value);
  const mark = value.includes("'") && !value.includes('"') ? '"' : "'", names = {'\n': '\\n', '\r': '\\r', '\t': '\\t'};
  const escaped = value.replace(/[\\\u0000-\u001f\u007f-\u00a0\u00ad]/g, letter => letter === '\\' ? '\\\\' :
    names[letter] ?? `\\x${letter.charCodeAt(0).toString(16).padStart(2, '0')}`);
  const text = mark + escaped.replaceAll(mark, `\\${mark}`) + mark;
  return text.length > 80 ? `${text.slice(0, 79)}…` : text;
}

// The values of columns, by the name of their field, as the graph takes them, and the rejects in the order of the rows.
// `known` rows are rejected as a whole; a Mistake in the place of a value comes before what else is wrong with its row.
export function readColumns(columns, fields, known = []) {
  const feeds = {}, early = [], late = [], whole = new Set(known.map(reject => reject.row));
  for (const field of fields) {
    feeds[field.name] = columns[field.name].map((value, row) => {
      if (whole.has(row)) return MISSING[field.kind];
      try {
        if (value instanceof Mistake) throw value;
        return readValue(value, field);
      } catch (mistake) {
        if (!(mistake instanceof Mistake)) throw mistake;
        const found = mistake === value ? early : late;
        found.push({row, field: field.name, value: shown(mistake === value ? mistake.value : value), reason: mistake.message});
        return MISSING[field.kind];
      }
    });
  }
  return {feeds, rejects: [...known, ...early, ...late].sort((one, other) => one.row - other.row)};
}
