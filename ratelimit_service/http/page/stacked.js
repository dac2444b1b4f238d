// Amounts over time as stacked bars in SVG, with a legend, what they say in words, and as a table.

import { useState } from "./vendor/standalone.module.js";
import { niceCeiling } from "./chart.js";
import { amount, exact, visibleText } from "./format.js";
import { html, Text } from "./parts.js";
import { local } from "./spent.js";

const WIDTH = 640;
const HEIGHT = 140;

const OTHERS = "all others";
const EMPTY = "(empty)";
const nameOf = (name) => (name === null ? OTHERS : visibleText(name, 40) || EMPTY);
const shown = (value) => amount(exact(String(value)));
const when = (at) => local(at).slice(0, 16).replace("T", " ");

// An untrusted value, which can be empty.
export const Name = ({ of, longest }) => (of === "" ? html`<span class="quiet">${EMPTY}</span>` : html`<${Text} of=${of} longest=${longest} />`);

// `bars` are { start, end, parts }, the oldest first, with a BigInt for each of `names`; null stands for all others.
export function Stacked({ bars, names, label }) {
  const [asTable, setAsTable] = useState(false);
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
  return html`<figure class="chart stacked">
    <svg viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label=${words} preserveAspectRatio="none">
      ${[0, 0.5, 1].map((part) => html`<line key=${part} class="grid" x1="0" x2=${WIDTH} y1=${HEIGHT * (1 - part)} y2=${HEIGHT * (1 - part)} />`)}
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
    </svg>
    <div class="scale" aria-hidden="true"><span>${amount(highest)}</span><span>${amount(highest / 2)}</span><span>0</span></div>
    <div class="span" aria-hidden="true"><span>${when(from)}</span><span>${when(to)}</span></div>
    <ul class="legend" aria-label="Legend">${names.map((name, place) => html`<li key=${place}><span class=${`swatch series-${place}`} aria-hidden="true" /> ${name === null ? OTHERS : html`<${Name} of=${name} longest=${40} />`} <span class="quiet">${shown(sums[place])}</span></li>`)}</ul>
    <figcaption>${shown(sum)} tokens in total. <button type="button" class="plain" aria-expanded=${asTable} onClick=${() => setAsTable(!asTable)}>${asTable ? "Hide the table" : "As a table"}</button></figcaption>
    ${asTable && html`<div class="scroll" tabindex="0" role="region" aria-label=${`${label}, as a table`}><table>
      <thead><tr><th scope="col">From</th>${names.map((name, place) => html`<th key=${place} scope="col" class="number">${nameOf(name)}</th>`)}</tr></thead>
      <tbody>${bars.map(({ start, parts }) => html`<tr key=${start}><td>${when(start)}</td>${names.map((_, place) => html`<td key=${place} class="number">${shown(parts[place])}</td>`)}</tr>`)}</tbody>
    </table></div>`}
  </figure>`;
}
