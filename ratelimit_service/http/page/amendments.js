// Amendments as a table, each of which can be removed.

import { useState } from "./vendor/standalone.module.js";
import { call, refresh } from "./api.js";
import { amount, visibleText } from "./format.js";
import { At, Failure, html, Text } from "./parts.js";

export const newKey = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

export function amendmentText({ kind, amount: value }) {
  if (kind === "override") return value === 0 ? "blocked" : `limit is ${amount(value)}`;
  return `+${amount(value)}`;
}

export function Ending({ of: { until, windows } }) {
  if (until) return html`until <${At} time=${until} />`;
  if (windows) return windows === 1 ? "until the window ends" : `for ${amount(windows)} windows`;
  return "until it is removed";
}

export const Target = ({ domain, descriptor }) => descriptor === "*"
  ? html`the whole domain <${Text} of=${domain} longest=${60} />`
  : html`<${Text} of=${descriptor ?? ""} longest=${80} />`;

export function Amendments({ amendments, status, none, label = "Amendments" }) {
  const [error, setError] = useState(null);
  const [asked, setAsked] = useState(null);
  const [reason, setReason] = useState("");
  const mayWrite = status?.you === "admin";
  const remove = async (event) => {
    event.preventDefault();
    try {
      await call("remove", { body: { id: asked.id, reason: reason.trim() }, key: asked.key });
      setError(null);
      setAsked(null);
      setReason("");
      refresh();
    } catch (failed) {
      setError(failed);
    }
  };
  if (amendments.length === 0) return html`<p class="quiet">${none}</p>`;
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${label}><table>
    <thead><tr><th scope="col">For</th><th scope="col">What</th><th scope="col">Window</th><th scope="col">How long</th><th scope="col">Who and why</th>${mayWrite && html`<th scope="col"><span class="hidden">Remove</span></th>`}</tr></thead>
    <tbody>${amendments.map((one) => html`<tr key=${one.id}>
      <td><${Target} ...${one} /></td>
      <td><b>${amendmentText(one)}</b></td>
      <td>${one.window ?? "every one"}</td>
      <td><${Ending} of=${one} /></td>
      <td>${one.author ? html`<${Text} of=${one.author} longest=${60} />: ` : ""}<${Text} of=${one.reason} /></td>
      ${mayWrite && html`<td><button type="button" aria-label=${`Remove "${amendmentText(one)}" of ${visibleText(one.descriptor, 80)}`} onClick=${() => {
        setAsked({ id: one.id, text: amendmentText(one), descriptor: one.descriptor, key: newKey() });
        setError(null);
      }}>Remove …</button></td>`}
    </tr>`)}</tbody>
  </table></div>
  ${asked && html`<form class="card" onSubmit=${remove} aria-label="Remove an amendment">
    <p><b>Remove "${asked.text}"</b> of <${Text} of=${asked.descriptor} longest=${80} />?</p>
    <div class="fields"><label class="wide">Reason <input name="removal" value=${reason} onInput=${(event) => setReason(event.currentTarget.value)} maxlength="1000" autocomplete="off" required /></label>
    <button type="submit" class="danger">Remove</button> <button type="button" class="plain" onClick=${() => setAsked(null)}>Cancel</button></div>
  </form>`}
  <${Failure} error=${error} />`;
}
