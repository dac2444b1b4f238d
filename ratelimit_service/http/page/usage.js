// Usage from the ledgers of a domain, by one key, as stacked bars, a table and CSV.

import { useEffect, useMemo, useState } from "./vendor/standalone.module.js";
import { call, query } from "./api.js";
import { Audit } from "./changes.js";
import { amount, serverNow, visibleText } from "./format.js";
import { Failure, html, Loading } from "./parts.js";
import { amend } from "./route.js";
import { csv, Ledgers, local, money, net, totals } from "./spent.js";
import { Name, shown, Stacked } from "./stacked.js";

// The command line reads more than this.
const MOST_ENTRIES = 200_000;
const MOST_LISTED = 200;
const SERIES = 8;
const MOST_BARS = 800;
const PERIODS = { hour: "Hour", day: "Day", month: "Month" };
const DAY = /^\d{4}-\d\d-\d\d$/;

// A day of this browser's time zone as milliseconds; `next` for the day after it. NaN for any other text.
function dayAt(text, next = 0) {
  if (!DAY.test(text)) return NaN;
  const [year, month, day] = text.split("-").map(Number);
  return new Date(year, month - 1, day + next).getTime();
}

// From the first of this month to today.
function thisMonth() {
  const today = local(serverNow()).slice(0, 10);
  return [`${today.slice(0, 8)}01`, today];
}

const second = (at) => new Date(at).toISOString().replace(".000", "");

async function everyPage(path, parameters, signal, take) {
  let cursor = null;
  do {
    const page = await call(`${path}${query({ ...parameters, cursor })}`, { signal });
    if (take(page) === false) return;
    cursor = page.next_cursor;
  } while (cursor);
}

// { ledgers, changes, error, partial, done } of a domain and a time.
function useLedgers(domain, since, until) {
  const name = `${domain} ${since} ${until}`;
  const nothing = { name, ledgers: null, changes: [], error: null, partial: false, done: false };
  const [state, set] = useState(nothing);
  useEffect(() => {
    set(nothing);
    if (!domain || !(since < until)) return undefined;
    const parameters = { domain, since: second(since), until: second(until) };
    const listening = new AbortController();
    let reading = new AbortController();
    let complete = false;
    // Once a complete result is shown, a new one replaces it only as a whole.
    const read = async ({ signal }) => {
      const ledgers = new Ledgers();
      const changes = [];
      let partial = false;
      try {
        await everyPage("usage", parameters, signal, (page) => {
          signal.throwIfAborted();
          ledgers.add(page);
          partial = ledgers.count > MOST_ENTRIES;
          if (!complete) set((before) => ({ ...before, ledgers, count: ledgers.count, error: null, done: false }));
          return !partial;
        });
        await everyPage("usage-amendments", parameters, signal, ({ lines }) => changes.push(...lines) < 1_000);
        signal.throwIfAborted();
        complete = true;
        set({ name, ledgers, changes, error: null, partial, done: true });
      } catch (error) {
        if (!signal.aborted) set((before) => ({ ...before, ledgers: complete ? before.ledgers : null, error, done: true }));
      }
    };
    const again = () => {
      reading.abort();
      reading = new AbortController();
      read(reading);
    };
    read(reading);
    window.addEventListener("refresh", again, { signal: listening.signal });
    return () => {
      listening.abort();
      reading.abort();
    };
  }, [name]);
  return state.name === name ? state : nothing;
}

export function Usage({ parameters, rules }) {
  const domains = (rules?.domains ?? []).map((each) => each.domain);
  const [first, last] = useMemo(thisMonth, []);
  const { domain = domains[0] ?? "", by = "", per = "day", from = first, to = last } = parameters;
  const set = (changes) => amend("usage", { domain, by, per: per === "day" ? "" : per, from, to, ...changes });
  const since = dayAt(from);
  const until = dayAt(to, 1);
  const { ledgers, changes, error, partial, done, count } = useLedgers(domain, since, until);
  const choices = useMemo(() => (done && ledgers ? ledgers.choices() : []), [ledgers, done]);
  const choice = choices.find((each) => each.id === by) ?? choices[0];
  const rows = useMemo(() => (choice ? ledgers.rows(choice, PERIODS[per] ? per : "day") : []), [ledgers, choice?.id, per, done]);
  const sums = useMemo(() => totals(rows), [rows]);
  return html`
    <h1 tabindex="-1">Usage</h1>
    <${Filters} ...${{ domain, domains, choices, choice, per, from, to, set }} />
    <${Failure} error=${error} />
    ${!(since < until) && html`<p class="notice bad" role="alert">The last day must not be before the first one.</p>`}
    ${!done && !error && since < until && domain && html`<${Loading} of=${count ? `${amount(count)} entries of ledgers` : "the ledgers"} />`}
    ${partial && html`<p class="notice bad" role="status"><b>This is only a part</b> of the ledger entries in this time. Choose a shorter time, or use <code>ratelimit-service usage</code>.</p>`}
    ${done && !error && !choice && html`<p class="notice">No ledger has entries of this domain in this time. A rule has one with <code>ledger: {}</code>; entries begin with its first charge.</p>`}
    ${choice && html`<${Spent} ...${{ rows, sums, choice, per, from, to, domain }} />`}
    ${changes.length > 0 && html`<section aria-labelledby="amended"><h2 id="amended">Changes of limits in this time</h2><${Audit} lines=${changes} /></section>`}`;
}

function Filters({ domain, domains, choices, choice, per, from, to, set }) {
  const chosen = (name) => (event) => set({ [name]: event.currentTarget.value });
  const offered = domain && !domains.includes(domain) ? [domain, ...domains] : domains;
  return html`<form class="filters" role="search" aria-label="Usage" onSubmit=${(event) => event.preventDefault()}>
    <label>Domain <select value=${domain} onChange=${(event) => set({ domain: event.currentTarget.value, by: "" })}>
      ${offered.map((each) => html`<option key=${each} value=${each} selected=${each === domain}>${visibleText(each, 60)}</option>`)}
    </select></label>
    <label>By <select value=${choice?.id ?? ""} onChange=${chosen("by")}>
      ${choices.map((each) => html`<option key=${each.id} value=${each.id} selected=${each.id === choice?.id}>${byText(each)}</option>`)}
    </select></label>
    <label>First day <input type="date" name="from" required value=${DAY.test(from) ? from : ""} onChange=${chosen("from")} /></label>
    <label>Last day <input type="date" name="to" required value=${DAY.test(to) ? to : ""} onChange=${chosen("to")} /></label>
    <label>Each <select value=${per} onChange=${chosen("per")}>
      ${Object.entries(PERIODS).map(([value, words]) => html`<option key=${value} value=${value} selected=${value === per}>${words}</option>`)}
    </select></label>
  </form>`;
}

const byText = ({ keys, key }) => (keys.length === 1 ? visibleText(key, 40) : `${visibleText(key, 40)} (of ${keys.map((each) => visibleText(each, 20)).join(", ")})`);

function Spent({ rows, sums, choice, per, from, to, domain }) {
  const [save, setSave] = useState("");
  const priced = sums.some(({ currency }) => currency);
  const label = `Tokens by ${visibleText(choice.key, 40)}`;
  const largest = [...new Set(sums.map(({ value }) => value))];
  const named = largest.slice(0, largest.length > SERIES + 1 ? SERIES : SERIES + 1);
  const bars = new Map();
  for (const row of rows) {
    if (!bars.has(row.start)) bars.set(row.start, { start: row.start, end: row.end, parts: Array(named.length + 1).fill(0n) });
    const place = named.indexOf(row.value);
    bars.get(row.start).parts[place < 0 ? named.length : place] += net(row);
  }
  const names = largest.length > named.length ? [...named, null] : named;
  const download = () => {
    const url = URL.createObjectURL(new Blob([csv(rows, choice)], { type: "text/csv;charset=utf-8" }));
    const link = document.createElement("a");
    link.href = url;
    link.download = `usage-${domain.replace(/[^\w.-]+/g, "_").slice(0, 60)}-${from}-${to}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
    setSave(`${amount(rows.length)} lines were saved.`);
  };
  return html`
    ${bars.size > MOST_BARS
      ? html`<p class="notice">${amount(bars.size)} bars are too many for a chart: choose days or months.</p>`
      : html`<${Stacked} bars=${[...bars.values()]} names=${names} label=${label} />`}
    <section aria-labelledby="spent"><h2 id="spent">Who spent what</h2>
      <div class="scroll" tabindex="0" role="region" aria-label=${label}><table>
        <thead><tr><th scope="col">${visibleText(choice.key, 40)}</th><th scope="col" class="number">Tokens</th><th scope="col" class="number">Refunded</th><th scope="col" class="number">Refused</th>${priced && html`<th scope="col" class="number">Amount</th>`}</tr></thead>
        <tbody>${sums.slice(0, MOST_LISTED).map((sum) => html`<tr key=${JSON.stringify([sum.value, sum.currency])}>
          <th scope="row"><${Name} of=${sum.value} longest=${60} /></th>
          <td class="number">${shown(sum.charged)}</td><td class="number">${shown(sum.refunded)}</td><td class="number">${shown(sum.refused)}</td>
          ${priced && html`<td class="number">${sum.currency ? `${money(sum.cost)} ${sum.currency}` : "–"}</td>`}
        </tr>`)}</tbody>
      </table></div>
      ${sums.length > MOST_LISTED && html`<p class="quiet">These are the largest ${MOST_LISTED} of ${amount(sums.length)}; the file has all.</p>`}
      <p><button type="button" onClick=${download}>Save as CSV</button> <span class="quiet" role="status">${save}</span></p>
      <p class="quiet">Days are those of this browser's time zone, ${Intl.DateTimeFormat().resolvedOptions().timeZone}. The bars are tokens less those that were refunded.</p>
    </section>`;
}
