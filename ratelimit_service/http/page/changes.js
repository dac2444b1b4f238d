// What was changed: the amendments in force, the audit, and the form for many buckets at once.

import { useState } from "./vendor/standalone.module.js";
import { amendmentText, Ending, Target } from "./amendment.js";
import { Amendments } from "./amendments.js";
import { call, query, usePolled } from "./api.js";
import { Change } from "./change.js";
import { amount, visibleText } from "./format.js";
import { At, Failure, html, Loading, Text } from "./parts.js";
import { href } from "./route.js";

const PART = 100;

export function Changes({ status, rules }) {
  const amendments = usePolled("amendments", (signal) => call(`amendments${query({ limit: PART })}`, { signal }), 5_000);
  const audit = usePolled("audit", (signal) => call(`audit${query({ limit: PART })}`, { signal }), 5_000);
  const domains = (rules?.domains ?? []).map((each) => each.domain);
  return html`
    <h1 tabindex="-1">Changes</h1>
    <section aria-labelledby="force"><h2 id="force">In force</h2>
      <${Failure} error=${amendments.error} stale=${amendments.at} />
      ${!amendments.data && !amendments.error && html`<${Loading} of="the amendments" />`}
      ${amendments.data && html`<${Amendments} amendments=${amendments.data.amendments} status=${status} none="No limit is changed: those of the rules hold." />`}
      ${amendments.data?.next_cursor && html`<p class="quiet">These are the first ${amount(amendments.data.amendments.length)}; there are more.</p>`}
    </section>
    ${domains.length > 0 && html`<p>Change many at once: ${domains.slice(0, 20).map((domain, place) => html`${place ? ", " : ""}<a key=${domain} href=${href("change", { domain })}><${Text} of=${domain} longest=${40} /> …</a>`)}</p>`}
    <section aria-labelledby="audit"><h2 id="audit">Who changed what</h2>
      <${Failure} error=${audit.error} stale=${audit.at} />
      ${audit.data && html`<${Audit} lines=${audit.data.lines} />`}
    </section>`;
}

function What({ line: { action, before, after, counters } }) {
  if (action === "reset") return `reset${counters.length ? `, of ${counters.map(({ used }) => (used === null ? "?" : amount(used))).join(", ")} used` : ""}`;
  if (action === "remove") return before ? `removed: ${amendmentText(before)}` : "removed";
  return html`${amendmentText(after)}, <${Ending} of=${after} />`;
}

export function Audit({ lines }) {
  if (lines.length === 0) return html`<p class="quiet">Nobody has changed anything.</p>`;
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Audit"><table>
    <thead><tr><th scope="col">When</th><th scope="col">Who</th><th scope="col">What</th><th scope="col">For</th><th scope="col">Why</th></tr></thead>
    <tbody>${lines.map((line, place) => html`<tr key=${`${line.version} ${place}`}>
      <td><${At} time=${line.at} seconds /></td>
      <td><${Text} of=${line.author} longest=${60} /></td>
      <td><${What} line=${line} /></td>
      <td><${Target} domain=${line.domain ?? ""} descriptor=${line.descriptor} />${line.window ? ` (${line.window})` : ""}</td>
      <td><${Text} of=${line.reason} longest=${200} /></td>
    </tr>`)}</tbody>
  </table></div>`;
}

// The form for a pattern or a whole domain.
export function ChangeMany({ parameters, status, rules }) {
  const domains = (rules?.domains ?? []).map((each) => each.domain);
  const [domain, setDomain] = useState(parameters.domain ?? "");
  const chosen = domain || domains[0] || "";
  const known = usePolled(`rules of ${chosen}`, (signal) => call(`rules${query({ domain: chosen, limit: PART })}`, { signal }), 60_000);
  const windows = [...new Set((known.data?.rules ?? []).flatMap((rule) => rule.limits.map((each) => each.window)))];
  return html`
    <h1 tabindex="-1">Change many budgets</h1>
    <p class="fields"><label>Domain <select value=${chosen} onChange=${(event) => setDomain(event.currentTarget.value)}>
      ${[...new Set([chosen, ...domains])].filter(Boolean).map((each) => html`<option key=${each} value=${each} selected=${each === chosen}>${visibleText(each, 60)}</option>`)}
    </select></label></p>
    <${Change} key=${chosen} domain=${chosen} pattern=${parameters.pattern ?? ""} windows=${windows} status=${status} first=${parameters} />`;
}
