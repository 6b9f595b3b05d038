// The table of sandboxes: search, filter, pages, and the operators' actions on single sandboxes.

import { attempt, get, post, session } from "/console/api.js";
import { ask } from "/console/dialog.js";
import { button, element, find, moment, setText, words } from "/console/page.js";

const PAGE_SIZE = 25;
// One request of a search covers a part of the table, and finds at most SEARCH_LIMIT sandboxes. After MAX_REQUESTS
// requests a page is shown as it is.
const SEARCH_LIMIT = 100;
const MAX_REQUESTS = 5;
const REFRESH_MS = 5000;
// The search starts this long after the last key press.
const TYPING_MS = 400;

/** Where the pages up to the present one start, and where the next one starts. */
let pages = { cursors: [null], next: null };
/** The number of the last request. The answer of an earlier one is discarded. */
let lastRequest = 0;
let typing;

export async function loadSandboxes() {
  await attempt("Listing the sandboxes", show);
}

async function show() {
  lastRequest += 1;
  const own = lastRequest;
  const { sandboxes, next } = await fetchPage(pages.cursors.at(-1));
  if (lastRequest !== own) return;
  pages.next = next;
  find("rows").replaceChildren(...sandboxes.map(row));
  const place = `Page ${pages.cursors.length}, ${sandboxes.length} ${sandboxes.length === 1 ? "sandbox" : "sandboxes"}`;
  const nothing = next ? "Nothing found so far; the next page searches further." : "No sandbox fits.";
  setText(find("table-caption"), sandboxes.length ? place : nothing);
  find("previous").disabled = pages.cursors.length === 1;
  find("next").disabled = !next;
}

async function fetchPage(cursor) {
  const sandboxes = [];
  const search = find("search").value.trim();
  let next = cursor;
  for (let requests = 0; requests < MAX_REQUESTS && sandboxes.length < PAGE_SIZE; requests += 1) {
    const query = new URLSearchParams({ limit: search ? SEARCH_LIMIT : PAGE_SIZE });
    if (find("status").value) query.set("status", find("status").value);
    if (search) query.set("search", search);
    if (next) query.set("cursor", next);
    const answer = await get(`sandboxes?${query}`);
    sandboxes.push(...answer.sandboxes);
    next = answer.cursor;
    if (!next) break;
  }
  return { sandboxes, next };
}

function row(sandbox) {
  const made = element("tr");
  const cell = (label, ...content) => {
    const td = element("td");
    td.dataset.label = label;
    td.append(...content.filter(Boolean));
    made.append(td);
  };
  const { sandbox_id: id, status } = sandbox;
  cell("Sandbox", element("b", sandbox.name), element("span", id, "id"));
  cell("Status", element("span", words(status), `badge ${status}`));
  cell("Track", sandbox.allocated_to_track, sandbox.track_name && element("span", sandbox.track_name, "under"));
  cell("Ends", status === "allocated" && moment(sandbox.expires_at));
  const nextAttempt = sandbox.next_attempt_at && `next attempt at ${moment(sandbox.next_attempt_at)}`;
  cell("Last error", sandbox.last_error, nextAttempt && element("span", nextAttempt, "under"));
  cell("Actions", ...actions(id, sandbox));
  return made;
}

function actions(id, { status, allocated_to_track: track }) {
  if (status === "allocated") {
    const text = `The holding of ${track} ends at once, and the sandbox with all its contents is deleted at the cloud provider. This cannot be undone.`;
    return [button("Release", `Release sandbox ${id}`, () => change(id, "release", text), "danger")];
  }
  if (status === "deletion_failed") {
    const text = "The sandbox becomes pending deletion again, and the next cleanup tries to delete it at the cloud provider.";
    const label = `Retry the deletion of sandbox ${id}`;
    return [button("Retry deletion", label, () => change(id, "retry-deletion", text))];
  }
  return [];
}

async function change(id, verb, text) {
  const what = verb === "release" ? `Release sandbox ${id}` : `Retry the deletion of sandbox ${id}`;
  if (!(await ask({ title: `${what}?`, text, yes: what }))) return;
  await attempt(what, async () => {
    await post(`sandboxes/${encodeURIComponent(id)}/${verb}`);
    await show();
    setText(find("table-caption"), `${what}: done.`);
    // The button that had the focus is gone.
    find("table-caption").focus();
  });
}

function restart() {
  clearTimeout(typing);
  pages = { cursors: [null], next: null };
  return loadSandboxes();
}

find("filter").addEventListener("submit", (submitted) => {
  submitted.preventDefault();
  restart();
});
find("status").addEventListener("change", restart);
find("search").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(restart, TYPING_MS);
});
find("next").addEventListener("click", () => {
  pages.cursors.push(pages.next);
  loadSandboxes();
});
find("previous").addEventListener("click", () => {
  pages.cursors.pop();
  loadSandboxes();
});

setInterval(() => {
  // A button that an operator is about to press must not move.
  const isInUse = find("rows").contains(document.activeElement) || find("rows").matches(":hover") || find("dialog").open;
  const isLive = find("connection").classList.contains("live");
  if (session.token && isLive && !isInUse && !document.hidden) show().catch(() => {});
}, REFRESH_MS);
