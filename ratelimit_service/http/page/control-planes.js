// The control planes that send rules over xDS; nothing where there are none.

import { call, usePolled } from "./api.js";
import { amount } from "./format.js";
import { Ago, Failure, html, Text } from "./parts.js";

export function ControlPlanes() {
  const { data, error, at } = usePolled("control planes", (signal) => call("control-planes", { signal }), 5_000);
  if (data?.control_planes.length === 0) return null;
  return html`<section aria-labelledby="control-planes"><h2 id="control-planes">Control planes</h2>
    <${Failure} error=${error} stale=${at} />
    ${data && html`<${Table} of=${data.control_planes} />`}
    ${data?.control_planes.map((each, place) => html`<${Troubles} key=${place} of=${each} />`)}
    ${data?.overlay_problems.length > 0 && html`<div class="notice bad"><h3>The overlays are invalid; the previous overlays stay in force</h3><${Lines} of=${data.overlay_problems} /></div>`}
  </section>`;
}

function Table({ of }) {
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Table of control planes"><table>
    <thead><tr><th scope="col">Control plane</th><th scope="col">State</th><th scope="col">In force</th><th scope="col" class="number">Domains</th><th scope="col" class="number">Rejected</th><th scope="col">Accepted</th></tr></thead>
    <tbody>${of.map((each, place) => html`<tr key=${place}>
      <td><${Text} of=${each.server} longest=${60} /></td>
      <td><${State} of=${each} /></td>
      <td>${each.generation === 0 ? "nothing yet" : html`generation ${amount(each.generation)} <code>${(each.hash ?? "").slice(0, 8)}</code>`}</td>
      <td class="number">${amount(each.domains)}</td>
      <td class="number">${amount(each.rejected_domains)}</td>
      <td>${each.accepted_at ? html`<${Ago} time=${each.accepted_at} />` : ""}</td>
    </tr>`)}</tbody>
  </table></div>`;
}

function State({ of }) {
  if (of.connected && !of.stale_since) return html`<span class="state ok">Connected</span>`;
  return html`<span class=${`state ${of.generation ? "low" : "over"}`}>${of.connected ? "Connected" : "Not connected"}</span>${of.stale_since ? html`, stale since <${Ago} time=${of.stale_since} />` : ""}`;
}

function Troubles({ of: { server, connected, error, rejected, rejected_domains: domains, missing } }) {
  return html`
    ${!connected && error && html`<p class="notice bad"><b><${Text} of=${server} longest=${60} /> is not connected:</b> <${Text} of=${error} longest=${300} /></p>`}
    ${rejected.length > 0 && html`<div class="notice bad"><h3>${amount(domains)} ${domains === 1 ? "domain" : "domains"} of <${Text} of=${server} longest=${60} /> rejected; their last good rules stay in force</h3><${Lines} of=${rejected} /></div>`}
    ${missing.length > 0 && html`<div class="notice"><h3>No longer sent by <${Text} of=${server} longest=${60} />, and about to end</h3><${Lines} of=${missing} /></div>`}`;
}

const SHOWN = 50;

const Lines = ({ of }) => html`<ul>${of.slice(0, SHOWN).map((each, place) => html`<li key=${place}><${Text} of=${each} longest=${600} /></li>`)}</ul>`;
