// The operators' console: signs in and out, shows the tab that the address names, and passes each event to the part that
// shows it.

import { showActors } from "/console/actors.js";
import { ApiError, UNREACHABLE, get, send, session } from "/console/api.js";
import { loadAudit } from "/console/audit.js";
import { clearHistory, loadHistory } from "/console/history.js";
import { addEvents, clearEvents, redrawEvents } from "/console/journal.js";
import { clearLabs, loadLabs } from "/console/labs.js";
import { clearOverview, showOverview } from "/console/overview.js";
import { find, notify, resolve, setText, setUtc, zoneName } from "/console/page.js";
import { clearQueue, loadQueue } from "/console/queue.js";
import { onRoute, route } from "/console/route.js";
import { loadSandbox } from "/console/sandbox.js";
import { loadSandboxes } from "/console/sandboxes.js";
import { follow, unfollow } from "/console/stream.js";

/** What each tab loads when it is shown. */
const TABS = {
  overview: () => Promise.all([loadHistory(), loadLabs()]).catch(() => {}),
  sandboxes: loadSandboxes,
  sandbox: loadSandbox,
  queue: loadQueue,
  actors: () => {},
  audit: loadAudit,
  events: () => {},
};

function showSignedIn(isSignedIn) {
  find("sign-in").hidden = isSignedIn;
  if (!isSignedIn) find("operator").value = session.operator;
  for (const id of ["console", "sign-out", "connection", "zone"]) find(id).hidden = !isSignedIn;
}

function showTab() {
  const { tab } = route();
  const name = Object.hasOwn(TABS, tab) ? tab : "overview";
  for (const panel of document.querySelectorAll("[data-tab]")) panel.hidden = panel.dataset.tab !== name;
  for (const link of find("tabs").querySelectorAll("a")) {
    const isCurrent = link.dataset.for === (name === "sandbox" ? "sandboxes" : name);
    if (isCurrent) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (session.token) TABS[name]();
}

function showZone() {
  setText(find("zone"), `Times in ${zoneName()}`);
}

/** Hides what the token may not do. */
async function showRole() {
  const { role } = await get("whoami");
  document.body.dataset.role = role;
}

function start() {
  showSignedIn(true);
  // A broker that does not answer is reported by what follows it.
  showRole().catch(() => {});
  showTab();
  if (route().tab !== "overview") TABS.overview();
  follow(received, (why) => connected("lost", `${why}; trying again. The page may be out of date.`)).catch(refused);
}

function signOut(why) {
  session.end();
  delete document.body.dataset.role;
  unfollow();
  clearOverview();
  clearHistory();
  clearLabs();
  clearQueue();
  clearEvents();
  for (const id of ["rows", "actors", "orders", "sandbox-fields", "sandbox-orders", "sandbox-history"]) find(id).replaceChildren();
  setText(find("table-caption"), "");
  find("dialog").close();
  showSignedIn(false);
  notify(why);
  find("token").focus();
}

const refused = () => signOut("The token is no longer accepted.");

function received(name, data) {
  if (name === "journal") return addEvents(data);
  showOverview(data);
  if (data.actors) showActors(data.actors);
  const live = document.body.dataset.role === "viewer" ? "Live, read only" : "Live";
  connected("live", data.actors ? live : `${live}, but the store does not answer`);
}

function connected(state, text) {
  setText(find("connection"), text);
  const wasLost = find("connection").className === "lost";
  find("connection").className = state;
  document.body.classList.toggle("is-lost", state === "lost");
  if (state === "live") resolve(UNREACHABLE);
  if (state === "live" && wasLost) TABS.overview();
}

find("sign-in").addEventListener("submit", async (submitted) => {
  submitted.preventDefault();
  const token = find("token").value.trim();
  try {
    await send("whoami", { token });
  } catch (error) {
    find("token").select();
    if (error.isRefusal) return notify("This token is not accepted. Enter one of the broker's admin tokens.");
    // An error of the broker is no reason to refuse: the console is needed most then.
    if (!(error instanceof ApiError)) return notify("The broker does not answer. Try again.");
  }
  session.begin(token, find("operator").value.trim());
  find("token").value = "";
  notify("");
  start();
  find("main").focus({ preventScroll: true });
  scrollTo(0, 0);
});
find("sign-out").addEventListener("click", () => signOut(""));
find("dismiss").addEventListener("click", () => notify(""));
find("zone").addEventListener("click", () => {
  const isUtc = find("zone").getAttribute("aria-pressed") !== "true";
  find("zone").setAttribute("aria-pressed", String(isUtc));
  setUtc(isUtc);
  showZone();
  redrawEvents();
  for (const row of find("rows").children) delete row.dataset.state;
  showTab();
});
session.onRefusal(refused);
onRoute(showTab);
showZone();

if (session.token) start();
else {
  showSignedIn(false);
  find("token").focus();
}
