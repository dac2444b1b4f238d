// Amounts over time as stacked bars in SVG, with a legend, what they say in words, and as a table.

import { Frame, HEIGHT, niceCeiling, WIDTH } from "./chart.js";
import { amount, exact, visibleText } from "./format.js";
import { html, Text } from "./parts.js";
import { local } from "./spent.js";

const OTHERS = "all others";
const EMPTY = "(empty)";
const nameOf = (name) => (name === null ? OTHERS : visibleText(name, 40) || EMPTY);
export const shown = (value) => amount(exact(String(value)));
const when = (at) => local(at).slice(0, 16).replace("T", " ");

// An untrusted value, which can be empty.
export const Name = ({ of, longest }) => (of === "" ? html`<span class="quiet">${EMPTY}</span>` : html`<${Text} of=${of} longest=${longest} />`);

// `bars` are { start, end, parts }, the oldest first, with a BigInt for each of `names`; null stands for all others.
export function Stacked({ bars, names, label }) {
  if (bars.length === 0) return null;
  const above = (value) => (value > 0n ? Number(value) : 0);
  const heights = bars.map(({ parts }) => parts.reduce((sum, value) => sum + above(value), 0));
  const highest = niceCeiling(Math.max(1, ...heights));
  const from = bars[0].start;
  const to = bars.at(-1).end;
  const x = (at) => (WIDTH * (at - from)) / (to - from);
  const sums = names.map((_, place) => bars.reduce((sum, { parts }) => sum + parts[place], 0n));
  const sum = sums.reduce((all, each) => all + each, 0n);
  const words = `${label} from ${when(from)} to ${when(to)}: ${shown(sum)} in all. ${names.map((name, place) => `${nameOf(name)} ${shown(sums[place])}`).join(", ")}`;
  const legend = html`<ul class="legend" aria-label="Legend">${names.map((name, place) => html`<li key=${place}><span class=${`swatch series-${place}`} aria-hidden="true" /> ${name === null ? OTHERS : html`<${Name} of=${name} longest=${40} />`} <span class="quiet">${shown(sums[place])}</span></li>`)}</ul>`;
  return html`<${Frame} words=${words} highest=${highest} from=${when(from)} to=${when(to)} legend=${legend}
    caption=${`${shown(sum)} tokens in total.`} name=${`${label}, as a table`} table=${() => html`
      <thead><tr><th scope="col">From</th>${names.map((name, place) => html`<th key=${place} scope="col" class="number">${nameOf(name)}</th>`)}</tr></thead>
      <tbody>${bars.map(({ start, parts }) => html`<tr key=${start}><td>${when(start)}</td>${names.map((_, place) => html`<td key=${place} class="number">${shown(parts[place])}</td>`)}</tr>`)}</tbody>`}>
    ${bars.map(({ start, end, parts }) => {
      let top = HEIGHT;
      const left = x(start);
      const width = Math.max(0.5, (x(end) - left) * 0.9);
      return html`<g key=${start}>${parts.map((value, place) => {
        const height = (HEIGHT * above(value)) / highest;
        top -= height;
        return height > 0 && html`<rect key=${place} class=${`series-${place}`} x=${left} width=${width} y=${top} height=${height} />`;
      })}</g>`;
    })}
  <//>`;
}
