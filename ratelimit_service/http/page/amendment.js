// What an amendment is, in words.

import { amount } from "./format.js";
import { At, html, Text } from "./parts.js";

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
