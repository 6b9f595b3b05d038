// The queue: who waits for a sandbox, and the operators' order that takes one out of it.

import { attempt, get, send, session } from "/console/api.js";
import { ask } from "/console/dialog.js";
import { button, duration, element, find, link, moment, setText } from "/console/page.js";
import { address, route } from "/console/route.js";

const REFRESH_MS = 2000;
const COLUMNS = ["Position", "Student", "Key", "Prefix, lab", "Waits", "Request", "Actions"];

/** The number of the last request. The answer of an earlier one is discarded. */
let lastRequest = 0;

export const loadQueue = () => attempt("Reading the queue", () => show(), { isRead: true });

async function show({ isRefresh = false } = {}) {
  lastRequest += 1;
  const own = lastRequest;
  const queue = await get("queue");
  if (lastRequest !== own) return;
  const list = find("queue-rows");
  const keyOf = ({ track_id: track, idempotency_key: key }) => JSON.stringify([track, key]);
  const keys = queue.tickets.map(keyOf);
  const kept = new Map([...list.children].map((row) => [row.dataset.key, row]));
  for (const ticket of queue.tickets) {
    const key = keyOf(ticket);
    if (!kept.has(key)) kept.set(key, newRow(key, ticket));
    fill(kept.get(key), ticket);
  }
  const isSame = list.children.length === keys.length && keys.every((key, index) => list.children[index].dataset.key === key);
  // What an operator points at must not move. Its texts are up to date all the same.
  const isHeld = isRefresh && !isSame && (list.contains(document.activeElement) || list.matches(":hover") || find("dialog").open);
  if (!isSame && !isHeld) list.replaceChildren(...keys.map((key) => kept.get(key)));
  const changed = isHeld ? "; the list has changed, and is redrawn when the pointer and the focus leave it" : "";
  setText(find("queue-caption"), summaryOf(queue) + changed);
}

function summaryOf({ waiting, absent, eta_seconds: eta, tickets }) {
  if (!waiting && !absent) return "No one waits.";
  const waiters = `${waiting} ${waiting === 1 ? "student waits" : "students wait"}`;
  const expected = waiting && eta !== null && `the last of them for about ${duration(eta)} more at the present supply`;
  const unknown = waiting && eta === null && "no sandbox has come lately, so there is no estimate";
  const away = absent && `${absent} ${absent === 1 ? "keeps its place" : "keep their places"} without an open request`;
  const cut = tickets.length < waiting + absent && `the first ${tickets.length} are shown`;
  return [waiters, expected, unknown, away, cut].filter(Boolean).join("; ");
}

/** Rows are kept while their texts change, so that the focus stays where it is. */
function newRow(key, ticket) {
  const row = element("tr");
  row.dataset.key = key;
  for (const label of COLUMNS) {
    const cell = element(label === "Student" ? "th" : "td");
    if (label === "Student") cell.scope = "row";
    cell.dataset.label = label;
    row.append(cell);
  }
  const { track_id: track, idempotency_key: id } = ticket;
  row.children[1].append(element("bdi", track));
  if (id !== track) row.children[2].append(element("bdi", id));
  const drop = button("Drop", `Drop ${track} from the queue`, () => dropTicket(ticket), "danger");
  row.lastElementChild.append(drop);
  return row;
}

function fill(row, { position, name_prefix: prefix, track_name: lab, enqueued_at: since, seen_at: seen, expires_at: expires }) {
  const [place, , , kind, waits, state] = row.children;
  const signature = JSON.stringify([position, prefix, lab, expires]);
  const now = Date.now() / 1000;
  setText(place, position === null ? "–" : String(position));
  const age = duration(Math.max(0, now - since));
  if (waits.children.length) setText(waits.firstElementChild, age);
  else waits.append(element("span", age), element("span", `since ${moment(since)}`, "under"));
  if (row.dataset.state === signature) return;
  row.dataset.state = signature;
  kind.replaceChildren(...[prefix && element("span", prefix), lab && link(lab, address("sandboxes", { lab }))].filter(Boolean));
  kind.lastElementChild?.classList.toggle("under", Boolean(prefix && lab));
  const isOpen = position !== null;
  const absence = `last seen ${moment(seen)}, expires ${moment(expires)}`;
  state.replaceChildren(element("span", isOpen ? "open" : "absent", `badge ${isOpen ? "running" : "paused"}`), element("span", isOpen ? "" : absence, "under"));
}

async function dropTicket({ track_id: track, idempotency_key: key }) {
  const text = "The student's request is answered with an error, and its place is lost. A client that asks again waits at the end of the queue.";
  const reason = await ask({ title: `Drop ${track} from the queue?`, text, yes: "Drop", withReason: true });
  if (!reason) return;
  await attempt(`Dropping ${track}`, async () => {
    const query = new URLSearchParams({ track_id: track, idempotency_key: key, reason });
    const { dropped } = await (await send(`queue?${query}`, { method: "DELETE" })).json();
    await show();
    // The button that had the focus is gone.
    find("queue-caption").focus();
    setText(find("queue-caption"), dropped ? `${track} was dropped from the queue.` : `${track} did not wait any more.`);
  });
}

export function clearQueue() {
  find("queue-rows").replaceChildren();
  setText(find("queue-caption"), "");
}

setInterval(() => {
  const isLive = find("connection").classList.contains("live");
  if (session.token && isLive && route().tab === "queue" && !document.hidden) show({ isRefresh: true }).catch(() => {});
}, REFRESH_MS);
