// A change in two steps: a preview of its effect, and the change itself.

import { html, useEffect, useRef, useState } from "./vendor/standalone.module.js";
import { amendmentText, Ending, Target } from "./amendment.js";
import { call, refresh } from "./api.js";
import { amount } from "./format.js";
import { Entries, Failure, Text, Used } from "./parts.js";

const newKey = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

// { look(verb, body), forget(), complain(error), busy, below }: `below` belongs below the form; `done` is called after a change.
export function useChange(done) {
  const [preview, setPreview] = useState(null);
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  const shown = useRef(null);
  useEffect(() => {
    if (preview) shown.current?.focus();
  }, [preview]);

  const run = async (work) => {
    setBusy(true);
    setError(null);
    try {
      await work();
    } catch (failed) {
      setError(failed);
      // The preview is out of date.
      if (failed.status === 409 || failed.status === 422) setPreview(null);
    }
    setBusy(false);
  };
  const look = (verb, body) =>
    run(async () => setPreview({ verb, body, key: newKey(), answer: await call(verb, { body: { ...body, dry_run: true } }) }));
  // Each attempt has the same key: after a lost answer, the retry must not make a second change.
  const confirm = () =>
    run(async () => {
      const { verb, body, key, answer } = preview;
      const confirmation = answer.confirmation ? { confirmation: answer.confirmation } : {};
      await call(verb, { body: { ...body, ...confirmation, dry_run: false }, key });
      setPreview(null);
      done();
      refresh();
    });
  const forget = () => {
    setPreview(null);
    setError(null);
  };

  const below = html`<${Failure} error=${error} />
    ${preview && html`<section class="preview" ref=${shown} tabindex="-1" aria-label="Preview">
      <p><b>Preview: nothing is changed yet</b></p>
      <${Preview} answer=${preview.answer} />
      <p><button type="button" class="danger" disabled=${busy} onClick=${confirm}>Confirm</button> <button type="button" class="plain" onClick=${forget}>Cancel</button></p>
    </section>`}`;
  return { look, forget, complain: setError, busy, below };
}

function Preview({ answer: { edits, budgets, affected, affected_partial: partial, exceptions, notes } }) {
  const exact = budgets.length === 1 && budgets[0].before.descriptor === edits[0].descriptor;
  return html`
    <ul>${edits.map((edit, place) => html`<li key=${place}><${Edited} edit=${edit} /></li>`)}</ul>
    ${notes.map((note) => html`<p key=${note} class="notice bad"><b>Note:</b> <${Text} of=${note} longest=${600} /></p>`)}
    ${affected !== null && !exact && html`<p>It affects <b>${partial ? "at least " : ""}${amount(affected)}</b> present ${affected === 1 ? "bucket" : "buckets"}${budgets.length < affected ? ", some of which are listed" : ""}, and every new bucket that matches.</p>`}
    ${budgets.length > 0 && html`<div class="scroll" tabindex="0" role="region" aria-label="Before and after"><table>
      <thead><tr><th scope="col">Bucket</th><th scope="col">Window</th><th scope="col">Now</th><th scope="col">After</th></tr></thead>
      <tbody>${budgets.flatMap(({ before, after }) => before.windows.map((window, place) => html`<tr key=${window.counter}>
        <td>${place === 0 ? html`<${Entries} of=${before.entries} />` : ""}</td>
        <td>${window.window}</td>
        <td><${Used} window=${window} /></td>
        <td><${Used} window=${after.windows[place] ?? window} /></td>
      </tr>`))}</tbody>
    </table></div>`}
    ${exceptions.length > 0 && html`<p>It does not affect these, which have overrides of their own:</p>
      <ul>${exceptions.map((one) => html`<li key=${one.id}><${Target} ...${one} />: ${amendmentText(one)}</li>`)}</ul>`}`;
}

function Edited({ edit }) {
  const target = html`<${Target} domain=${edit.domain ?? ""} descriptor=${edit.descriptor} />${edit.window ? ` (${edit.window})` : ""}`;
  if (edit.action === "reset") return html`The use of ${target} is set to 0`;
  if (edit.action === "remove") return edit.before ? html`${target}: "${amendmentText(edit.before)}" is removed` : html`${target}: there is nothing to remove`;
  return html`${target}: <b>${amendmentText(edit.after)}</b>, <${Ending} of=${edit.after} />${edit.before ? html`, in place of "${amendmentText(edit.before)}"` : ""}`;
}
