// The operators' console. Everything that it shows comes as text, never as markup.

import { drawStacked } from "/console/chart.js";

const TOKEN_KEY = "sandbox-broker.admin-token";
const STATUSES = ["available", "allocated", "pending_deletion", "stale", "deletion_failed"];
const HISTORY = 300;
// A chart that begins is so many points wide.
const LEAST_SPAN = 30;
const PAGE_SIZE = 25;
const MAX_EVENTS = 200;
// A search answers in stretches of the table; so many are asked for before a page is shown as it is.
const MAX_STRETCHES = 5;
const TABLE_REFRESH_MS = 5000;
// Snapshots come every second; a connection that is silent for so long is dead.
const SILENCE_MS = 8000;
const MAX_RETRY_MS = 10_000;

const find = (id) => document.getElementById(id);

let token = sessionStorage.getItem(TOKEN_KEY);
let connection = null;
let lastEventId = null;
let history = [];
let page = { cursors: [null], next: null };
let tableRequests = 0;

/** An answer of the broker that is an error. */
class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

const isRefusal = (error) => error instanceof ApiError && (error.status === 401 || error.status === 403);

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined && text !== null) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function button(text, label, action, className) {
  const made = element("button", text, className);
  made.type = "button";
  made.setAttribute("aria-label", label);
  made.addEventListener("click", action);
  return made;
}

const words = (name) => name.replaceAll("_", " ");
const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString();
const moment = (seconds) => new Date(seconds * 1000).toLocaleString();

function notify(text) {
  find("notice").textContent = text;
  find("notice").hidden = !text;
}

async function errorOf(response) {
  const fallback = `the broker answered ${response.status}`;
  try {
    const { error } = await response.json();
    return new ApiError(response.status, `${error.message} (${error.code}, request ${error.request_id})`);
  } catch {
    return new ApiError(response.status, fallback);
  }
}

async function call(method, path, body) {
  const headers = { Authorization: `Bearer ${token}` };
  if (body) headers["Content-Type"] = "application/json";
  const response = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
  if (!response.ok) throw await errorOf(response);
  return response.json();
}

/** Does what an operator has asked for, and says what went wrong. */
async function attempt(what, work) {
  try {
    await work();
    notify("");
  } catch (error) {
    if (isRefusal(error)) return signOut("The token is not accepted any more.");
    const why = error instanceof ApiError ? error.message : "the broker does not answer; nothing may have happened";
    notify(`${what} failed: ${why}`);
  }
}

// --- signing in and out

function signOut(why) {
  sessionStorage.removeItem(TOKEN_KEY);
  token = null;
  connection?.abort();
  lastEventId = null;
  history = [];
  for (const id of ["events", "rows", "actors", "stats", "throughput"]) find(id).replaceChildren();
  find("dialog").close();
  find("about").textContent = "";
  show();
  notify(why ?? "");
  find("token").focus();
}

function show() {
  find("sign-in").hidden = Boolean(token);
  find("console").hidden = !token;
  find("sign-out").hidden = !token;
  find("connection").hidden = !token;
}

function start() {
  show();
  follow();
  loadTable();
}

find("sign-in").addEventListener("submit", async (submitted) => {
  submitted.preventDefault();
  token = find("token").value.trim();
  try {
    await call("GET", "/v1/admin/stats");
  } catch (error) {
    // A broker that is in trouble is what a console is for; only a wrong token keeps it closed.
    if (isRefusal(error)) {
      token = null;
      find("token").select();
      return notify("This token is not accepted. It must be one of the broker's admin tokens.");
    }
    if (!(error instanceof ApiError)) {
      token = null;
      return notify("The broker does not answer. Try again.");
    }
  }
  find("token").value = "";
  sessionStorage.setItem(TOKEN_KEY, token);
  notify("");
  start();
  find("main").focus();
});

find("sign-out").addEventListener("click", () => signOut());

// --- following the broker

function connected(isLive, text) {
  const place = find("connection");
  if (place.textContent !== text) place.textContent = text;
  place.className = isLive ? "live" : "lost";
}

async function follow() {
  let wait = 1000;
  while (token) {
    const current = new AbortController();
    connection = current;
    try {
      await readEvents(current, () => (wait = 1000));
    } catch (error) {
      if (connection !== current) return;
      if (isRefusal(error)) return signOut("The token is not accepted any more.");
    }
    if (connection !== current || !token) return;
    connected(false, "Connection lost; trying again. What is shown may be old.");
    await new Promise((resolve) => setTimeout(resolve, wait));
    // Somebody has signed in anew meanwhile, and that is followed already.
    if (connection !== current) return;
    wait = Math.min(wait * 2, MAX_RETRY_MS);
  }
}

async function readEvents(current, received) {
  let watchdog = setTimeout(() => current.abort(), SILENCE_MS);
  const headers = { Authorization: `Bearer ${token}` };
  if (lastEventId) headers["Last-Event-ID"] = lastEventId;
  try {
    const response = await fetch("/v1/admin/events", { headers, signal: current.signal });
    if (!response.ok) throw await errorOf(response);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      clearTimeout(watchdog);
      watchdog = setTimeout(() => current.abort(), SILENCE_MS);
      received();
      const frames = (text + value).split("\n\n");
      text = frames.pop();
      frames.forEach(handle);
    }
  } finally {
    clearTimeout(watchdog);
  }
}

function handle(frame) {
  const fields = Object.fromEntries(
    frame.split("\n").map((line) => [line.slice(0, line.indexOf(": ")), line.slice(line.indexOf(": ") + 2)]),
  );
  const data = JSON.parse(fields.data);
  if (fields.id) lastEventId = fields.id;
  if (fields.event === "journal") return showEvents(data);
  connected(true, "Live");
  showSnapshot(data);
}

// --- what is shown

function tiles(place, values) {
  place.replaceChildren(
    ...values.map(([name, value, className]) => {
      const tile = element("div", null, className);
      tile.append(element("dt", name), element("dd", value));
      return tile;
    }),
  );
}

const number = (value) => (value === null ? "–" : value.toLocaleString(undefined, { maximumFractionDigits: 2 }));

function showSnapshot(snapshot) {
  find("about").textContent = `version ${snapshot.version}, replica ${snapshot.replica}`;
  const { stats, throughput } = snapshot;
  if (stats) {
    tiles(find("stats"), [...STATUSES, "total"].map((status) => [words(status), number(stats[status]), status]));
    find("pool-empty").hidden = stats.total > 0;
    history.push({ ...stats, rate: throughput.allocations_per_second, at: snapshot.at });
    history = history.slice(-HISTORY);
    const range = `${clock(history[0].at)} to ${clock(snapshot.at)}`;
    const span = Math.max(history.length, LEAST_SPAN);
    const most = drawStacked(find("pool-chart"), STATUSES, history, span);
    find("pool-range").textContent = `${range}, up to ${number(most)} sandboxes`;
    const fastest = drawStacked(find("throughput-chart"), ["rate"], history, span);
    find("throughput-range").textContent = `${range}, up to ${number(fastest)} a second`;
  }
  tiles(find("throughput"), [
    ["allocations per second", number(throughput.allocations_per_second)],
    ["median, ms", number(throughput.p50_ms)],
    ["95 %, ms", number(throughput.p95_ms)],
    ["99 %, ms", number(throughput.p99_ms)],
    ["in flight", number(snapshot.in_flight)],
  ]);
  const { state, consecutive_failures: failures, retry_in_seconds: retry } = snapshot.circuit_breaker;
  const more = [failures ? `${failures} failures in a row` : "", retry === null ? "" : `next try in ${retry} s`];
  find("breaker").textContent = [`Circuit breaker before the cloud provider: ${words(state)}`, ...more.filter(Boolean)].join(", ");
  if (snapshot.actors) showActors(snapshot.actors);
  else connected(true, "Live, but the store does not answer");
}

function showActors(actors) {
  const list = find("actors");
  for (const actor of actors) {
    let card = [...list.children].find((child) => child.dataset.actor === actor.name);
    if (!card) {
      card = newCard(actor.name);
      list.append(card);
    }
    fillCard(card, actor);
  }
}

/** Cards stay, so that the focus stays where it is while their texts change. */
function newCard(name) {
  const card = element("li");
  card.dataset.actor = name;
  const buttons = element("p", null, "buttons");
  const post = (what, verb, body) =>
    attempt(what, async () => {
      fillCard(card, await call("POST", `/v1/admin/actors/${name}/${verb}`, body));
    });
  buttons.append(
    button("Pause", `Pause ${name}`, async () => {
      const text =
        name === "pool-manager"
          ? "No replica allocates until it is resumed: tracks get 503 and try again. Reads and releases go on."
          : "No replica runs this job until it is resumed, also after restarts. A run under way is told to end.";
      const reason = await ask({ title: `Pause ${name}?`, text, yes: `Pause ${name}`, withReason: true });
      if (reason) await post(`Pausing ${name}`, "pause", { reason });
    }),
    button("Resume", `Resume ${name}`, () => post(`Resuming ${name}`, "resume")),
    button("Run now", `Run ${name} now`, () => post(`Running ${name}`, "run")),
  );
  card.append(
    element("h3", name),
    ...["state", "control", "leader", "run", "report", "more"].map((part) => element("p", null, part)),
    buttons,
  );
  return card;
}

function fillCard(card, actor) {
  const set = (part, text, className) => {
    const place = card.querySelector(`p.${part}`);
    if (place.textContent !== text) place.textContent = text;
    place.hidden = !text;
    place.className = className ? `${part} ${className}` : part;
  };
  const { control, last_run: run } = actor;
  const isPaused = actor.desired_state === "paused";
  set("state", isPaused && actor.status !== "paused" ? `${actor.status}, to be paused` : actor.status, actor.status);
  set("control", isPaused && control ? `Paused by ${control.by} at ${moment(control.at)}: ${control.reason}` : "");
  set("leader", actor.leader ? `Leader: ${actor.leader}` : "On every replica");
  const next = actor.next_run ? `; next look at ${clock(actor.next_run)}` : "";
  set("run", run ? `Last run at ${moment(run.started_at)}, ${run.duration_ms} ms${next}` : "");
  set("report", run ? (run.error ?? summary(run.report)) : "", run?.error ? "error" : "");
  // Both are shown elsewhere.
  const { circuit_breaker: _breaker, paused: _paused, ...details } = actor.details ?? {};
  set("more", summary(details));
  const [pause, resume] = card.querySelectorAll("button");
  pause.disabled = isPaused;
  resume.disabled = !isPaused;
}

function summary(fields) {
  return Object.entries(fields ?? {}).map(([name, value]) => `${words(name)} ${value}`).join(", ");
}

function showEvents(events) {
  const list = find("events");
  for (const event of events) {
    const subject = event.actor ?? (event.sandbox_id ? `sandbox ${event.sandbox_id}` : "");
    const item = element("li");
    const time = element("time", moment(event.at));
    time.dateTime = new Date(event.at * 1000).toISOString();
    const by = [event.track_id && `for ${event.track_id}`, event.by && `by ${event.by}`].filter(Boolean).join(" ");
    const text = [`${event.action} ${subject}`.trim(), words(event.outcome), by, event.detail].filter(Boolean);
    item.append(time, text.join(" · "));
    list.prepend(item);
  }
  while (list.children.length > MAX_EVENTS) list.lastElementChild.remove();
}

// --- the table

async function fetchPage(cursor) {
  const rows = [];
  let next = cursor;
  for (let stretch = 0; stretch < MAX_STRETCHES && rows.length < PAGE_SIZE; stretch += 1) {
    const query = new URLSearchParams({ limit: PAGE_SIZE - rows.length });
    if (find("status").value) query.set("status", find("status").value);
    if (find("search").value.trim()) query.set("search", find("search").value.trim());
    if (next) query.set("cursor", next);
    const answer = await call("GET", `/v1/admin/sandboxes?${query}`);
    rows.push(...answer.sandboxes);
    next = answer.cursor;
    if (!next) break;
  }
  return { rows, next };
}

async function loadTable() {
  await attempt("Listing the sandboxes", showTable);
}

async function showTable() {
  tableRequests += 1;
  const asked = tableRequests;
  const { rows, next } = await fetchPage(page.cursors.at(-1));
  // An answer that a later question has overtaken.
  if (asked !== tableRequests) return;
  page.next = next;
  find("rows").replaceChildren(...rows.map(row));
  const place = `Page ${page.cursors.length}, ${rows.length} ${rows.length === 1 ? "sandbox" : "sandboxes"}`;
  const nothing = next ? "Nothing found so far; the next page looks further." : "No sandbox fits.";
  find("table-caption").textContent = rows.length ? place : nothing;
  find("previous").disabled = page.cursors.length === 1;
  find("next").disabled = !next;
}

function row(sandbox) {
  const made = element("tr");
  const cell = (label, text) => {
    const td = element("td", text);
    td.dataset.label = label;
    made.append(td);
    return td;
  };
  const id = sandbox.sandbox_id;
  cell("Sandbox", id);
  cell("Name", sandbox.name);
  cell("Status", words(sandbox.status));
  cell("Track", sandbox.allocated_to_track);
  cell("Lab", sandbox.track_name);
  cell("Ends", sandbox.expires_at ? moment(sandbox.expires_at) : null);
  cell("Error", sandbox.last_error);
  const actions = cell("Actions");
  if (sandbox.status === "allocated") {
    const text = `The holding of ${sandbox.allocated_to_track} ends at once, and the sandbox with all that is in it is deleted at the cloud provider. This cannot be undone.`;
    actions.append(button("Release", `Release sandbox ${id}`, () => change(id, "release", text), "danger"));
  }
  if (sandbox.status === "deletion_failed") {
    const text = "It is put back to pending deletion, and the next cleanup tries again to delete it at the cloud provider.";
    actions.append(button("Retry deletion", `Retry the deletion of sandbox ${id}`, () => change(id, "retry-deletion", text)));
  }
  return made;
}

async function change(id, verb, text) {
  const what = verb === "release" ? `Release sandbox ${id}` : `Retry the deletion of sandbox ${id}`;
  if (!(await ask({ title: `${what}?`, text, yes: what }))) return;
  await attempt(what, async () => {
    await call("POST", `/v1/admin/sandboxes/${encodeURIComponent(id)}/${verb}`);
    await showTable();
    find("table-caption").textContent = `${what}: done.`;
  });
}

find("filter").addEventListener("submit", (submitted) => {
  submitted.preventDefault();
  page = { cursors: [null], next: null };
  loadTable();
});
find("status").addEventListener("change", () => find("filter").requestSubmit());
find("next").addEventListener("click", () => {
  page.cursors.push(page.next);
  loadTable();
});
find("previous").addEventListener("click", () => {
  page.cursors.pop();
  loadTable();
});

setInterval(() => {
  // Whoever is about to press a button must find it where it was.
  const isInUse = find("rows").contains(document.activeElement) || find("rows").matches(":hover") || find("dialog").open;
  const isLive = find("connection").classList.contains("live");
  if (token && isLive && !isInUse && !document.hidden) showTable().catch(() => {});
}, TABLE_REFRESH_MS);

// --- asking first

/** Resolves to the reason, or to true where none is asked for; to null if the operator thinks better of it. */
function ask({ title, text, yes, withReason = false }) {
  const dialog = find("dialog");
  find("dialog-title").textContent = title;
  find("dialog-text").textContent = text;
  find("dialog-yes").textContent = yes;
  find("dialog-reason-label").hidden = !withReason;
  find("dialog-reason").required = withReason;
  find("dialog-reason").value = "";
  dialog.showModal();
  (withReason ? find("dialog-reason") : find("dialog-no")).focus();
  return new Promise((resolve) => {
    const done = new AbortController();
    const end = (answer) => {
      done.abort();
      dialog.close();
      resolve(answer);
    };
    const listen = (place, kind, listener) => place.addEventListener(kind, listener, { signal: done.signal });
    listen(dialog.querySelector("form"), "submit", (submitted) => {
      submitted.preventDefault();
      const reason = find("dialog-reason").value.trim();
      if (!withReason || reason) end(withReason ? reason : true);
    });
    listen(find("dialog-no"), "click", () => end(null));
    listen(dialog, "close", () => end(null));
  });
}

show();
if (token) start();
else find("token").focus();
