// One sandbox: everything that is known of it, what operators ordered for it, and what they may order.

import { attempt, get } from "/console/api.js";
import { orderRow } from "/console/audit.js";
import { button, element, find, moment, setText, words } from "/console/page.js";
import { route } from "/console/route.js";
import { allActions } from "/console/orders.js";

const TIMES = [
  "available_from", "allocated_at", "expires_at", "activated_at", "deletion_requested_at", "deletion_failing_since", "next_attempt_at",
  "freeze_until", "deleted_at", "ttl", "created_at", "updated_at", "last_synced",
];
const COPIED = ["sandbox_id", "name", "external_id", "sfdc_account_id", "allocated_to_track", "idempotency_key"];

/** Shows the sandbox that the address names. */
export async function loadSandbox() {
  const { id } = route();
  setText(find("sandbox-title"), `Sandbox ${id}`);
  for (const place of ["sandbox-fields", "sandbox-history", "sandbox-orders", "sandbox-actions"]) find(place).replaceChildren();
  await attempt(`Reading sandbox ${id}`, async () => {
    const [sandbox, { entries }] = await Promise.all([
      get(`sandboxes/${encodeURIComponent(id)}`),
      get(`audit?target=${encodeURIComponent(id)}&limit=50`),
    ]);
    if (route().id !== id) return;
    find("sandbox-fields").append(...Object.entries(sandbox).filter(isShown).map(field));
    find("sandbox-history").append(...(sandbox.history ?? []).map(change));
    find("sandbox-history-title").hidden = !sandbox.history?.length;
    find("sandbox-actions").append(...allActions(sandbox, loadSandbox));
    find("sandbox-orders").append(...entries.map(orderRow));
    setText(find("sandbox-orders-caption"), entries.length ? "Orders of operators, the last first" : "No operator has ordered anything for this sandbox.");
  }, { isRead: true });
}

/** Whether a field says something of this sandbox. */
function isShown([name, value]) {
  return name !== "history" && value !== null && value !== "" && value !== false && !(TIMES.includes(name) && value === 0);
}

function field([name, value]) {
  const made = element("div");
  const text = element("dd");
  if (name === "status") text.append(element("span", words(value), `badge ${value}`));
  else if (value === true) text.append(element("span", "yes"));
  else text.append(element("span", TIMES.includes(name) ? moment(value) : String(value)));
  if (COPIED.includes(name)) text.append(" ", copyButton(name, value));
  made.append(element("dt", words(name)), text);
  return made;
}

function copyButton(name, value) {
  const made = button("Copy", `Copy ${words(name)}`, async () => {
    await navigator.clipboard.writeText(value);
    setText(made, "Copied");
    setTimeout(() => setText(made, "Copy"), 2000);
  });
  // Without a secure context there is no clipboard.
  made.hidden = !navigator.clipboard;
  return made;
}

function change({ at, to, by }) {
  const made = element("li");
  made.append(element("time", moment(at)), element("span", `${words(to)}, by ${by}`));
  return made;
}
