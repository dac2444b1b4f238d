// The first view: every budget as bars, those that need attention first.

import { useEffect, useMemo, useState } from "./vendor/standalone.module.js";
import { useListing } from "./listing.js";
import { amount, visibleText } from "./format.js";
import { amendedText, Bar, BucketLink, Failure, html, Loading, Outlook, State, STATES, Text, Used } from "./parts.js";
import { amend, href } from "./route.js";
import { VirtualList } from "./virtual.js";

const SORTS = {
  "-used": "Needs attention first",
  name: "Domain and key",
  reset: "Next reset",
  used: "Least used",
};

const NARROW = window.matchMedia("(max-width: 44rem)");

function useNarrow() {
  const [narrow, set] = useState(NARROW.matches);
  useEffect(() => {
    const changed = () => set(NARROW.matches);
    NARROW.addEventListener("change", changed);
    return () => NARROW.removeEventListener("change", changed);
  }, []);
  return narrow;
}

export function Budgets({ parameters, rules }) {
  const { domain = "", key = "", prefix = "", state = "", sort = "-used" } = parameters;
  const [listing, seen] = useListing({ domain, key, prefix, state, sort });
  const narrow = useNarrow();
  const { items, data, error, at, more } = listing;
  const groups = useMemo(() => items.map((item, index) => groupOf(items, index, sort)), [items, sort]);
  const filtered = Boolean(domain || key || prefix || state);

  return html`
    <h1 tabindex="-1">Budgets</h1>
    <${Filters} ...${{ domain, key, prefix, state, sort }} domains=${data?.domains ?? rules?.domains.map((each) => each.domain) ?? []} />
    <${Failure} error=${error} stale=${at} />
    ${data?.partial && html`<p class="notice" role="status"><b>This is only a part.</b> <${Text} of=${data.partial_reason ?? "The store has more than could be read in time."} longest=${300} /></p>`}
    ${!data && !error && html`<${Loading} of="the budgets" />`}
    ${data && items.length === 0 && html`<${Nothing} filtered=${filtered} rules=${rules} />`}
    ${items.length > 0 && html`
      <p class="quiet">${countText(items.length, data.total, more)}</p>
      <${VirtualList}
        items=${items} idOf=${(item) => item.bucket} narrow=${narrow} seen=${seen} label="Budgets"
        heightOf=${(item, index) => heightOf(item, groups[index], narrow)}
        render=${(item, index) => html`<${Budget} budget=${item} group=${groups[index]} />`}
      />`}`;
}

function countText(count, total, more) {
  if (total !== null) return `${amount(total)} ${total === 1 ? "budget" : "budgets"}`;
  return `${amount(count)} ${count === 1 ? "budget" : "budgets"}${more ? " so far; more come as you scroll" : ""}`;
}

// The heading above a row where a group begins, else "".
function groupOf(items, index, sort) {
  const name = (item) => {
    if (sort === "-used") return STATES[item.state] ?? item.state;
    if (sort === "name") return `${visibleText(item.domain)} · ${item.entries.map(([key]) => visibleText(key, 40)).join(", ")}`;
    return "";
  };
  return index && name(items[index - 1]) === name(items[index]) ? "" : name(items[index]);
}

// In rem, as page.css has it.
const heightOf = (budget, group, narrow) =>
  (group ? 2.75 : 0) + (narrow ? 4.25 + 4 * budget.windows.length : 3.5 + 1.75 * budget.windows.length);

function Budget({ budget, group }) {
  return html`
    ${group && html`<h2 class="group">${group}</h2>`}
    <div class=${`budget ${budget.state}`}>
      <div class="head">
        <h3><${BucketLink} of=${budget} /></h3>
        <${State} of=${budget.state} />
        ${budget.shadow && html`<span class="tag" title="shadow_mode: nothing is refused">trial</span>`}
        ${budget.windows.some((each) => each.amended_by.length > 0) && html`<span class="tag">changed</span>`}
        <span class="where quiet"><${Text} of=${budget.domain} longest=${40} />${budget.name ? html` · <${Text} of=${budget.name} longest=${40} />` : ""}</span>
      </div>
      ${budget.windows.map((each) => html`<${Window} key=${each.window} window=${each} />`)}
    </div>`;
}

export function Window({ window }) {
  const amended = amendedText(window);
  return html`<div class="window">
    <span class="name">${window.window}</span>
    <${Bar} window=${window} />
    <span class="numbers"><${Used} window=${window} />${amended && html` <span class="quiet">${amended}</span>`}${window.held ? html` <span class="quiet">${amount(window.held)} held</span>` : ""}</span>
    <${Outlook} window=${window} />
  </div>`;
}

function Filters({ domain, key, prefix, state, sort, domains }) {
  const [typed, setTyped] = useState({ key, prefix });
  useEffect(() => setTyped({ key, prefix }), [key, prefix]);
  const set = (changes) => amend("budgets", { domain, key, prefix, state, sort: sort === "-used" ? "" : sort, ...changes });
  // Not at every letter: each new search walks the store again.
  useEffect(() => {
    if (typed.key === key && typed.prefix === prefix) return undefined;
    const timer = setTimeout(() => set(typed), 400);
    return () => clearTimeout(timer);
  }, [typed.key, typed.prefix]);
  const offered = domain && !domains.includes(domain) ? [domain, ...domains] : domains;
  const chosen = (name) => (event) => set({ [name]: event.currentTarget.value });
  return html`<form class="filters" role="search" aria-label="Budgets" onSubmit=${(event) => {
    event.preventDefault();
    set(typed);
  }}>
    <label>Domain <select value=${domain} onChange=${chosen("domain")}>
      <option value="">all</option>
      ${offered.map((each) => html`<option key=${each} value=${each} selected=${each === domain}>${visibleText(each, 60)}</option>`)}
    </select></label>
    <label>Key <input name="key" value=${typed.key} size="10" autocomplete="off" spellcheck=${false} onInput=${(event) => setTyped({ ...typed, key: event.currentTarget.value })} /></label>
    <label>Value begins with <input name="prefix" type="search" value=${typed.prefix} size="14" autocomplete="off" spellcheck=${false} onInput=${(event) => setTyped({ ...typed, prefix: event.currentTarget.value })} /></label>
    <label>State <select value=${state} onChange=${chosen("state")}>
      <option value="">any</option>
      ${Object.entries(STATES).map(([value, words]) => html`<option key=${value} value=${value} selected=${value === state}>${words}</option>`)}
    </select></label>
    <label>Sort <select value=${sort} onChange=${chosen("sort")}>
      ${Object.entries(SORTS).map(([value, words]) => html`<option key=${value} value=${value} selected=${value === sort}>${words}</option>`)}
    </select></label>
  </form>`;
}

// An empty list explains itself.
function Nothing({ filtered, rules }) {
  if (filtered) {
    return html`<p class="notice">No budget matches. A bucket is listed from its first request in a window on; <a href=${href("budgets")}>show all</a>, or <a href=${href("explain")}>explain one</a> that was not used yet.</p>`;
  }
  const domains = (rules?.domains ?? []).map((each) => each.domain);
  if (rules && domains.length === 0) {
    return html`<section class="notice" aria-label="How to begin">
      <h2>No rules are loaded yet</h2>
      <p>The service limits nothing until it has rules. Put a file such as this one into the directory that <code>CONFIG_PATH</code> names:</p>
      <pre tabindex="0">domain: token-budgets
descriptors:
  - key: team
    rate_limit:
      unit: hour
      tokens_per_unit: 5000</pre>
      <p>It is read within a second or so. <a href=${href("service")}>What was wrong with the last load</a> is listed with the rules.</p>
    </section>`;
  }
  return html`<section class="notice" aria-label="How to begin">
    <h2>Nothing is counted yet</h2>
    <p>A bucket is listed here from its first request in a window on. ${rules ? html`Rules are in force for ${domains.slice(0, 20).map((each, place) => html`${place ? ", " : ""}<b><${Text} of=${each} longest=${60} /></b>`)}.` : ""}</p>
    <p>If gateways send requests already, they may use another domain or other keys: <a href=${href("explain")}>explain</a> says which rule a descriptor matches, and <a href=${href("service")}>the rules</a> have all domains and keys.</p>
  </section>`;
}
