// Charts of the last hour, day and week. The broker keeps the figures of each minute, so they also show what was before
// the page was opened.

import { get, session } from "/console/api.js";
import { Chart } from "/console/chart.js";
import { loadLabs } from "/console/labs.js";
import { duration, find, setText } from "/console/page.js";

const REFRESH_MS = 30_000;
// The time over which the fall of the pool is measured.
const TREND_SECONDS = 1800;

const poolChart = new Chart(find("pool-chart"), ["available", "active", "standby", "pending_deletion", "stale", "deletion_failed"], "sandboxes");
const allocationChart = new Chart(find("allocation-chart"), ["allocations", "errors"], "each step");

let hours = 1;
/** The points of the last hour, for the trend. */
let lastHour = [];

export async function loadHistory() {
  const { step_seconds: step, points } = await get(`stats/history?hours=${hours}`);
  if (hours === 1) lastHour = points;
  const to = Math.floor(Date.now() / 1000);
  const range = { from: to - hours * 3600, to, step };
  const counted = points.filter((point) => Object.keys(point.counts).length);
  // Minutes of an earlier version know no standby.
  const active = ({ allocated = 0, standby = 0 }) => allocated - standby;
  poolChart.show(counted.map(({ at, counts }) => ({ at, ...counts, active: active(counts) })), range);
  allocationChart.show(points, range);
  setText(find("step"), `One step is ${duration(step)}. All replicas together.`);
}

export function clearHistory() {
  poolChart.clear();
  allocationChart.clear();
  lastHour = [];
}

/** The minutes until the pool is empty if it goes on falling as in the last half hour; null if it does not fall. */
export function minutesToEmpty(available) {
  const now = Date.now() / 1000;
  const recent = lastHour.filter((point) => point.counts.available !== undefined && now - point.at < TREND_SECONDS);
  const first = recent[0];
  const passed = first ? (now - first.at) / 60 : 0;
  const fallen = first ? first.counts.available - available : 0;
  return passed >= 5 && fallen > 0 ? Math.round((available / fallen) * passed) : null;
}

for (const choice of find("ranges").querySelectorAll("button")) {
  choice.addEventListener("click", () => {
    hours = Number(choice.dataset.hours);
    for (const other of find("ranges").querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === choice));
    loadHistory().catch(() => {});
  });
}

setInterval(() => session.token && !document.hidden && Promise.all([loadHistory(), loadLabs()]).catch(() => {}), REFRESH_MS);
