// The form that explains the answer to a descriptor. Nothing is counted.

import { useEffect, useState } from "./vendor/standalone.module.js";
import { amendmentText, Ending, Target } from "./amendment.js";
import { call, usePolled } from "./api.js";
import { amount, typedAmount } from "./format.js";
import { At, BucketLink, Failure, html, Loading, Text } from "./parts.js";
import { amend } from "./route.js";

export function Explain({ parameters, rules }) {
  const { domain = "", descriptor = "", hits = "0" } = parameters;
  const [typed, setTyped] = useState({ domain, descriptor, hits });
  const [wrong, setWrong] = useState("");
  useEffect(() => setTyped({ domain, descriptor, hits }), [domain, descriptor, hits]);
  const set = (name) => (event) => setTyped({ ...typed, [name]: event.currentTarget.value });
  const submit = (event) => {
    event.preventDefault();
    const what = !typed.domain ? "Give the domain that the gateway sends." : !typed.descriptor ? "Give the entries, such as team=dba." : typedAmount(typed.hits) === null ? "Hits are a whole number." : "";
    setWrong(what);
    if (!what) amend("explain", { ...typed, hits: typed.hits === "0" ? "" : typed.hits });
  };
  return html`
    <h1 tabindex="-1">Explain</h1>
    <p class="quiet">The rule that a descriptor matches, and the answer that a request with it would get now. Nothing is counted.</p>
    <form class="card" onSubmit=${submit} aria-label="Explain a descriptor">
      <div class="fields">
        <label>Domain <input name="domain" list="domains" value=${typed.domain} onInput=${set("domain")} autocomplete="off" spellcheck=${false} /></label>
        <datalist id="domains">${(rules?.domains ?? []).map((each) => html`<option key=${each.domain} value=${each.domain} />`)}</datalist>
        <label class="wide">Descriptor <input name="descriptor" value=${typed.descriptor} onInput=${set("descriptor")} placeholder="team=dba,model=large" autocomplete="off" spellcheck=${false} aria-describedby="grammar" /></label>
        <label>Hits <input name="hits" value=${typed.hits} onInput=${set("hits")} inputmode="numeric" size="6" aria-describedby="grammar" /></label>
        <button type="submit">Explain</button>
      </div>
      <p class="quiet" id="grammar">Entries in the gateway's order. In a value, <code>\\,</code> <code>\\*</code> <code>\\\\</code> are these characters, <code>\\xFF</code> is a byte. 0 hits are a check, as before a request to a model.</p>
      ${wrong && html`<p class="notice bad" role="alert">${wrong}</p>`}
    </form>
    ${domain && descriptor && html`<${Answer} domain=${domain} descriptor=${descriptor} hits=${typedAmount(hits) ?? 0} />`}`;
}

function Answer({ domain, descriptor, hits }) {
  const body = { domain, descriptor, hits };
  const { data, error, at } = usePolled(JSON.stringify(body), (signal) => call("explain", { body, signal }), 5_000);
  return html`<section aria-labelledby="explained"><h2 id="explained">${data ? html`Answer for <${BucketLink} of=${data} />` : "Answer"}</h2>
    <${Failure} error=${error} stale=${at} />
    ${!data && !error && html`<${Loading} of="the answer" />`}
    ${data && html`<${Outcome} of=${data} />`}
  </section>`;
}

export function Outcome({ of }) {
  const { code, reason, rule, source, message, limit, considered, possible, amendments } = of;
  const refused = code === "OVER_LIMIT";
  return html`<div class="outcome">
    <div class=${`notice ${refused ? "bad" : "good"}`} role="status"><b>${refused ? "Refused:" : "Let through:"}</b> <${Text} of=${reason} longest=${600} />
      ${limit && html`<p>${amount(limit.remaining)} of ${amount(limit.limit)} left in the window "${limit.window}", which ends at <${At} time=${limit.resets_at} />.</p>`}
      ${message && html`<p>The caller reads: “<${Text} of=${message} longest=${600} />”</p>`}
    </div>
    ${rule && html`<p>The rule is <b><${Text} of=${rule} longest=${200} /></b>${source ? html`, in <${Text} of=${source} longest=${200} />` : ""}.</p>`}
    ${considered.length > 0 && html`<div class="scroll" tabindex="0" role="region" aria-label="Rules that were considered"><table>
      <thead><tr><th scope="col">Rule</th><th scope="col">Applies</th><th scope="col">Why</th></tr></thead>
      <tbody>${considered.map((each, place) => html`<tr key=${place}><td><${Text} of=${each.rule} /></td><td>${each.wins ? html`<b>yes</b>` : "no"}</td><td><${Text} of=${each.reason} longest=${300} /></td></tr>`)}</tbody>
    </table></div>`}
    ${of.considered_left_out > 0 && html`<p class="quiet">${amount(of.considered_left_out)} more rules do not apply.</p>`}
    ${amendments.length > 0 && html`<p>Amendments that match it:</p><ul>${amendments.map((one) => html`<li key=${one.id}><b>${amendmentText(one)}</b> for <${Target} ...${one} />, <${Ending} of=${one} />: ${one.holds ? "in effect" : html`<${Text} of=${one.why} longest=${200} />`}</li>`)}</ul>`}
    ${possible.length > 0 && html`<p>With more entries, these rules could apply:</p><ul>${possible.map((each, place) => html`<li key=${place}><${Text} of=${each.rule} />${each.missing.length ? html`, with ${each.missing.map((key, index) => html`${index ? ", " : ""}<${Text} of=${key} longest=${60} />`)}` : ""}</li>`)}${of.possible_more ? html`<li>and others</li>` : ""}</ul>`}
  </div>`;
}
