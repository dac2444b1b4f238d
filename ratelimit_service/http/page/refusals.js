// Refusals as they happen.

import { useEffect, useState } from "./vendor/standalone.module.js";
import { call, poll, query } from "./api.js";
import { amount, serverNow, visibleText } from "./format.js";
import { At, BucketLink, Failure, html, Text } from "./parts.js";
import { amend } from "./route.js";

const EVERY = 2_000;
const KEPT = 500;

// The last refusals that the replica remembers, the latest first; asked for from the last known one on.
export function useRefusals() {
  const [state, set] = useState({ data: null, error: null, at: 0 });
  useEffect(() => {
    let known = [];
    let last = null;
    return poll(
      async (signal) => {
        const answer = await call(`refusals${query({ since: last })}`, { signal });
        // After a restart the service counts from the beginning.
        if (last !== null && answer.last < last) known = [];
        last = answer.last;
        known = [...answer.refusals, ...known].slice(0, KEPT);
        set({ data: known, error: null, at: serverNow() });
      },
      EVERY,
      (error) => set((before) => ({ ...before, error })),
    );
  }, []);
  return state;
}

export function Refusals({ parameters }) {
  const { data, error, at } = useRefusals();
  const [held, setHeld] = useState(null);
  const text = parameters.text ?? "";
  const all = held ?? data ?? [];
  const shown = all.filter((each) => !text || textOf(each).includes(text.toLowerCase()));
  return html`
    <h1 tabindex="-1">Refusals</h1>
    <form class="filters" role="search" aria-label="Refusals" onSubmit=${(event) => event.preventDefault()}>
      <label>Search <input type="search" name="text" value=${text} onInput=${(event) => amend("refusals", { text: event.currentTarget.value })} autocomplete="off" /></label>
      <button type="button" aria-pressed=${held !== null} onClick=${() => setHeld(held ? null : data)}>${held ? "Resume" : "Pause"}</button>
    </form>
    <${Failure} error=${error} stale=${at} />
    <p class="quiet">What this replica has refused, the latest first. It remembers the last ones, and of many in a second only some.</p>
    ${data && html`<${RefusalTable} refusals=${shown.slice(0, 200)} none=${text ? "No refusal matches." : "This replica has refused nothing since its start."} withBucket />`}`;
}

const REASONS = { over_limit: "Over the limit", blocked: "Blocked by an operator", denied: "Refused by the domain" };

function Why({ refusal: { reason, message, name, rule, resets_at: resetsAt, hits } }) {
  return html`${REASONS[reason]}${message ? html`: <${Text} of=${message} longest=${300} />` : ""}${name || rule ? html` (<${Text} of=${name ?? rule} longest=${80} />)` : ""}${hits > 1 ? html`, asked for ${amount(hits)}` : ""}${resetsAt ? html` <span class="quiet">until <${At} time=${resetsAt} /></span>` : ""}`;
}

const textOf = (refusal) =>
  `${refusal.domain} ${refusal.entries.flat().join(" ")} ${REASONS[refusal.reason]} ${refusal.name ?? ""} ${refusal.message ?? ""} ${refusal.rule ?? ""}`.toLowerCase();

export function RefusalTable({ refusals, none, withBucket }) {
  if (refusals.length === 0) return html`<p class="quiet">${none}</p>`;
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Refusals"><table class="stacked">
    <thead><tr><th scope="col">When</th>${withBucket && html`<th scope="col">Who</th>`}<th scope="col">Why</th><th scope="col" class="number">Used of limit</th></tr></thead>
    <tbody>${refusals.map((each) => html`<tr key=${each.id}>
      <td><${At} time=${each.at} seconds /></td>
      ${withBucket && html`<td><${BucketLink} of=${each} /> <span class="quiet"><${Text} of=${each.domain} longest=${40} /></span></td>`}
      <td><${Why} refusal=${each} /></td>
      <td class="number">${each.limit === null ? "" : `${amount(each.used ?? 0)} of ${amount(each.limit)}`}${each.window ? html` <span class="quiet">${visibleText(each.window, 20)}</span>` : ""}</td>
    </tr>`)}</tbody>
  </table></div>`;
}
