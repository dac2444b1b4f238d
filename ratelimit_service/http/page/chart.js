// Amounts over time as bars in SVG, with what they say in words and as a table.

import { html, useState } from "./vendor/standalone.module.js";
import { amount, moment } from "./format.js";

export const WIDTH = 640;
export const HEIGHT = 140;
const SHORTEST = 120_000;

// A chart: its bars are `children`. `table` returns what stands in the table, which `name` names.
export function Frame({ words, highest, from, to, legend, caption, name, table, children }) {
  const [asTable, setAsTable] = useState(false);
  return html`<figure class="chart">
    <svg viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label=${words} preserveAspectRatio="none">
      ${[0, 0.5, 1].map((part) => html`<line key=${part} class="grid" x1="0" x2=${WIDTH} y1=${HEIGHT * (1 - part)} y2=${HEIGHT * (1 - part)} />`)}
      ${children}
    </svg>
    <div class="scale" aria-hidden="true"><span>${amount(highest)}</span><span>${amount(highest / 2)}</span><span>0</span></div>
    <div class="span" aria-hidden="true"><span>${from}</span><span>${to}</span></div>
    ${legend}
    <figcaption>${caption} <button type="button" class="plain" aria-expanded=${asTable} onClick=${() => setAsTable(!asTable)}>${asTable ? "Hide the table" : "As a table"}</button></figcaption>
    ${asTable && html`<div class="scroll" tabindex="0" role="region" aria-label=${name}><table>${table()}</table></div>`}
  </figure>`;
}

// `points` are { at: milliseconds, value }, the oldest first; each is for the `step` seconds from `at` on.
export function Chart({ points, step, label }) {
  if (points.length === 0) return null;
  const highest = niceCeiling(Math.max(1, ...points.map(({ value }) => Number(value))));
  const to = points.at(-1).at + step * 1_000;
  const from = Math.min(points[0].at, to - SHORTEST);
  const x = (at) => (WIDTH * (at - from)) / (to - from);
  const height = (value) => (HEIGHT * Number(value)) / highest;
  const sum = points.reduce((all, { value }) => all + BigInt(value), 0n);
  const most = points.reduce((best, point) => (point.value > best.value ? point : best), points[0]);
  const words =
    `${label} from ${moment(points[0].at, { seconds: true })} to ${moment(to, { seconds: true })}: ${amount(sum)} in all, ` +
    `at most ${amount(most.value)} in ${step} s, at ${moment(most.at, { seconds: true })}`;
  const bar = Math.max(1, x(from + step * 1_000) - 1);
  return html`<${Frame} words=${words} highest=${highest} from=${moment(from, { seconds: true })} to=${moment(to, { seconds: true })}
    caption=${`${words}.`} name=${label} table=${() => html`
      <thead><tr><th scope="col">From</th><th scope="col" class="number">${label}</th></tr></thead>
      <tbody>${points.filter(({ value }) => value > 0).map(({ at, value }) => html`<tr key=${at}><td>${moment(at, { seconds: true })}</td><td class="number">${amount(value)}</td></tr>`)}</tbody>`}>
    ${points.map(({ at, value }) => value > 0 && html`<rect key=${at} class="value" x=${x(at)} width=${bar} y=${HEIGHT - height(value)} height=${height(value)} />`)}
  <//>`;
}

// 1, 2 or 5 times a power of ten.
export function niceCeiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return Math.max(2, [1, 2, 5, 10].map((each) => each * power).find((each) => each >= value));
}
