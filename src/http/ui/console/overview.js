// The figures of the pool, the allocations and the circuit breaker.

import { Chart } from "/console/chart.js";
import { element, find, number, setText, words } from "/console/page.js";

const STATUSES = ["available", "allocated", "pending_deletion", "stale", "deletion_failed"];

const poolChart = new Chart(find("pool-chart"), STATUSES, "sandboxes");
const throughputChart = new Chart(find("throughput-chart"), ["allocations"], "per second");

export function showOverview(snapshot) {
  setText(find("about"), `version ${snapshot.version}, replica ${snapshot.replica}`);
  const { stats, throughput } = snapshot;
  if (stats) {
    tiles(find("stats"), [...STATUSES, "total"].map((status) => [words(status), stats[status], status]));
    find("pool-empty").hidden = stats.total > 0;
    poolChart.add({ at: snapshot.at, ...stats });
  }
  throughputChart.add({ at: snapshot.at, allocations: throughput.allocations_per_second });
  tiles(find("throughput"), [
    ["per second", throughput.allocations_per_second],
    ["median, ms", throughput.p50_ms],
    ["95 %, ms", throughput.p95_ms],
    ["99 %, ms", throughput.p99_ms],
    ["in flight", snapshot.in_flight],
  ]);
  showBreaker(snapshot.circuit_breaker);
}

export function clearOverview() {
  for (const id of ["stats", "throughput"]) find(id).replaceChildren();
  setText(find("about"), "");
  poolChart.clear();
  throughputChart.clear();
}

function tiles(place, values) {
  const made = values.map(([name, value, className]) => {
    const tile = element("div", null, className);
    tile.append(element("dt", name), element("dd", number(value)));
    return tile;
  });
  place.replaceChildren(...made);
}

function showBreaker({ state, consecutive_failures: failures, retry_in_seconds: retry }) {
  const more = [failures ? `${failures} ${failures === 1 ? "failure" : "failures in a row"}` : "", retry === null ? "" : `next attempt in ${retry} s`];
  const meaning = state === "closed" ? "calls go through" : "syncs and deletions wait, allocation continues";
  const place = find("breaker");
  setText(place.querySelector(".badge"), words(state));
  place.querySelector(".badge").className = `badge ${state}`;
  setText(place.querySelector(".quiet"), [meaning, ...more.filter(Boolean)].join(", "));
}
