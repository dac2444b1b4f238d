// The page: what needs attention, the views, and the token of this tab.

import { html, render, useEffect, useRef, useState } from "./vendor/standalone.module.js";
import { call, setToken, token, usePolled } from "./api.js";
import { Bucket } from "./bucket.js";
import { Budgets } from "./budgets.js";
import { ChangeMany, Changes } from "./changes.js";
import { Explain } from "./explain.js";
import { duration, serverNow } from "./format.js";
import { Text } from "./parts.js";
import { Refusals } from "./refusals.js";
import { href, useRoute } from "./route.js";
import { problemText, Service } from "./service.js";
import { Usage } from "./usage.js";

const VIEWS = {
  budgets: ["Budgets", Budgets],
  refusals: ["Refusals", Refusals],
  explain: ["Explain", Explain],
  usage: ["Usage", Usage],
  changes: ["Changes", Changes],
  service: ["Service", Service],
};
const OTHERS = { bucket: ["Bucket", Bucket], change: ["Change many budgets", ChangeMany] };

const OLD_AMENDMENTS = 5;

function Page() {
  const route = useRoute();
  const status = usePolled("status", (signal) => call("status", { signal }), 5_000);
  const loaded = status.data ? `${status.data.rules.generation} ${status.data.rules.hash} ${status.data.rules.problems} ${status.data.you}` : "";
  const rules = usePolled(`rules ${loaded}`, (signal) => (loaded ? call("rules?limit=1", { signal }) : Promise.resolve(undefined)), 60_000);
  const [dialog, setDialog] = useState(false);
  const [name, View] = VIEWS[route.view] ?? OTHERS[route.view] ?? VIEWS.budgets;
  const main = useRef(null);
  const before = useRef(route.view);
  useEffect(() => {
    document.title = `${name} – ratelimit-service`;
    // A screen reader reads the heading of the new view.
    if (before.current !== route.view) main.current?.querySelector("h1")?.focus();
    before.current = route.view;
  }, [route.view]);
  useEffect(() => window.scrollTo(0, 0), [route.view, route.parameters.descriptor]);
  const refused = status.error?.status === 401 || status.error?.status === 403;
  return html`
    <a class="skip" href="#main" onClick=${(event) => {
      event.preventDefault();
      main.current?.querySelector("h1")?.focus();
    }}>To the content</a>
    <header>
      <p class="brand"><a href=${href("budgets")}>ratelimit-service</a></p>
      <nav aria-label="Views"><ul>${Object.entries(VIEWS).map(([view, [words]]) => html`<li key=${view}><a href=${href(view)} aria-current=${route.view === view ? "page" : undefined}>${words}</a></li>`)}</ul></nav>
      <${Live} status=${status} />
      <button type="button" class="plain" onClick=${() => setDialog(true)}>Token …</button>
    </header>
    <${Attention} status=${status} rules=${rules.data} refused=${refused} />
    <main id="main" ref=${main}>
      ${refused && !status.data ? html`<h1 tabindex="-1">${name}</h1>` : html`<${View} key=${route.view} parameters=${route.parameters} status=${status.data} rules=${rules.data} />`}
    </main>
    ${dialog && html`<${TokenDialog} status=${status} close=${() => setDialog(false)} />`}`;
}

const WHO = { admin: "may change budgets", read: "may read", local: "may read" };

function Live({ status }) {
  const [now, setNow] = useState(serverNow());
  useEffect(() => {
    const timer = setInterval(() => setNow(serverNow()), 1_000);
    return () => clearInterval(timer);
  }, []);
  const old = (now - status.at) / 1_000;
  if (!status.data) return html`<p class="live quiet">${status.error ? "No data" : "Connecting …"}</p>`;
  return html`<p class="live quiet">${status.error || old > 12 ? html`<b>Not live</b>, ${duration(old)} old` : "Live"}${token() ? `, ${WHO[status.data.you] ?? ""}` : ""}</p>`;
}

// Problems of the service itself are shown above every view.
function Attention({ status, rules, refused }) {
  const { data, error } = status;
  const notices = [];
  if (refused) {
    notices.push(html`<b>${token() ? "The token is not valid" : "A token is needed"}.</b> ${token() ? "Nothing can be read or changed with it." : "This address needs a token for reading."} Use <b>Token …</b> above.`);
  } else if (error) {
    notices.push(html`<b>${error.title}.</b> ${error.message === error.title ? "" : html`<${Text} of=${error.message} longest=${300} />. `}The values shown may be old; the page tries again.`);
  }
  if (data && (!data.store.reachable || data.store.circuit_open)) {
    notices.push(html`<b>The store does not answer.</b> The budgets shown are old, and changes cannot be made. <a href=${href("service")}>State of the store</a>`);
  }
  const problems = (data?.rules.problems && rules?.problems) || [];
  if (problems.length > 0) {
    notices.push(html`<b>The last load of rules has failed:</b> <${Text} of=${problemText(problems[0])} longest=${300} />${problems.length > 1 ? ` and ${problems.length - 1} more` : ""}. <a href=${href("service")}>All problems</a>`);
  }
  if (data?.amendments.age_seconds > OLD_AMENDMENTS) {
    notices.push(html`<b>Amendments are out of date:</b> this replica read them ${duration(data.amendments.age_seconds)} ago.`);
  }
  return html`<div role="alert" class="attention">${notices.map((each, place) => html`<p key=${place} class="notice bad">${each}</p>`)}</div>`;
}

function TokenDialog({ status, close }) {
  const dialog = useRef(null);
  const [typed, setTyped] = useState("");
  useEffect(() => {
    dialog.current.showModal();
  }, []);
  const save = (event) => {
    event.preventDefault();
    setToken(typed.trim());
    close();
  };
  return html`<dialog ref=${dialog} onClose=${close} aria-labelledby="token-title">
    <form onSubmit=${save}>
      <h2 id="token-title">Token</h2>
      <p>With <code>ADMIN_TOKEN</code> of the service you may change budgets, with <code>READ_TOKEN</code> read them. It stays in this tab, and is forgotten when the tab is closed.</p>
      <label>Token <input type="password" name="token" value=${typed} onInput=${(event) => setTyped(event.currentTarget.value)} autocomplete="off" /></label>
      <p><button type="submit">Use it</button> ${token() && html`<button type="button" class="plain" onClick=${() => {
        setToken("");
        close();
      }}>Forget it</button>`} <button type="button" class="plain" onClick=${close}>Cancel</button></p>
      ${status.data && !status.data.writes && html`<p class="quiet">This service has no admin token: nothing can be changed here.</p>`}
    </form>
  </dialog>`;
}

const page = document.getElementById("page");
page.replaceChildren();
render(html`<${Page} />`, page);
