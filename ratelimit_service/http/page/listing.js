// The budgets that match a search, read part by part as the reader scrolls; the parts in sight are kept up to date.

import { useEffect, useRef, useState } from "./vendor/standalone.module.js";
import { call, poll, query } from "./api.js";
import { serverNow } from "./format.js";
import { STATES } from "./parts.js";

// Every page reads the first part every two seconds, so it is small. Few readers scroll far, and those need large parts.
const FIRST = 25;
const FURTHER = 50;
const FAR = 200;
const FAR_FROM = 500;
const EVERY = 2_000;
const AHEAD = 25;
const MOST_AT_ONCE = 3;

const NOTHING = { items: [], data: null, error: null, at: 0, more: false };

const ORDER = Object.keys(STATES);
const urgency = (budget) => ORDER.indexOf(budget.state);

class Listing {
  constructor(parameters, changed) {
    this.parameters = parameters;
    this.changed = changed;
    this.parts = [];
    this.items = [];
    this.placeOf = new Map();
    this.sight = [0, 0];
    this.error = null;
    this.at = 0;
    this.reading = null;
  }

  async read({ cursor, limit }, signal) {
    return call(`budgets${query({ ...this.parameters, limit, cursor })}`, { signal });
  }

  // Read the parts in sight again, and the first part, which has the values of the whole list.
  async again(signal) {
    const wanted = [0, ...this.inSight().filter((place) => place > 0)].slice(0, MOST_AT_ONCE);
    for (const place of wanted) {
      const part = this.parts[place] ?? { cursor: "", limit: FIRST };
      let data;
      try {
        data = await this.read(part, signal);
      } catch (error) {
        // The store may no longer know a cursor. The parts before it are still valid.
        if (place === 0 || ![400, 404, 410, 422].includes(error.status)) throw error;
        this.parts.length = place;
        this.parts[place - 1].data.next_cursor = null;
        break;
      }
      this.parts[place] = { ...part, data };
      if (data.next_cursor === null) this.parts.length = place + 1;
      else if (this.parts[place + 1]) this.parts[place + 1].cursor = data.next_cursor;
    }
    this.error = null;
    this.at = serverNow();
    this.tell();
    await this.ahead(signal);
  }

  inSight() {
    const [first, last] = this.sight;
    return [...new Set(this.items.slice(first, last + 1).map(({ bucket }) => this.placeOf.get(bucket)))];
  }

  // Read further parts when the end of the list comes into sight.
  async ahead(signal) {
    if (this.reading) return this.reading;
    this.reading = (async () => {
      while (this.next !== null && this.sight[1] + AHEAD >= this.count && !signal.aborted) {
        const part = { cursor: this.next, limit: this.count < FAR_FROM ? FURTHER : FAR };
        const data = await this.read(part, signal);
        if (part.cursor !== this.next) continue;
        this.parts.push({ ...part, data });
        this.tell();
        if (data.budgets.length === 0) break;
      }
    })();
    try {
      await this.reading;
    } finally {
      this.reading = null;
    }
  }

  get next() {
    return this.parts.at(-1)?.data.next_cursor ?? null;
  }

  get count() {
    return this.parts.reduce((sum, part) => sum + part.data.budgets.length, 0);
  }

  failed(error) {
    this.error = error;
    this.tell();
  }

  // A bucket that has moved meanwhile may be in two parts: the first place counts.
  tell() {
    this.placeOf = new Map();
    this.items = [];
    this.parts.forEach((part, place) => {
      for (const budget of part.data.budgets) {
        if (this.placeOf.has(budget.bucket)) continue;
        this.placeOf.set(budget.bucket, place);
        this.items.push(budget);
      }
    });
    // The service sorts from time to time, and the use is as of now: sort here, so that a bucket that crosses its limit moves up.
    if (this.parameters.sort === "-used") this.items.sort((one, other) => urgency(one) - urgency(other) || (other.share ?? 0) - (one.share ?? 0));
    const data = this.parts[0]?.data ?? null;
    this.changed({ items: this.items, data, error: this.error, at: this.at, more: this.next !== null });
  }
}

// Returns the listing, and a function to call when other items come into sight.
export function useListing(parameters) {
  const name = JSON.stringify(parameters);
  const [state, set] = useState({ name, ...NOTHING });
  const listing = useRef(null);
  useEffect(() => {
    set({ name, ...NOTHING });
    const stop = new AbortController();
    const mine = new Listing(parameters, (next) => stop.signal.aborted || set({ name, ...next }));
    listing.current = { mine, signal: stop.signal };
    const end = poll((signal) => mine.again(signal), EVERY, (error) => mine.failed(error));
    return () => {
      stop.abort();
      end();
    };
  }, [name]);
  const seen = (first, last) => {
    const { mine, signal } = listing.current ?? {};
    if (!mine) return;
    mine.sight = [first, last];
    if (mine.parts.length) mine.ahead(signal).catch((error) => signal.aborted || mine.failed(error));
  };
  return [state.name === name ? state : { name, ...NOTHING }, seen];
}
