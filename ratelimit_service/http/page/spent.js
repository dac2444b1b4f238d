// Sums of ledger entries by days and by the value of one key. This module does not use the document, so tests can import it.

import { exact } from "./format.js";

const DECIMALS = 9;
const SCALE = 15;

// Entries of ledgers by bucket, length and start. One can be on several pages: the largest of each number counts.
export class Ledgers {
  constructor() {
    this.books = new Map();
    this.count = 0;
  }

  add(page) {
    for (const { bucket, by, entries, currency, spent } of page.books) {
      const name = `${by} ${bucket}`;
      if (!this.books.has(name)) this.books.set(name, { entries, currency, spent: new Map() });
      const book = this.books.get(name);
      for (const each of spent) {
        const known = book.spent.get(each.start);
        this.count += known ? 0 : 1;
        book.spent.set(each.start, known ? largest(known, each) : each);
      }
    }
  }

  // The choices of what to add up: one key of buckets that have the same keys. [name, keys, key].
  choices() {
    const found = new Map();
    for (const { entries } of this.books.values()) {
      const keys = entries.map(([key]) => key);
      for (const key of keys) found.set(JSON.stringify([keys, key]), { keys, key });
    }
    return [...found].sort(([, one], [, other]) => one.keys.length - other.keys.length).map(([id, choice]) => ({ id, ...choice }));
  }

  // Rows by period and value: { start, end, value, currency, charged, refunded, refused, cost }, all BigInt but the times.
  rows({ keys, key }, per) {
    const sums = new Map();
    const wanted = JSON.stringify(keys);
    const place = keys.indexOf(key);
    for (const { entries, currency, spent } of this.books.values()) {
      if (JSON.stringify(entries.map(([each]) => each)) !== wanted) continue;
      const value = entries[place][1];
      for (const { start, charged, refunded, refused, per_million: price } of spent.values()) {
        const [from, to] = period(Date.parse(start), per);
        const name = JSON.stringify([from, value, price === null ? null : currency]);
        if (!sums.has(name)) sums.set(name, { start: from, end: to, value, currency: price === null ? "" : currency, charged: 0n, refunded: 0n, refused: 0n, cost: 0n });
        const sum = sums.get(name);
        sum.charged += BigInt(charged);
        sum.refunded += BigInt(refunded);
        sum.refused += BigInt(refused);
        if (price !== null) sum.cost += (BigInt(charged) - BigInt(refunded)) * scaled(price);
      }
    }
    return [...sums.values()].sort((one, other) => one.start - other.start || (one.value < other.value ? -1 : one.value > other.value ? 1 : 0));
  }
}

function largest(one, other) {
  const larger = (name) => (BigInt(one[name]) > BigInt(other[name]) ? one[name] : other[name]);
  return { ...one, charged: larger("charged"), refunded: larger("refunded"), refused: larger("refused") };
}

// Sums over all periods, the largest first.
export function totals(rows) {
  const sums = new Map();
  for (const row of rows) {
    const name = JSON.stringify([row.value, row.currency]);
    if (!sums.has(name)) sums.set(name, { value: row.value, currency: row.currency, charged: 0n, refunded: 0n, refused: 0n, cost: 0n });
    const sum = sums.get(name);
    for (const kind of ["charged", "refunded", "refused", "cost"]) sum[kind] += row[kind];
  }
  return [...sums.values()].sort((one, other) => (net(one) < net(other) ? 1 : net(one) > net(other) ? -1 : one.value < other.value ? -1 : 1));
}

export const net = ({ charged, refunded }) => charged - refunded;

// Milliseconds at which the hour, the day or the month of a moment begins and ends, by the clock of the browser.
export function period(at, per) {
  const date = new Date(at);
  if (per === "hour") {
    const start = at - (date.getMinutes() * 60 + date.getSeconds()) * 1_000 - date.getMilliseconds();
    return [start, start + 3_600_000];
  }
  const day = per === "day" ? date.getDate() : 1;
  const start = new Date(date.getFullYear(), date.getMonth(), day);
  const end = per === "day" ? new Date(date.getFullYear(), date.getMonth(), day + 1) : new Date(date.getFullYear(), date.getMonth() + 1, 1);
  return [start.getTime(), end.getTime()];
}

// "2.50" in units of 10^-9; the tokens of a million, times that, are in units of 10^-15.
function scaled(price) {
  const [whole, part = ""] = price.split(".");
  return BigInt(whole + part.padEnd(DECIMALS, "0"));
}

// An amount as a decimal without trailing zeros, as the command line prints it.
export function decimal(cost) {
  const digits = String(cost < 0n ? -cost : cost).padStart(SCALE + 1, "0");
  const part = digits.slice(-SCALE).replace(/0+$/, "");
  return `${cost < 0n ? "-" : ""}${digits.slice(0, -SCALE)}${part ? `.${part}` : ""}`;
}

// To two digits after the point.
export function money(cost) {
  const unit = 10n ** BigInt(SCALE - 2);
  const cents = ((cost < 0n ? -cost : cost) + unit / 2n) / unit;
  const whole = new Intl.NumberFormat().format(exact(String(cents / 100n)));
  return `${cost < 0n && cents ? "-" : ""}${whole}.${String(cents % 100n).padStart(2, "0")}`;
}

// Local time with its offset, as in RFC 3339.
export function local(at) {
  const date = new Date(at);
  const offset = -date.getTimezoneOffset();
  const two = (value) => String(Math.abs(value)).padStart(2, "0");
  const shifted = new Date(at + offset * 60_000).toISOString().slice(0, 19);
  return `${shifted}${offset < 0 ? "-" : "+"}${two(Math.trunc(offset / 60))}:${two(offset % 60)}`;
}

// A cell of CSV that spreadsheets do not treat as a formula.
function cell(value) {
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

export function csv(rows, { keys, key }) {
  const lines = [["start", "end", cell(key), "keys", "charged", "refunded", "refused", "amount", "currency"]];
  for (const row of rows) {
    lines.push([
      local(row.start), local(row.end), cell(row.value), cell(keys.join(",")), row.charged, row.refunded, row.refused,
      row.currency ? decimal(row.cost) : "", row.currency,
    ]);
  }
  return lines.map((line) => `${line.join(",")}\r\n`).join("");
}
