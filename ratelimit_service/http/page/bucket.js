// One bucket: its windows, tokens over time, what amends it, why it is refused, and the verbs.

import { useEffect, useRef, useState } from "./vendor/standalone.module.js";
import { call, usePolled } from "./api.js";
import { Amendments } from "./amendments.js";
import { Window } from "./budgets.js";
import { Change } from "./change.js";
import { Chart } from "./chart.js";
import { Outcome } from "./explain.js";
import { minus, rate, serverNow, visibleText } from "./format.js";
import { describe, Entries, Failure, html, Loading, State, Text } from "./parts.js";
import { RefusalTable, useRefusals } from "./refusals.js";
import { href } from "./route.js";

const EVERY = 2_000;
const SAMPLES = 300;
const WHOLE = 20_000;

export function Bucket({ parameters, status }) {
  const { domain = "", descriptor = "" } = parameters;
  if (!domain || !descriptor) {
    return html`<h1 tabindex="-1">Bucket</h1><p class="notice bad">The address names no bucket. <a href=${href("budgets")}>All budgets</a></p>`;
  }
  return html`<${Known} key=${`${domain} ${descriptor}`} domain=${domain} descriptor=${descriptor} status=${status} />`;
}

function Known({ domain, descriptor, status }) {
  const body = { domain, descriptor };
  const name = JSON.stringify(body);
  const bucket = usePolled(`bucket ${name}`, (signal) => call("bucket", { body, signal }), EVERY);
  const budget = bucket.data;
  // A check is what gateways send before a request; where requests are counted, it is a hit.
  const hits = budget?.kind === "requests" ? 1 : 0;
  const explained = usePolled(`explain ${hits} ${name}`, (signal) => call("explain", { body: { ...body, hits }, signal }), 3 * EVERY);
  const series = usePolled(`series ${name}`, (signal) => call("series", { body, signal }), 2 * EVERY);
  const sampled = useSamples(budget);
  const refusals = useRefusals();
  const mine = (refusals.data ?? []).filter((each) => each.domain === domain && each.descriptor === descriptor);
  useEffect(() => {
    if (budget) document.title = `${describe(budget)} – ratelimit-service`;
  }, [budget?.bucket]);
  const [points, step] = series.data?.points.length
    ? [series.data.points.map((point) => ({ at: Date.parse(point.at) - 1_000 * series.data.step_seconds, value: point.tokens })), series.data.step_seconds]
    : [sampled, EVERY / 1_000];
  const unknown = bucket.error?.status === 404;
  return html`
    <nav class="trail" aria-label="Where this is"><a href=${href("budgets")}>Budgets</a> › <a href=${href("budgets", { domain })}><${Text} of=${domain} longest=${60} /></a></nav>
    <h1 tabindex="-1">${budget ? html`<${Entries} of=${budget.entries} longest=${200} />` : html`<${Text} of=${descriptor} longest=${200} />`}</h1>
    ${unknown ? html`<p class="notice">No rule limits this descriptor.</p>` : html`<${Failure} error=${bucket.error} stale=${bucket.at} />`}
    ${!budget && !bucket.error && html`<${Loading} of="the bucket" />`}
    ${budget && html`
      <p><${State} of=${budget.state} />${budget.shadow && html` <span class="tag">trial: nothing is refused</span>`} <span class="quiet">${budget.rule === null ? "No rule limits it any more" : html`Rule <${Text} of=${budget.rule} longest=${200} />`}${budget.name ? html`, named <${Text} of=${budget.name} />` : ""}</span></p>
      <section class=${`card budget ${budget.state}`} aria-label="Windows">
        ${budget.windows.length === 0 && html`<p>No rule limits this bucket.</p>`}
        ${budget.windows.map((each) => html`<${Window} key=${each.counter} window=${each} />`)}
        ${budget.windows.filter((each) => each.burn_per_second > 0).slice(0, 1).map((each) => html`<p key="burn" class="quiet">At present ${rate(each.burn_per_second)} a second</p>`)}
      </section>
      <section aria-labelledby="over-time">
        <h2 id="over-time">Over time</h2>
        ${points.length ? html`<${Chart} points=${points} step=${step} label=${budget.kind === "requests" ? "Requests" : "Tokens"} />` : html`<p class="quiet">The chart begins now, and goes on while this page is open.</p>`}
      </section>`}
    <section aria-labelledby="change"><h2 id="change">Change it</h2>
      <${Change} domain=${domain} descriptor=${descriptor} windows=${budget?.windows.map((each) => each.window) ?? []} status=${status} />
    </section>
    ${budget && html`<section aria-labelledby="amended"><h2 id="amended">Amendments of its limit</h2>
      <${Amendments} amendments=${budget.amendments} status=${status} none="None: the limit is that of the rule." />
    </section>`}
    <section aria-labelledby="answer"><h2 id="answer">The answer to a request now</h2>
      <${Failure} error=${explained.error} stale=${explained.at} />
      ${explained.data && html`<${Outcome} of=${explained.data} />`}
    </section>
    <section aria-labelledby="refused"><h2 id="refused">Last refusals</h2>
      <${RefusalTable} refusals=${mine.slice(0, 20)} none="None of the last refusals of this replica is for this bucket." />
    </section>
    <details><summary>The whole descriptor</summary>
      <p class="whole"><code>${visibleText(descriptor, WHOLE)}</code></p>
      ${budget?.windows.map((each) => html`<p key=${each.counter} class="whole">Counter of ${each.window}: <code>${visibleText(each.counter, WHOLE)}</code></p>`)}
    </details>`;
}

// The use between two readings of the bucket, while the service has no series of it yet.
function useSamples(budget) {
  const [points, set] = useState([]);
  const before = useRef(null);
  const window = budget?.windows.at(-1);
  useEffect(() => {
    if (!window || window.used === null) return;
    const last = before.current;
    before.current = window;
    if (!last || last.starts_at !== window.starts_at || window.used < last.used) return;
    set((all) => [...all, { at: serverNow() - EVERY, value: minus(window.used, last.used) }].slice(-SAMPLES));
  }, [budget]);
  return points;
}
