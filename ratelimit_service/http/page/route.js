// The view that the address names: #/bucket?domain=team-budgets&descriptor=team=dba. It stands in the fragment, which browsers do not send, so
// that names of users do not get into logs of servers and proxies.

import { useEffect, useState } from "./vendor/standalone.module.js";

export function href(view, parameters = {}) {
  const given = Object.entries(parameters).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return `#/${view}${given.length ? `?${new URLSearchParams(given)}` : ""}`;
}

export const bucketHref = (domain, descriptor) => href("bucket", { domain, descriptor });

function current() {
  const [path, parameters = ""] = location.hash.slice(1).split(/\?(.*)/s);
  return { view: path.replace(/^\//, "") || "budgets", parameters: Object.fromEntries(new URLSearchParams(parameters)) };
}

// Put other parameters into the address without another step to go back.
export function amend(view, parameters) {
  history.replaceState(null, "", href(view, parameters));
  window.dispatchEvent(new Event("hashchange"));
}

export function useRoute() {
  const [route, set] = useState(current);
  useEffect(() => {
    const changed = () => set(current());
    window.addEventListener("hashchange", changed);
    return () => window.removeEventListener("hashchange", changed);
  }, []);
  return route;
}
