// Formats values of the API for people: amounts, times, and untrusted texts.

// JSON.parse would round amounts above 2^53, so they become BigInt. No text that a stranger has sent can contain the mark,
// because it is random for each page.
const MARK = `${crypto.getRandomValues(new Uint32Array(4)).join("-")}:`;
const TOKENS = /"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*/g;
const LONG = /^-?\d{16,}$/;

export function parse(text) {
  const marked = text.replace(TOKENS, (token) => (LONG.test(token) ? `"${MARK}${token}"` : token));
  return JSON.parse(marked, (name, value) =>
    typeof value === "string" && value.startsWith(MARK) ? exact(value.slice(MARK.length)) : value,
  );
}

export function serialise(value) {
  const marked = JSON.stringify(value, (name, each) => (typeof each === "bigint" ? `${MARK}${each}` : each));
  return marked.replaceAll(new RegExp(`"${MARK}(-?\\d+)"`, "g"), "$1");
}

// A number if that is exact, else a BigInt.
export function exact(digits) {
  const number = Number(digits);
  return Number.isSafeInteger(number) ? number : BigInt(digits);
}

// What a person typed as an amount: "5,000", "5_000" and "5 000" are 5000. Null if it is not a whole number, such as "1.5".
export function typedAmount(text) {
  const typed = text.trim();
  if (!/^(\d{1,19}|\d{1,3}([\s,_.'’]\d{3}){1,6})$/.test(typed)) return null;
  return exact(typed.replace(/\D/g, ""));
}

const numbers = new Intl.NumberFormat();
const rates = new Intl.NumberFormat(undefined, { maximumSignificantDigits: 3 });

export const amount = (value) => numbers.format(value);
export const rate = (value) => rates.format(value);
export const minus = (one, other) => exact(String(BigInt(one) - BigInt(other)));

export function percent(value) {
  return `${Math.floor(value * 100)} %`;
}

export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return whole < 600 ? `${minutes} min ${whole % 60} s` : `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

// The clock of the service: that of the browser may be wrong.
let offset = 0;

export function setClock(now) {
  const then = Date.parse(now);
  if (!Number.isNaN(then)) offset = then - Date.now();
}

export const serverNow = () => Date.now() + offset;
export const secondsUntil = (time) => (Date.parse(time) - serverNow()) / 1000;

const times = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const exactTimes = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const days = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });

// A moment by the reader's clock and time zone; with the day, unless that is today.
export function moment(time, { seconds = false } = {}) {
  const date = new Date(time);
  if (Number.isNaN(date.getTime())) return "";
  const clock = (seconds ? exactTimes : times).format(date);
  const today = new Date(serverNow()).toDateString() === date.toDateString();
  return today ? clock : `${days.format(date)}, ${clock}`;
}

const HIDDEN = /[\p{C}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]|[^\S ]/gu;
const LONGEST = 120;

// Text of a stranger in pieces, [text, whether it stands for a character that would not be seen or would reorder the line].
export function visible(text, longest = LONGEST) {
  const whole = String(text);
  let shown = whole;
  if (whole.length > longest) shown = Array.from(whole.slice(0, 2 * longest)).slice(0, longest).join("");
  const pieces = [];
  let end = 0;
  for (const found of shown.matchAll(HIDDEN)) {
    if (found.index > end) pieces.push([shown.slice(end, found.index), false]);
    pieces.push([escaped(found[0]), true]);
    end = found.index + found[0].length;
  }
  if (end < shown.length) pieces.push([shown.slice(end), false]);
  if (shown.length < whole.length) pieces.push([`… (${amount(whole.length)} characters)`, true]);
  return pieces;
}

export const visibleText = (text, longest) => visible(text, longest).map(([piece]) => piece).join("");

// Lone surrogates U+DC80 to U+DCFF stand for bytes that are no UTF-8.
function escaped(character) {
  const code = character.codePointAt(0);
  const hex = (value, digits) => value.toString(16).padStart(digits, "0");
  if (code >= 0xdc80 && code <= 0xdcff) return `\\x${hex(code - 0xdc00, 2)}`;
  if (code <= 0xff) return `\\x${hex(code, 2)}`;
  return code <= 0xffff ? `\\u${hex(code, 4)}` : `\\u{${hex(code, 5)}}`;
}

export function entriesText(entries, longest = 40) {
  return entries.map(([key, value]) => `${visibleText(key, longest)}=${visibleText(value, longest)}`).join(", ");
}
