// The verbs as a form: first a preview, and after it the change, with the same idempotency key.

import { useState } from "./vendor/standalone.module.js";
import { typedAmount } from "./format.js";
import { html, Text } from "./parts.js";
import { useChange } from "./preview.js";

const VERBS = {
  "top-up": "Top up: add to the limit, keep the use",
  override: "Override: set the limit, 0 blocks",
  reset: "Reset: set the use to 0",
  unblock: "Unblock: remove its override",
};

const ENDS = {
  window: "until the window ends",
  windows: "for several windows",
  removed: "until it is removed",
  until: "until a date and time",
};

// An override has no number of windows, so the choice for a top-up does not apply to it.
const fits = (verb, end) => verb === "top-up" || end === "removed" || end === "until";
const endOf = ({ verb, end }) => (fits(verb, end) ? end : "removed");

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
  const [done, setDone] = useState("");
  const change = useChange(() => {
    setForm((before) => ({ ...before, amount: "", reason: "" }));
    setDone("Done. It is in force on every replica within a second.");
  });

  if (status && !status.writes) {
    return html`<p class="notice">Changes are off. Give the service <code>ADMIN_TOKEN</code> or <code>ADMIN_TOKEN_FILE</code>, and sign in here with that token.</p>`;
  }
  if (status && status.you !== "admin") {
    return html`<p class="notice">Changes need the admin token: use <b>Token …</b> at the top of the page.</p>`;
  }

  const set = (name) => (event) => {
    setForm({ ...form, [name]: event.currentTarget.value });
    change.forget();
    setDone("");
  };
  const { verb, scope } = form;
  const end = endOf(form);
  const amounts = verb === "top-up" || verb === "override";

  const submit = (event) => {
    event.preventDefault();
    setDone("");
    let body;
    try {
      body = bodyOf(form, { domain, descriptor });
    } catch (wrong) {
      change.complain({ title: "The form is not complete", message: wrong.message });
      return;
    }
    sessionStorage.setItem(NAME, form.author);
    change.look(verb, body);
  };

  return html`<form class="change card" onSubmit=${submit} aria-label="Change a budget">
    <fieldset><legend>What</legend>${Object.entries(VERBS).map(([name, words]) => html`<label key=${name} class="choice"><input type="radio" name="verb" value=${name} checked=${verb === name} onChange=${set("verb")} /> ${words}</label>`)}</fieldset>
    ${!descriptor && html`<fieldset><legend>For</legend>
      <label class="choice"><input type="radio" name="scope" value="pattern" checked=${scope === "pattern"} onChange=${set("scope")} /> descriptors like</label>
      <label>Pattern <input name="pattern" value=${form.pattern} disabled=${scope !== "pattern"} onInput=${set("pattern")} placeholder="user=premium_*" spellcheck=${false} autocomplete="off" /></label>
      <label class="choice"><input type="radio" name="scope" value="domain" checked=${scope === "domain"} onChange=${set("scope")} /> the whole domain <b><${Text} of=${domain} longest=${60} /></b></label>
    </fieldset>`}
    <div class="fields">
      <label>Window <select value=${form.window} onChange=${set("window")}><option value="">every one</option>${windows.map((each) => html`<option key=${each} value=${each} selected=${each === form.window}>${each}</option>`)}</select></label>
      ${amounts && html`<label>${verb === "top-up" ? "Tokens or requests to add" : "Limit"} <input name="amount" inputmode="numeric" value=${form.amount} onInput=${set("amount")} autocomplete="off" size="14" /></label>`}
      ${amounts && html`<label>How long <select name="end" value=${end} onChange=${set("end")}>
        ${Object.entries(ENDS).filter(([name]) => fits(verb, name)).map(([name, words]) => html`<option key=${name} value=${name} selected=${name === end}>${words}</option>`)}
      </select></label>`}
      ${amounts && verb === "top-up" && end === "windows" && html`<label>Windows <input name="count" inputmode="numeric" value=${form.count} onInput=${set("count")} size="4" /></label>`}
      ${amounts && end === "until" && html`<label>Until <input name="until" type="datetime-local" value=${form.until} onInput=${set("until")} /></label>`}
      <label>Your name <input name="author" value=${form.author} onInput=${set("author")} maxlength="200" autocomplete="name" size="14" /></label>
      <label class="wide">Reason <input name="reason" value=${form.reason} onInput=${set("reason")} maxlength="1000" autocomplete="off" /></label>
    </div>
    ${verb === "override" && typedAmount(form.amount) === 0 && html`<p class="notice bad"><b>0 blocks:</b> every request of ${scope === "domain" ? html`the whole domain <${Text} of=${domain} longest=${60} />` : "what this is for"} is refused.</p>`}
    <p><button type="submit" disabled=${change.busy}>Preview</button></p>
    <p role="status" class=${done ? "notice good" : "hidden"}>${done}</p>
    ${change.below}
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
  const end = endOf(form);
  if (end === "until") {
    const until = new Date(form.until);
    if (Number.isNaN(until.getTime())) throw new Error("give the moment until which it holds");
    body.until = until.toISOString().replace(/\.\d+Z$/, "Z");
  } else if (end !== "removed") {
    const count = end === "window" ? 1 : typedAmount(form.count);
    if (!count) throw new Error("the number of windows is a whole number");
    body.windows = count;
  }
  return body;
}
