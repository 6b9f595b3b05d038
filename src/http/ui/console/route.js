// What the page shows, in its address: `#/sandboxes?status=allocated`. So it can be linked to, and the browser's buttons
// lead back and forth.

let whenChanged = () => {};

/** The tab, the id after it, and the parameters. */
export function route() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [tab, id] = path.split("/").map(decodeURIComponent);
  return { tab: tab || "overview", id, query: new URLSearchParams(query) };
}

/** The address of a tab with these parameters. Empty ones are left out. */
export function address(path, parameters = {}) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value));
  return `#/${path}${query.size ? `?${query}` : ""}`;
}

/** Changes the parameters of the tab that is shown, without a step in the browser's history. */
export function replace(path, parameters) {
  history.replaceState(null, "", address(path, parameters));
}

/** Registers what to do when the address changes. */
export function onRoute(listener) {
  whenChanged = listener;
}

addEventListener("hashchange", () => whenChanged());
