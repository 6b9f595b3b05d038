// The figures of the pool, the allocations and the circuit breaker, and the banners about what needs attention.

import { duration, element, find, number, setText, words } from "/console/page.js";
import { minutesToEmpty } from "/console/history.js";

const STATUSES = ["available", "allocated", "standby", "pending_deletion", "stale", "deletion_failed"];
// A pool that will be empty within this time gets a banner.
const SOON_MINUTES = 60;

export function showOverview(snapshot) {
  setText(find("about"), `version ${snapshot.version}, replica ${snapshot.replica}`);
  const { stats, throughput } = snapshot;
  if (stats) {
    const known = STATUSES.concat(Object.keys(stats).filter((name) => name !== "total" && !STATUSES.includes(name)));
    const label = (status) => (status === "standby" ? "of them on standby" : words(status));
    tiles(find("stats"), [...[...known, "total"].map((status) => [label(status), stats[status], status]), ["waiting in the queue", snapshot.waiting, "waiting"]]);
    find("pool-empty").hidden = stats.total > 0;
  }
  tiles(find("throughput"), [
    ["per second", throughput.allocations_per_second],
    ["median, ms", throughput.p50_ms],
    ["95 %, ms", throughput.p95_ms],
    ["99 %, ms", throughput.p99_ms],
    ["in flight", snapshot.in_flight],
  ]);
  showBreaker(snapshot.circuit_breaker);
  showBanners(snapshot);
}

export function clearOverview() {
  for (const id of ["stats", "throughput", "banners"]) find(id).replaceChildren();
  setText(find("about"), "");
}

function tiles(place, values) {
  const tile = ([name, value, className], index) => {
    const made = place.children[index] ?? place.appendChild(element("div"));
    if (!made.children.length) made.append(element("dt"), element("dd"));
    made.className = className ?? "";
    setText(made.children[0], name);
    setText(made.children[1], number(value));
  };
  values.forEach(tile);
  while (place.children.length > values.length) place.lastElementChild.remove();
}

function breakerText({ state, consecutive_failures: failures, retry_in_seconds: retry, opened_by: error }) {
  const meaning = state === "closed" ? "calls go through" : "syncs and deletions wait, allocation continues";
  const count = failures ? `${failures} ${failures === 1 ? "failure" : "failures in a row"}` : "";
  const next = state === "open" && retry !== null ? `next attempt ${retry > 0 ? `in ${duration(retry)}` : "with the next call"}` : "";
  return [meaning, count, next, error].filter(Boolean).join(", ");
}

function showBreaker(breaker) {
  const place = find("breaker");
  setText(place.querySelector(".badge"), words(breaker.state));
  place.querySelector(".badge").className = `badge ${breaker.state}`;
  setText(place.querySelector(".quiet"), breakerText(breaker));
}

/** What needs an operator now. A banner goes when its cause does. */
function showBanners({ stats, actors, waiting, circuit_breaker: breaker }) {
  const banners = [];
  const pool = actors?.find((actor) => actor.name === "pool-manager");
  if (pool?.desired_state === "paused") {
    const { reason, by } = pool.control ?? {};
    banners.push(`Allocation is paused: ${reason ?? "no reason given"} (${by ?? "unknown"}). Tracks get 503 until pool-manager is resumed.`);
  }
  if (breaker.state !== "closed") banners.push(`The circuit breaker of the cloud provider is ${words(breaker.state)}: ${breakerText(breaker)}.`);
  if (waiting) banners.push(`${waiting} ${waiting === 1 ? "student waits" : "students wait"} for a sandbox. The tab Queue shows who.`);
  else if (stats && stats.total > 0 && stats.available === 0) banners.push("No sandbox is available. Labs that start now wait.");
  const minutes = stats?.available ? minutesToEmpty(stats.available) : null;
  if (minutes !== null && minutes < SOON_MINUTES) {
    banners.push(`The pool will be empty in ${duration(minutes * 60)} if allocations go on as in the last half hour.`);
  }
  const place = find("banners");
  banners.forEach((text, index) => setText(place.children[index] ?? place.appendChild(element("p")), text));
  while (place.children.length > banners.length) place.lastElementChild.remove();
}
