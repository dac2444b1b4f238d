// The verbs as a form: a preview first, and the change with the same idempotency key only after it was seen.

import { useEffect, useRef, useState } from "./vendor/standalone.module.js";
import { Amendments, amendmentText, Ending, newKey, Target } from "./amendments.js";
import { call, refresh } from "./api.js";
import { amount, typedAmount } from "./format.js";
import { Entries, Failure, html, Text, Used } from "./parts.js";

const VERBS = {
  "top-up": "Top up: add to the limit, used stays",
  override: "Override: set the limit, 0 blocks",
  reset: "Reset: used becomes 0",
  unblock: "Unblock: remove its override",
};

const NAME = "ratelimit-service author";

export function Change({ domain, descriptor, windows = [], pattern = "", status, first = {} }) {
  const [form, setForm] = useState({
    verb: first.verb in VERBS ? first.verb : "top-up",
    scope: descriptor ? "bucket" : pattern === "*" ? "domain" : "pattern",
    pattern: pattern === "*" ? "" : pattern,
    window: "",
    amount: first.amount ?? "",
    end: "window",
    count: "2",
    until: "",
    author: sessionStorage.getItem(NAME) ?? "",
    reason: "",
  });
  const [preview, setPreview] = useState(null);
  const [error, setError] = useState(null);
  const [done, setDone] = useState("");
  const [busy, setBusy] = useState(false);
  const shown = useRef(null);
  useEffect(() => {
    if (preview) shown.current?.focus();
  }, [preview]);

  if (status && !status.writes) {
    return html`<p class="notice">Changes are off. Give the service <code>ADMIN_TOKEN</code> or <code>ADMIN_TOKEN_FILE</code>, and sign in here with that token.</p>`;
  }
  if (status && status.you !== "admin") {
    return html`<p class="notice">Changes need the admin token: use <b>Token …</b> at the top of the page.</p>`;
  }

  const set = (name) => (event) => {
    setForm({ ...form, [name]: event.currentTarget.value });
    setPreview(null);
    setError(null);
    setDone("");
  };
  const { verb, scope, end } = form;
  const amounts = verb === "top-up" || verb === "override";

  const submit = async (event) => {
    event.preventDefault();
    setError(null);
    setDone("");
    let body;
    try {
      body = bodyOf(form, { domain, descriptor });
    } catch (wrong) {
      setError({ title: "The form is not complete", message: wrong.message });
      return;
    }
    sessionStorage.setItem(NAME, form.author);
    setBusy(true);
    try {
      const answer = await call(verb, { body: { ...body, dry_run: true }, key: newKey() });
      setPreview({ verb, body, key: newKey(), answer });
    } catch (failed) {
      setError(failed);
    }
    setBusy(false);
  };

  // The same key at every try: an answer that was lost must not make a second change.
  const confirm = async () => {
    setBusy(true);
    setError(null);
    try {
      const { answer, body, key } = preview;
      const extra = answer.confirmation ? { confirmation: answer.confirmation } : {};
      await call(preview.verb, { body: { ...body, ...extra, dry_run: false }, key });
      setPreview(null);
      setForm({ ...form, amount: "", reason: "" });
      setDone("Done. It is in force on every replica within a second.");
      refresh();
    } catch (failed) {
      setError(failed);
      if (failed.status === 409 || failed.status === 422) setPreview(null);
    }
    setBusy(false);
  };

  return html`<form class="change card" onSubmit=${submit} aria-label="Change a budget">
    <fieldset><legend>What</legend>${Object.entries(VERBS).map(([name, words]) => html`<label key=${name} class="choice"><input type="radio" name="verb" value=${name} checked=${verb === name} onChange=${set("verb")} /> ${words}</label>`)}</fieldset>
    ${!descriptor && html`<fieldset><legend>For</legend>
      <label class="choice"><input type="radio" name="scope" value="pattern" checked=${scope === "pattern"} onChange=${set("scope")} /> descriptors like</label>
      <label>Pattern <input name="pattern" value=${form.pattern} disabled=${scope !== "pattern"} onInput=${set("pattern")} placeholder="user=premium_*" spellcheck=${false} autocomplete="off" /></label>
      <label class="choice"><input type="radio" name="scope" value="domain" checked=${scope === "domain"} onChange=${set("scope")} /> the whole domain <b><${Text} of=${domain} longest=${60} /></b></label>
    </fieldset>`}
    <div class="fields">
      ${html`<label>Window <select value=${form.window} onChange=${set("window")}><option value="">every one</option>${windows.map((each) => html`<option key=${each} value=${each} selected=${each === form.window}>${each}</option>`)}</select></label>`}
      ${amounts && html`<label>${verb === "top-up" ? "Tokens or requests to add" : "Limit"} <input name="amount" inputmode="numeric" value=${form.amount} onInput=${set("amount")} autocomplete="off" size="14" /></label>`}
      ${amounts && html`<label>How long <select name="end" value=${end} onChange=${set("end")}>
        ${verb === "top-up" && html`<option value="window">until the window ends</option><option value="windows">for several windows</option>`}
        <option value="until">until a moment</option>
        <option value="removed">until it is removed</option>
      </select></label>`}
      ${amounts && verb === "top-up" && end === "windows" && html`<label>Windows <input name="count" inputmode="numeric" value=${form.count} onInput=${set("count")} size="4" /></label>`}
      ${amounts && end === "until" && html`<label>Until <input name="until" type="datetime-local" value=${form.until} onInput=${set("until")} /></label>`}
      <label>Your name <input name="author" value=${form.author} onInput=${set("author")} maxlength="200" autocomplete="name" size="14" /></label>
      <label class="wide">Reason <input name="reason" value=${form.reason} onInput=${set("reason")} maxlength="1000" autocomplete="off" /></label>
    </div>
    ${verb === "override" && typedAmount(form.amount) === 0 && html`<p class="notice bad"><b>0 blocks:</b> every request of ${scope === "domain" ? html`the whole domain <${Text} of=${domain} longest=${60} />` : "what this is for"} is refused.</p>`}
    <p><button type="submit" disabled=${busy}>Preview</button></p>
    <${Failure} error=${error} />
    <p role="status" class=${done ? "notice good" : "hidden"}>${done}</p>
    ${preview && html`<section class="preview" ref=${shown} tabindex="-1" aria-label="Preview">
      <p><b>Preview: nothing is changed yet</b></p>
      <${Preview} answer=${preview.answer} />
      <p><button type="button" class="danger" disabled=${busy} onClick=${confirm}>Confirm</button> <button type="button" class="plain" onClick=${() => setPreview(null)}>Cancel</button></p>
    </section>`}
  </form>`;
}

// The body of the call. Throws an Error with what is missing.
function bodyOf(form, { domain, descriptor }) {
  const { verb, scope } = form;
  const body = { domain, descriptor: descriptor ?? (scope === "domain" ? "*" : form.pattern.trim()) };
  if (!body.descriptor) throw new Error("a pattern such as user=premium_* says for whom it is");
  if (!form.reason.trim()) throw new Error("a reason is written into the audit");
  body.reason = form.reason.trim();
  if (form.author.trim()) body.author = form.author.trim();
  if (form.window) body.window = form.window;
  if (verb !== "top-up" && verb !== "override") return body;
  const typed = typedAmount(form.amount);
  if (typed === null) throw new Error("the amount is a whole number");
  body.amount = typed;
  if (form.end === "until") {
    const until = new Date(form.until);
    if (Number.isNaN(until.getTime())) throw new Error("give the moment until which it holds");
    body.until = until.toISOString().replace(/\.\d+Z$/, "Z");
  } else if (verb === "top-up" && form.end !== "removed") {
    const count = form.end === "window" ? 1 : typedAmount(form.count);
    if (!count) throw new Error("the number of windows is a whole number");
    body.windows = count;
  }
  return body;
}

function Preview({ answer }) {
  const { edits, budgets = [], affected = null, affected_partial: partial = false, exceptions = [] } = answer;
  return html`
    <ul>${edits.map((edit, place) => html`<li key=${place}><${Edited} edit=${edit} /></li>`)}</ul>
    ${affected !== null && html`<p>It is for <b>${partial ? "at least " : ""}${amount(affected)}</b> ${affected === 1 ? "bucket" : "buckets"} that ${affected === 1 ? "is" : "are"} counted now${budgets.length < affected ? ", some of which are listed" : ""}, and for every one that comes.</p>`}
    ${budgets.length > 0 && html`<div class="scroll" tabindex="0" role="region" aria-label="Before and after"><table>
      <thead><tr><th scope="col">Bucket</th><th scope="col">Window</th><th scope="col">Now</th><th scope="col">Then</th></tr></thead>
      <tbody>${budgets.flatMap(({ before, after }) => before.windows.map((window, place) => html`<tr key=${window.counter}>
        <td>${place === 0 ? html`<${Entries} of=${before.entries} />` : ""}</td>
        <td>${window.window}</td>
        <td><${Used} window=${window} /></td>
        <td><${Used} window=${after.windows[place] ?? window} /></td>
      </tr>`))}</tbody>
    </table></div>`}
    ${exceptions.length > 0 && html`<p>It does not reach what has an override of its own:</p><${Amendments} amendments=${exceptions} label="Exceptions" />`}`;
}

function Edited({ edit }) {
  const target = html`<${Target} domain=${edit.domain ?? ""} descriptor=${edit.descriptor} />${edit.window ? ` (${edit.window})` : ""}`;
  if (edit.action === "reset") return html`Used becomes 0 for ${target}`;
  if (edit.action === "remove") return edit.before ? html`${target}: "${amendmentText(edit.before)}" is removed` : html`${target}: there is nothing to remove`;
  return html`${target}: <b>${amendmentText(edit.after)}</b>, <${Ending} of=${edit.after} />${edit.before ? html`, in place of "${amendmentText(edit.before)}"` : ""}`;
}
