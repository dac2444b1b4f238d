// What several views show: hostile texts, states, bars, moments, problems.

import { html } from "./vendor/standalone.module.js";
import { amount, duration, entriesText, moment, percent, secondsUntil, visible } from "./format.js";
import { bucketHref } from "./route.js";

export { html };

// Isolated, so that text from right to left does not reorder what stands around it.
export const Text = ({ of, longest }) => html`<bdi>${visible(of, longest).map(
  ([piece, escaped]) => (escaped ? html`<span class="escaped">${piece}</span>` : piece),
)}</bdi>`;

export const Entries = ({ of, longest = 40 }) => html`<span class="entries">${of.map(
  ([key, value], place) => html`${place ? ", " : ""}<span class="entry"><${Text} of=${key} longest=${longest} />=<${Text} of=${value} longest=${longest} /></span>`,
)}</span>`;

// A bucket whose value is hashed in its counter has no descriptor that could be asked about.
export const BucketLink = ({ of, longest }) => of.descriptor === null
  ? html`<${Entries} of=${of.entries} longest=${longest} />`
  : html`<a href=${bucketHref(of.domain, of.descriptor)}><${Entries} of=${of.entries} longest=${longest} /></a>`;

// The states in words, the ones that need attention first.
export const STATES = {
  blocked: "Blocked",
  over: "Over the limit",
  low: "Running low",
  ok: "Within its limits",
};

export const State = ({ of }) => html`<span class=${`state ${of}`}>${STATES[of] ?? of}</span>`;

// A limit of null: no rule limits the counter any more.
const limitOf = (window) => window.effective_limit;

// Used, and of it what is over the limit; what was topped up is hatched.
export function Bar({ window }) {
  const limit = Number(limitOf(window) ?? 0);
  const whole = Math.max(limit, 1);
  const width = (value) => `${Math.max(0, Math.min(100, (100 * Number(value)) / whole))}%`;
  const topped = limit > Number(window.limit) && Number(window.limit) > 0;
  return html`<span class=${`bar ${window.state}`} aria-hidden="true">
    ${topped && html`<span class="topped" style=${{ left: width(window.limit) }} />`}
    <span class="used" style=${{ width: limit ? width(window.used ?? 0) : "100%" }} />
  </span>`;
}

export function Used({ window }) {
  const limit = limitOf(window);
  const used = html`<b>${window.used === null ? "unknown" : amount(window.used)}</b>`;
  if (limit === null) return html`${used} used, no rule any more`;
  if (limit === 0) return html`${used} used, limit 0`;
  return html`${used} of ${amount(limit)} (${percent(window.share)})`;
}

// How the limit comes to be another one than that of the rule.
export function amendedText(window) {
  if (window.limit === null || window.effective_limit === window.limit) return "";
  return `· the rule has ${amount(window.limit)}`;
}

export const In = ({ time }) =>
  html`<time datetime=${time} title=${moment(time, { seconds: true })}>${duration(secondsUntil(time))}</time>`;

export const At = ({ time, seconds }) => html`<time datetime=${time}>${moment(time, { seconds })}</time>`;

export const Ago = ({ time }) =>
  html`<time datetime=${time} title=${moment(time, { seconds: true })}>${duration(-secondsUntil(time))} ago</time>`;

const BASIS = {
  rate: "At the current rate. Rules with a ledger take quiet nights and weekends into account.",
  profile: "By the hours of earlier weeks, as much faster or slower as this window has been so far.",
};

// When a window starts anew, and when it will be used up before that.
export const Outlook = ({ window }) => html`<span class="outlook">${window.runs_out_at
  ? html`<b class="runs-out" title=${BASIS[window.forecast_by]}>runs out ${secondsUntil(window.runs_out_at) < 120 ? html`in <${In} time=${window.runs_out_at} />` : html`at <${At} time=${window.runs_out_at} />`}</b>, `
  : ""}${window.resets_at && html`resets in <${In} time=${window.resets_at} />`}</span>`;

export function Failure({ error, stale }) {
  // What stands above every view says that the token is not valid.
  if (!error || error.status === 401) return null;
  return html`<div class="notice bad" role="alert">
    <b>${error.title ?? "Something went wrong"}</b>${error.message && error.message !== error.title ? html`: <${Text} of=${error.message} longest=${300} />` : ""}
    ${stale ? html` <span>What is shown is from <${At} time=${new Date(stale).toISOString()} seconds />.</span>` : ""}
  </div>`;
}

export const Loading = ({ of }) => html`<p class="quiet" role="status">Reading ${of} …</p>`;

export const describe = (budget) => entriesText(budget.entries);
