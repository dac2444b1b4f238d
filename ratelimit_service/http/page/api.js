// Calls of /api/v1 with the token of this tab, and views that follow its answers.

import { useEffect, useState } from "./vendor/standalone.module.js";
import { parse, serialise, serverNow, setClock } from "./format.js";

const TOKEN = "ratelimit-service token";
const PATIENCE = 10_000;
const LONGEST_WAIT = 15_000;

// The address of the page may have a path before it, behind a proxy.
const BASE = new URL("api/v1/", document.baseURI);

export class Problem extends Error {
  constructor(status, title, detail, retryAfter = 0) {
    super(detail || title);
    this.status = status;
    this.title = title;
    this.retryAfter = retryAfter;
  }
}

export const token = () => sessionStorage.getItem(TOKEN) ?? "";

export function setToken(value) {
  if (value) sessionStorage.setItem(TOKEN, value);
  else sessionStorage.removeItem(TOKEN);
  refresh();
}

// GET, or POST where there is a body. `name` is a path below /api/v1 with its query.
export async function call(name, { body, key, signal } = {}) {
  const headers = { accept: "application/json" };
  if (token()) headers.authorization = `Bearer ${token()}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  if (key) headers["idempotency-key"] = key;
  const late = AbortSignal.timeout(PATIENCE);
  let answer, text;
  try {
    answer = await fetch(new URL(name, BASE), {
      method: body === undefined ? "GET" : "POST",
      headers,
      body: body === undefined ? undefined : serialise(body),
      signal: signal ? AbortSignal.any([signal, late]) : late,
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
      referrerPolicy: "no-referrer",
    });
    text = await answer.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem(0, "The service does not answer", late.aborted ? `no answer within ${PATIENCE / 1000} s` : "");
  }
  setClock(answer.headers.get("date"));
  let data;
  try {
    data = parse(text);
  } catch {
    throw new Problem(answer.status, `The service answered ${answer.status}, and not with JSON`, text.slice(0, 200));
  }
  if (!answer.ok) {
    const wait = Number(answer.headers.get("retry-after")) || 0;
    throw new Problem(answer.status, data.title ?? `The service answered ${answer.status}`, data.detail ?? "", wait);
  }
  return data;
}

export function query(parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return given.length ? `?${new URLSearchParams(given)}` : "";
}

// Every view asks again at once.
export const refresh = () => window.dispatchEvent(new Event("refresh"));

// Call `load(signal)` now, `every` milliseconds, and at `refresh`; not while the page is hidden. After an error it waits longer.
export function poll(load, every, failed) {
  const stop = new AbortController();
  let timer = 0;
  let running = false;
  let again = false;
  let wait = every;
  const run = async () => {
    clearTimeout(timer);
    if (document.hidden || stop.signal.aborted) return;
    if (running) {
      again = true;
      return;
    }
    running = true;
    try {
      await load(stop.signal);
      wait = every;
    } catch (error) {
      if (stop.signal.aborted) return;
      if (!(error instanceof Problem)) console.error(error);
      wait = Math.max(Math.min(wait * 2, LONGEST_WAIT), (error.retryAfter ?? 0) * 1000);
      failed(error);
    } finally {
      running = false;
      if (!stop.signal.aborted) timer = setTimeout(run, again ? 0 : wait);
      again = false;
    }
  };
  const options = { signal: stop.signal };
  document.addEventListener("visibilitychange", run, options);
  window.addEventListener("refresh", run, options);
  window.addEventListener("online", run, options);
  run();
  return () => {
    stop.abort();
    clearTimeout(timer);
  };
}

// { data, error, at }: the last answer, what has failed since (null: nothing), and when the answer came. Another `name` begins anew.
export function usePolled(name, load, every) {
  const nothing = { name, data: undefined, error: null, at: 0 };
  const [state, set] = useState(nothing);
  useEffect(() => {
    set(nothing);
    return poll(
      async (signal) => {
        const data = await load(signal);
        set({ name, data, error: null, at: serverNow() });
      },
      every,
      (error) => set((before) => ({ ...before, error })),
    );
  }, [name]);
  return state.name === name ? state : nothing;
}
