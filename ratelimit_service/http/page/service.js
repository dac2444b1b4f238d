// The service itself: the store, the rules and what was wrong with them, the replicas.

import { useState } from "./vendor/standalone.module.js";
import { call, query, usePolled } from "./api.js";
import { ControlPlanes } from "./control-planes.js";
import { amount, duration, visibleText } from "./format.js";
import { Ago, At, Failure, html, Loading, Text } from "./parts.js";
import { href } from "./route.js";

const SHOWN = 200;
const DOMAINS = 100;
const BEHIND = 2;

export const problemText = ({ file, line, path, problem }) =>
  [line ? `${file}:${line}` : file, path, problem].filter(Boolean).join(": ");

export function Service({ status, rules }) {
  const replicas = usePolled("replicas", (signal) => call("replicas", { signal }), 5_000);
  if (!status) return html`<h1 tabindex="-1">Service</h1><${Loading} of="the state of the service" />`;
  const { store, amendments } = status;
  return html`
    <h1 tabindex="-1">Service</h1>
    <section aria-labelledby="store"><h2 id="store">Store</h2>
      <dl class="facts">
        <${Fact} name="Counters are in">${store.type}<//>
        <${Fact} name="State"><span class=${`state ${store.reachable ? "ok" : "over"}`}>${store.reachable ? "Answers" : "Does not answer"}</span><//>
        ${store.circuit_open && html`<${Fact} name="Circuit">open: callers are answered without the store<//>`}
        ${store.journal_hits > 0 && html`<${Fact} name="Waiting to be counted">${amount(store.journal_hits)} hits<//>`}
        <${Fact} name="Ready">${status.healthy ? "yes" : html`no: waits for ${status.unhealthy.join(", ")}`}<//>
        <${Fact} name="Replica"><${Text} of=${status.replica ?? status.hostname} longest=${60} /><//>
        <${Fact} name="Version">${status.version}, ${status.transport}<//>
        <${Fact} name="Started"><${Ago} time=${status.started_at} /><//>
        <${Fact} name="Amendments">${amount(amendments.count)}, version ${amount(amendments.version)}, read ${duration(amendments.age_seconds)} ago${amendments.unreadable ? `, ${amount(amendments.unreadable)} of them unreadable` : ""}<//>
      </dl>
    </section>
    <section aria-labelledby="replicas"><h2 id="replicas">Replicas</h2>
      <${Failure} error=${replicas.error} stale=${replicas.at} />
      ${replicas.data && html`<${Replicas} of=${replicas.data} />`}
    </section>
    <${ControlPlanes} />
    <section aria-labelledby="rules"><h2 id="rules">Rules</h2>
      <${Problems} problems=${rules?.problems ?? []} />
      <${Unpaired} of=${rules?.unpaired ?? []} />
      ${rules ? html`<${Rules} rules=${rules} />` : html`<${Loading} of="the rules" />`}
      <p><a href="rlconfig">The rules as text</a>, <a href="stats">the statistics as text</a></p>
    </section>`;
}

const Fact = ({ name, children }) => html`<div><dt>${name}</dt><dd>${children}</dd></div>`;

export function Problems({ problems }) {
  if (problems.length === 0) return html`<p class="quiet">The last load had no errors.</p>`;
  return html`<div class="notice bad"><h3>The last load has failed; earlier rules are in force</h3>
    <ul>${problems.slice(0, 50).map((each, place) => html`<li key=${place}><${Text} of=${problemText(each)} longest=${600} /></li>`)}</ul></div>`;
}

function Unpaired({ of }) {
  if (of.length === 0) return null;
  return html`<div class="notice"><h3>Checked and not charged on this replica, or charged and not checked</h3>
    <ul>${of.slice(0, 50).map((each, place) => html`<li key=${place}><${Text} of=${each} longest=${600} /></li>`)}</ul></div>`;
}

function Replicas({ of: { replicas, in_step: inStep } }) {
  const latest = Math.max(...replicas.map((each) => each.amendments_version ?? 0));
  return html`<p class="quiet">${inStep ? "All replicas have the same rules and amendments." : html`<b>Some replicas have other rules or amendments than this one.</b>`}</p>
  <div class="scroll" tabindex="0" role="region" aria-label="Table of replicas"><table>
    <thead><tr><th scope="col">Replica</th><th scope="col">State</th><th scope="col">Rules</th><th scope="col" class="number">Amendments</th><th scope="col">Seen</th></tr></thead>
    <tbody>${replicas.map((each) => html`<tr key=${each.id}>
      <td><${Text} of=${each.id} longest=${60} />${each.this ? html` <span class="tag">this one</span>` : ""}</td>
      <td><${Standing} of=${each} latest=${latest} /></td>
      <td>${each.generation === null ? "" : `generation ${amount(each.generation)} `}${each.hash ? html`<code>${each.hash.slice(0, 8)}</code>` : ""}</td>
      <td class="number">${each.amendments_version === null ? "" : amount(each.amendments_version)}</td>
      <td>${each.seen_at ? html`<${Ago} time=${each.seen_at} />` : ""}</td>
    </tr>`)}</tbody>
  </table></div>`;
}

function Standing({ of, latest }) {
  if (of.behind_seconds > BEHIND) return html`<span class="state low">${duration(of.behind_seconds)} behind</span>`;
  if ((of.amendments_version ?? 0) < latest) return html`<span class="state low">Earlier amendments</span>`;
  return html`<span class="state ok">In step</span>`;
}

function Rules({ rules }) {
  const { domains, generation, hash, loaded_at: loadedAt } = rules;
  if (domains.length === 0) return html`<p class="notice">No rules are loaded: nothing is limited.</p>`;
  return html`
    <p class="quiet">${generation === null ? "" : `Generation ${amount(generation)} `}${hash ? html`<code title=${hash}>${hash.slice(0, 12)}</code>` : ""}${loadedAt ? html`, in force since <${At} time=${loadedAt} seconds />` : ""}</p>
    ${domains.slice(0, DOMAINS).map((each) => html`<${Domain} key=${each.domain} of=${each} open=${domains.length <= 5} />`)}
    ${domains.length > DOMAINS && html`<p class="quiet">${amount(domains.length - DOMAINS)} more domains are in <a href="rlconfig">the rules as text</a>.</p>`}`;
}

function Domain({ of, open }) {
  const [opened, setOpened] = useState(open);
  const { domain } = of;
  return html`<details open=${opened} onToggle=${(event) => setOpened(event.currentTarget.open)}><summary><b><${Text} of=${domain} longest=${80} /></b> (${amount(of.rules)} ${of.rules === 1 ? "rule" : "rules"}${of.limits_as_data ? `, ${amount(of.limits_as_data)} limits as data` : ""})</summary>
    ${opened && html`
      <p><a href=${href("budgets", { domain })}>Its budgets</a> · <a href=${href("change", { domain, verb: "override", amount: "0", pattern: "*" })}>Block the whole domain …</a> · <a href=${href("change", { domain })}>Change many of its budgets …</a></p>
      ${of.unmatched === "deny" && html`<p>A request with a descriptor that no rule matches is refused${of.required_keys.length ? html`, and so is one without ${of.required_keys.map((key, place) => html`${place ? ", " : ""}<${Text} of=${key} longest=${40} />`)}` : ""}.</p>`}
      <${RulesOf} domain=${domain} />`}
  </details>`;
}

function RulesOf({ domain }) {
  const { data, error, at } = usePolled(`rules of ${domain}`, (signal) => call(`rules${query({ domain, limit: SHOWN })}`, { signal }), 30_000);
  return html`<${Failure} error=${error} stale=${at} />
    ${data && data.rules.length > 0 && html`<div class="scroll" tabindex="0" role="region" aria-label=${`Rules of ${visibleText(domain, 60)}`}><table>
      <thead><tr><th scope="col">Rule</th><th scope="col">Limits</th><th scope="col">Name</th></tr></thead>
      <tbody>${data.rules.map((rule, place) => html`<tr key=${place}>
        <td><${Text} of=${rule.rule} /></td>
        <td>${rule.limits.map((each) => `${amount(each.limit)} / ${each.window}`).join(", ") || (rule.unlimited ? "unlimited" : "")}${rule.kind === "requests" && rule.limits.length ? " (requests)" : ""}${rule.shadow ? html` <span class="tag">trial</span>` : ""}</td>
        <td><${Text} of=${rule.name ?? ""} longest=${60} /></td>
      </tr>`)}</tbody>
    </table></div>`}
    ${data?.next_cursor && html`<p class="quiet">These are the first ${amount(SHOWN)}; all are in <a href="rlconfig">the rules as text</a>.</p>`}`;
}
