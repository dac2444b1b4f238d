// Amendments as a table, each of which can be removed.

import { useState } from "./vendor/standalone.module.js";
import { amendmentText, Ending, Target } from "./amendment.js";
import { visibleText } from "./format.js";
import { html, Text } from "./parts.js";
import { useChange } from "./preview.js";

export function Amendments({ amendments, status, none }) {
  const [asked, setAsked] = useState(null);
  const mayWrite = status?.you === "admin";
  return html`${amendments.length === 0 ? html`<p class="quiet">${none}</p>` : html`<div class="scroll" tabindex="0" role="region" aria-label="Amendments"><table>
    <thead><tr><th scope="col">For</th><th scope="col">What</th><th scope="col">Window</th><th scope="col">How long</th><th scope="col">Who and why</th>${mayWrite && html`<th scope="col"><span class="hidden">Remove</span></th>`}</tr></thead>
    <tbody>${amendments.map((one) => html`<tr key=${one.id}>
      <td><${Target} ...${one} /></td>
      <td><b>${amendmentText(one)}</b></td>
      <td>${one.window ?? "every one"}</td>
      <td><${Ending} of=${one} /></td>
      <td>${one.author ? html`<${Text} of=${one.author} longest=${60} />: ` : ""}<${Text} of=${one.reason} /></td>
      ${mayWrite && html`<td><button type="button" aria-label=${`Remove "${amendmentText(one)}" of ${visibleText(one.descriptor, 80)}`} onClick=${() => setAsked(one)}>Remove …</button></td>`}
    </tr>`)}</tbody>
  </table></div>`}
  ${asked && html`<${Removal} key=${asked.id} of=${asked} close=${() => setAsked(null)} />`}`;
}

function Removal({ of, close }) {
  const [reason, setReason] = useState("");
  const change = useChange(close);
  const submit = (event) => {
    event.preventDefault();
    change.look("remove", { id: of.id, reason: reason.trim() });
  };
  return html`<form class="card" onSubmit=${submit} aria-label="Remove an amendment">
    <p><b>Remove "${amendmentText(of)}"</b> of <${Target} ...${of} />?</p>
    <div class="fields"><label class="wide">Reason of the removal <input name="removal" value=${reason} onInput=${(event) => {
      setReason(event.currentTarget.value);
      change.forget();
    }} maxlength="1000" autocomplete="off" required /></label>
    <button type="submit" disabled=${change.busy}>Preview</button> <button type="button" class="plain" onClick=${close}>Cancel</button></div>
    ${change.below}
  </form>`;
}
