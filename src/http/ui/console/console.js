// The operators' console: signs in and out, and passes each event to the part that shows it.

import { showActors } from "/console/actors.js";
import { ApiError, get, send, session } from "/console/api.js";
import { addEvents, clearEvents } from "/console/journal.js";
import { clearOverview, showOverview } from "/console/overview.js";
import { find, notify, setText } from "/console/page.js";
import { loadSandboxes } from "/console/sandboxes.js";
import { follow, unfollow } from "/console/stream.js";

function showSignedIn(isSignedIn) {
  find("sign-in").hidden = isSignedIn;
  for (const id of ["console", "sign-out", "connection"]) find(id).hidden = !isSignedIn;
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
  loadSandboxes();
  follow(received, (why) => connected("lost", `${why}; trying again. The page may be out of date.`)).catch(refused);
}

function signOut(why) {
  session.end();
  delete document.body.dataset.role;
  unfollow();
  clearOverview();
  clearEvents();
  for (const id of ["rows", "actors"]) find(id).replaceChildren();
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
  find("connection").className = state;
  document.body.classList.toggle("is-lost", state === "lost");
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
  find("main").focus();
});
find("sign-out").addEventListener("click", () => signOut(""));
find("dismiss").addEventListener("click", () => notify(""));
session.onRefusal(refused);

if (session.token) start();
else {
  showSignedIn(false);
  find("token").focus();
}
