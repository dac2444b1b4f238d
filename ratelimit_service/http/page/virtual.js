// A long list of which only what is in sight is in the document. It scrolls with the page, so that there is one scroll bar.

import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./vendor/standalone.module.js";

const BEYOND = 600;

const rem = () => parseFloat(getComputedStyle(document.documentElement).fontSize);

// `heightOf(item, index)` is in rem. `seen(first, last)` is called when other items are in sight.
export function VirtualList({ items, idOf, heightOf, render, seen, label, narrow }) {
  const list = useRef(null);
  const [[from, to], setSight] = useState([0, 2_000]);
  const [focused, setFocused] = useState(null);
  const unit = useMemo(rem, [narrow, items.length === 0]);
  const tops = useMemo(() => {
    const found = [0];
    items.forEach((item, index) => found.push(found[index] + heightOf(item, index) * unit));
    return found;
  }, [items, narrow, unit]);

  useLayoutEffect(() => {
    let asked = 0;
    const look = () => {
      asked = 0;
      if (!list.current) return;
      const top = -list.current.getBoundingClientRect().top;
      // In steps, so that a small movement renders nothing.
      const step = Math.floor(top / (BEYOND / 2)) * (BEYOND / 2);
      setSight((before) => {
        const next = [step - BEYOND, step + window.innerHeight + 1.5 * BEYOND];
        return before[0] === next[0] && before[1] === next[1] ? before : next;
      });
    };
    const soon = () => {
      asked ||= requestAnimationFrame(look);
    };
    look();
    window.addEventListener("scroll", soon, { passive: true });
    window.addEventListener("resize", soon);
    return () => {
      cancelAnimationFrame(asked);
      window.removeEventListener("scroll", soon);
      window.removeEventListener("resize", soon);
    };
  }, []);

  const first = Math.max(0, Math.min(items.length - 1, after(tops, from) - 1));
  const last = Math.max(first, Math.min(items.length - 1, after(tops, to) - 1));
  useEffect(() => seen(first, last), [first, last, items]);

  const shown = [];
  for (let index = first; index <= last && index < items.length; index++) shown.push(index);
  // What has the focus stays, however far it was scrolled away.
  const kept = focused === null ? -1 : items.findIndex((item) => idOf(item) === focused);
  if (kept >= 0 && kept < first) shown.unshift(kept);
  if (kept > last) shown.push(kept);

  const focus = (event) => setFocused(event.target.closest("[data-id]")?.dataset.id ?? null);
  return html`<div
    class="virtual" role="list" aria-label=${label} ref=${list}
    style=${{ height: `${tops[items.length]}px` }}
    onfocusin=${focus} onfocusout=${() => setFocused(null)}
  >${shown.map((index) => html`<div
      key=${idOf(items[index])} data-id=${idOf(items[index])} class="virtual-item"
      role="listitem" aria-posinset=${index + 1} aria-setsize=${items.length}
      style=${{ top: `${tops[index]}px`, height: `${tops[index + 1] - tops[index]}px` }}
    >${render(items[index], index)}</div>`)}</div>`;
}

// The place of the first of the ascending numbers that is larger.
function after(numbers, value) {
  let low = 0;
  let high = numbers.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (numbers[middle] > value) high = middle;
    else low = middle + 1;
  }
  return low;
}
