// The operators' orders: who ordered what, when and why, and what came of it.

import { attempt, get } from "/console/api.js";
import { element, find, link, moment, setText } from "/console/page.js";
import { address, replace, route } from "/console/route.js";

const FILTERS = ["by", "action", "target"];
const TYPING_MS = 400;

let next = null;
let typing;

/** One row of a table of orders. */
export function orderRow(order) {
  const made = element("tr");
  const cell = (label, text, className) => {
    const td = element(label === "When" ? "th" : "td", text, className);
    if (label === "When") td.scope = "row";
    td.dataset.label = label;
    made.append(td);
    return td;
  };
  cell("When", moment(order.at));
  cell("Who", order.by);
  cell("Order", [order.action, order.parameters].filter(Boolean).join(" "));
  const about = cell("About", "");
  if (order.target && /^\d+$/.test(order.target)) about.append(link(order.target, address(`sandbox/${encodeURIComponent(order.target)}`)));
  else about.textContent = order.target ?? "";
  const isRefused = order.outcome && order.outcome !== "ok";
  cell("Outcome", order.outcome ?? "unknown: the client or the replica ended", isRefused ? "error" : "");
  cell("Reason", order.reason ?? "");
  return made;
}

/** Shows the orders that the address asks for. */
export async function loadAudit() {
  const { query } = route();
  for (const name of FILTERS) {
    const field = find(`audit-${name}`);
    if (document.activeElement !== field) field.value = query.get(name) ?? "";
  }
  await attempt("Listing the orders", () => show(null), { isRead: true });
}

async function show(cursor) {
  const query = new URLSearchParams({ limit: 50 });
  for (const name of FILTERS) if (find(`audit-${name}`).value.trim()) query.set(name, find(`audit-${name}`).value.trim());
  if (cursor) query.set("cursor", cursor);
  const { entries, cursor: following } = await get(`audit?${query}`);
  next = following;
  const rows = entries.map(orderRow);
  if (cursor) find("orders").append(...rows);
  else find("orders").replaceChildren(...rows);
  const count = find("orders").children.length;
  setText(find("audit-caption"), count ? `${count} ${count === 1 ? "order" : "orders"}, the last first` : "No order fits.");
  find("older").disabled = !next;
}

function filter() {
  const parameters = Object.fromEntries(FILTERS.map((name) => [name, find(`audit-${name}`).value.trim()]));
  replace("audit", parameters);
  loadAudit();
}

find("audit-filter").addEventListener("submit", (submitted) => {
  submitted.preventDefault();
  filter();
});
find("audit-filter").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(filter, TYPING_MS);
});
find("older").addEventListener("click", () => attempt("Listing the orders", () => show(next), { isRead: true }));
