// The table of sandboxes: search, filter, pages, selection, export, and the operators' actions.

import { attempt, get, session } from "/console/api.js";
import { ask } from "/console/dialog.js";
import { actions, order } from "/console/orders.js";
import { element, find, link, moment, setText, words } from "/console/page.js";
import { address, replace, route } from "/console/route.js";

const PAGE_SIZE = 25;
// One request of a search covers a part of the table, and finds at most SEARCH_LIMIT sandboxes. After MAX_REQUESTS
// requests a page is shown as it is.
const SEARCH_LIMIT = 100;
const MAX_REQUESTS = 5;
const REFRESH_MS = 5000;
// The search starts this long after the last key press.
const TYPING_MS = 400;
// Orders for the selection that are sent at once.
const CONCURRENT = 6;
/** Orders for the selection, by their buttons. Each is for the sandboxes of some statuses. */
const BULK = {
  "release-selected": {
    name: "Release selected",
    statuses: ["allocated"],
    verb: "release",
    text: "Their holdings end at once, and the sandboxes with all their contents are deleted at the cloud provider. This cannot be undone.",
  },
  "retry-selected": {
    name: "Retry selected",
    statuses: ["deletion_failed"],
    verb: "retry-deletion",
    text: "They become pending deletion again, and the next cleanup tries to delete them.",
  },
  "quarantine-selected": {
    name: "Quarantine selected",
    statuses: ["available", "pending_deletion", "deletion_failed"],
    verb: "quarantine",
    text: "They are neither allocated nor deleted until their quarantine ends.",
    withReason: true,
  },
};
const CSV_FIELDS = [
  "sandbox_id", "name", "status", "allocated_to_track", "track_name", "idempotency_key", "allocated_at", "expires_at",
  "deletion_requested_at", "deletion_retry_count", "next_attempt_at", "last_error", "external_id",
];

/** Where the pages up to the present one start, and where the next one starts. */
let pages = { cursors: [null], next: null };
/** The number of the last request. The answer of an earlier one is discarded. */
let lastRequest = 0;
let typing;
/** The sandboxes that are shown, by id. */
let shown = new Map();

/** Shows the sandboxes that the address asks for. */
export async function loadSandboxes() {
  const { query } = route();
  if (document.activeElement !== find("search")) find("search").value = query.get("search") ?? "";
  find("status").value = query.get("status") ?? "";
  if (document.activeElement !== find("lab")) find("lab").value = query.get("lab") ?? "";
  find("held").value = query.get("held_longer_than_hours") ?? "";
  find("overdue").checked = query.get("overdue") === "true";
  if (query.get("cursor") !== (pages.cursors.at(-1) ?? null)) pages = { cursors: query.get("cursor") ? [null, query.get("cursor")] : [null], next: null };
  await attempt("Listing the sandboxes", () => show(), { isRead: true });
}

async function show({ isRefresh = false } = {}) {
  lastRequest += 1;
  const own = lastRequest;
  const { sandboxes, next } = await fetchPage(pages.cursors.at(-1));
  if (lastRequest !== own) return;
  pages.next = next;
  const before = shown;
  shown = new Map(sandboxes.map((sandbox) => [sandbox.sandbox_id, sandbox]));
  const isSame = before.size === shown.size && [...before.keys()].every((id, index) => [...shown.keys()][index] === id);
  const list = find("rows");
  const kept = new Map([...list.children].map((row) => [row.dataset.id, row]));
  const rowOf = (sandbox) => {
    const row = kept.get(sandbox.sandbox_id) ?? newRow(sandbox.sandbox_id);
    fill(row, sandbox);
    return row;
  };
  const place = `Page ${pages.cursors.length}, ${sandboxes.length} ${sandboxes.length === 1 ? "sandbox" : "sandboxes"}`;
  if (isRefresh && !isSame && isInUse()) {
    // What an operator points at must not move. Its texts are up to date all the same.
    for (const sandbox of sandboxes) if (kept.has(sandbox.sandbox_id)) fill(kept.get(sandbox.sandbox_id), sandbox);
    setText(find("table-caption"), `${place}; the list has changed, and is redrawn when the pointer and the focus leave it`);
    return;
  }
  const rows = sandboxes.map(rowOf);
  if (!isSame || list.children.length !== rows.length) list.replaceChildren(...rows);
  const nothing = next ? "Nothing found so far; the next page searches further." : "No sandbox fits.";
  setText(find("table-caption"), sandboxes.length ? place : nothing);
  find("previous").disabled = pages.cursors.length === 1;
  find("next").disabled = !next;
  showSelection();
}

const isInUse = () => find("rows").contains(document.activeElement) || find("rows").matches(":hover") || find("dialog").open || selected().length > 0;

function filters() {
  const parameters = {
    search: find("search").value.trim(),
    status: find("status").value,
    lab: find("lab").value.trim(),
    held_longer_than_hours: find("held").value,
    overdue: find("overdue").checked ? "true" : "",
  };
  return Object.fromEntries(Object.entries(parameters).filter(([, value]) => value));
}

async function fetchPage(cursor) {
  const sandboxes = [];
  let next = cursor;
  for (let requests = 0; requests < MAX_REQUESTS && sandboxes.length < PAGE_SIZE; requests += 1) {
    const query = new URLSearchParams({ limit: filters().search ? SEARCH_LIMIT : PAGE_SIZE, ...filters() });
    if (next) query.set("cursor", next);
    const answer = await get(`sandboxes?${query}`);
    sandboxes.push(...answer.sandboxes);
    next = answer.cursor;
    if (!next) break;
  }
  return { sandboxes, next };
}

function newRow(id) {
  const made = element("tr");
  made.dataset.id = id;
  const labels = ["Select", "Sandbox", "Status", "Track", "Ends", "Last error", "Actions"];
  for (const label of labels) {
    const cell = element(label === "Sandbox" ? "th" : "td");
    if (label === "Sandbox") cell.scope = "row";
    cell.dataset.label = label;
    made.append(cell);
  }
  const box = element("input");
  box.type = "checkbox";
  box.setAttribute("aria-label", `Select sandbox ${id}`);
  box.addEventListener("change", showSelection);
  made.children[0].append(box);
  return made;
}

function fill(row, sandbox) {
  const { sandbox_id: id, status } = sandbox;
  const state = JSON.stringify(sandbox);
  if (row.dataset.state === state) return;
  row.dataset.state = state;
  const [, name, badge, track, ends, error, buttons] = row.children;
  name.replaceChildren(link(sandbox.name, address(`sandbox/${encodeURIComponent(id)}`)), element("span", id, "id"));
  badge.replaceChildren(element("span", words(status), `badge ${status}`), ...(sandbox.standby ? [element("span", "on standby", "under")] : []));
  track.replaceChildren(...[sandbox.allocated_to_track && element("bdi", sandbox.allocated_to_track), sandbox.track_name && element("span", sandbox.track_name, "under")].filter(Boolean));
  setText(ends, status === "allocated" ? moment(sandbox.expires_at) : "");
  const nextAttempt = sandbox.next_attempt_at && `next attempt at ${moment(sandbox.next_attempt_at)}`;
  error.replaceChildren(...[sandbox.last_error && element("span", sandbox.last_error), nextAttempt && element("span", nextAttempt, "under")].filter(Boolean));
  buttons.replaceChildren(...actions(sandbox, async (what) => {
    await show();
    // The button that had the focus is gone.
    find("table-caption").focus();
    setText(find("table-caption"), `${what}: done.`);
  }));
}

const selected = () => [...find("rows").querySelectorAll("input:checked")].map((box) => box.closest("tr").dataset.id);

function showSelection() {
  const chosen = selected().map((id) => shown.get(id)).filter(Boolean);
  setText(find("selection-count"), chosen.length ? `${chosen.length} selected` : "");
  for (const [id, { statuses }] of Object.entries(BULK)) find(id).disabled = !chosen.some(({ status }) => statuses.includes(status));
  find("select-all").checked = chosen.length > 0 && chosen.length === shown.size;
}

async function changeSelected({ name, statuses, verb, text, withReason = false }) {
  const ids = selected().filter((id) => statuses.includes(shown.get(id)?.status));
  const title = `${name}: ${ids.length} ${ids.length === 1 ? "sandbox" : "sandboxes"}?`;
  const answer = await ask({ title, text, yes: name, ...(withReason ? { withReason } : { count: ids.length }) });
  if (answer === null) return;
  await attempt(name, async () => {
    const waiting = [...ids];
    const failures = [];
    const body = withReason ? { reason: answer } : undefined;
    const work = async () => {
      for (let id = waiting.pop(); id; id = waiting.pop()) await order(id, verb, body).catch((error) => failures.push(`${id}: ${error.message}`));
    };
    await Promise.all(Array.from({ length: CONCURRENT }, work));
    for (const box of find("rows").querySelectorAll("input:checked")) box.checked = false;
    await show();
    setText(find("table-caption"), `${name}: ${ids.length - failures.length} of ${ids.length} done.`);
    find("table-caption").focus();
    if (failures.length) throw Object.assign(new Error(failures[0]), { isAnswer: true });
  });
}

/** Saves all sandboxes that fit as comma-separated values. */
async function exportAll() {
  const lines = [CSV_FIELDS.join(",")];
  let cursor = null;
  do {
    const query = new URLSearchParams({ limit: 100, ...filters() });
    if (cursor) query.set("cursor", cursor);
    const page = await get(`sandboxes?${query}`);
    lines.push(...page.sandboxes.map((sandbox) => CSV_FIELDS.map((name) => csvCell(name, sandbox[name])).join(",")));
    cursor = page.cursor;
    setText(find("table-caption"), `Exporting: ${lines.length - 1} sandboxes so far`);
  } while (cursor);
  const file = URL.createObjectURL(new Blob([`${lines.join("\r\n")}\r\n`], { type: "text/csv" }));
  const saved = link("", file);
  saved.download = "sandboxes.csv";
  saved.click();
  URL.revokeObjectURL(file);
  setText(find("table-caption"), `${lines.length - 1} sandboxes exported.`);
}

/** A text that a spreadsheet would take for a formula gets an apostrophe. */
function csvCell(name, value) {
  if (value === null || value === undefined) return "";
  const isTime = name.endsWith("_at");
  if (isTime && value === 0) return "";
  const text = isTime ? new Date(value * 1000).toISOString() : String(value);
  const safe = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

function restart() {
  clearTimeout(typing);
  pages = { cursors: [null], next: null };
  replace("sandboxes", filters());
  return loadSandboxes();
}

function turn() {
  const cursor = pages.cursors.at(-1);
  replace("sandboxes", { ...filters(), cursor });
  return loadSandboxes();
}

find("filter").addEventListener("submit", (submitted) => {
  submitted.preventDefault();
  restart();
});
for (const id of ["status", "held", "overdue"]) find(id).addEventListener("change", restart);
for (const id of ["search", "lab"]) {
  find(id).addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(restart, TYPING_MS);
  });
}
find("next").addEventListener("click", () => {
  pages.cursors.push(pages.next);
  turn();
});
find("previous").addEventListener("click", () => {
  pages.cursors.pop();
  turn();
});
find("select-all").addEventListener("change", ({ target }) => {
  for (const box of find("rows").querySelectorAll("input")) box.checked = target.checked;
  showSelection();
});
for (const [id, bulk] of Object.entries(BULK)) find(id).addEventListener("click", () => changeSelected(bulk));
find("export").addEventListener("click", () => attempt("Exporting", exportAll, { isRead: true }));

setInterval(() => {
  const isLive = find("connection").classList.contains("live");
  if (session.token && isLive && route().tab === "sandboxes" && !document.hidden) show({ isRefresh: true }).catch(() => {});
}, REFRESH_MS);
