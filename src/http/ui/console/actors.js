// The table of actors, and the operators' commands to them.

import { attempt, post } from "/console/api.js";
import { ask } from "/console/dialog.js";
import { button, element, find, moment, setText, summary } from "/console/page.js";

const COLUMNS = ["Actor", "State", "Leader", "Last run", "Report", "Next check"];

/** What a run changes, for the jobs that remove something. Operators are asked before such a run. */
const RUNS = {
  cleanup: "All sandboxes that are pending deletion and due are deleted at the cloud provider now, not at the next run.",
  "expiry-reaper": "All holdings past their end and grace period end now, and their sandboxes become pending deletion.",
  "stale-collector": "Sandboxes that have been stale for the whole grace period are removed from the table now.",
};

export function showActors(actors) {
  const list = find("actors");
  for (const actor of actors) {
    let row = [...list.children].find((child) => child.dataset.actor === actor.name);
    if (!row) {
      row = newRow(actor.name);
      list.append(row);
    }
    fill(row, actor);
  }
}

/** Rows are kept while their texts change, so that the focus stays where it is. */
function newRow(name) {
  const row = element("tr");
  row.dataset.actor = name;
  const cells = COLUMNS.map((label) => {
    const cell = element(label === "Actor" ? "th" : "td", label === "Actor" ? name : null);
    if (label === "Actor") cell.scope = "row";
    cell.dataset.label = label;
    return cell;
  });
  cells[1].append(element("span", null, "badge"), element("span", null, "control"));
  const command = (what, verb, body) =>
    attempt(what, async () => fill(row, await post(`actors/${name}/${verb}`, body)));
  const toggle = button("", "", () => (row.dataset.isPaused ? resume(name, row, command) : pause(name, row, command)));
  const runNow = button("Run now", `Run now: ${name}`, async () => {
    const what = `Run ${name} now`;
    if (!RUNS[name] || (await ask({ title: `${what}?`, text: RUNS[name], yes: what }))) await command(`Running ${name}`, "run");
  });
  const actions = element("td", null, "actions");
  actions.dataset.label = "Actions";
  const buttons = element("span", null, "buttons");
  buttons.append(toggle, runNow);
  actions.append(buttons);
  row.append(...cells, actions);
  return row;
}

/** The button that an operator has just pressed now undoes it, so the focus leaves it. */
function leave(row) {
  const place = row.querySelector("th");
  place.tabIndex = -1;
  place.focus();
}

async function resume(name, row, command) {
  const { reason, by, at } = JSON.parse(row.dataset.control ?? "{}");
  const text = reason ? `It was paused by ${by}, ${moment(at)}: ${reason}` : "It is paused.";
  if (!(await ask({ title: `Resume ${name}?`, text, yes: `Resume ${name}` }))) return;
  await command(`Resuming ${name}`, "resume");
  leave(row);
}

async function pause(name, row, command) {
  const text =
    name === "pool-manager"
      ? "No replica allocates until it is resumed: tracks get 503 and try again. Reads and releases continue."
      : "No replica runs this job until it is resumed, also after restarts. A run in progress is told to stop.";
  const reason = await ask({ title: `Pause ${name}?`, text, yes: `Pause ${name}`, withReason: true });
  if (!reason) return;
  await command(`Pausing ${name}`, "pause", { reason });
  leave(row);
}

function fill(row, actor) {
  const [, state, leader, lastRun, report, nextCheck] = row.children;
  const { control, last_run: run } = actor;
  const isPaused = actor.desired_state === "paused";
  const badge = state.querySelector(".badge");
  setText(badge, isPaused && actor.status !== "paused" ? `${actor.status}, to be paused` : actor.status);
  badge.className = `badge ${actor.status}`;
  const reason = isPaused && control ? `${control.reason} (${control.by}, ${moment(control.at)})` : "";
  setText(state.querySelector(".control"), reason);
  setText(leader, actor.leader ?? "every replica");
  setText(lastRun, run ? `${moment(run.started_at)}, ${run.duration_ms} ms` : "");
  setText(report, run ? (run.error ?? summary(run.report)) : poolSummary(actor.details));
  report.className = run?.error ? "error" : "";
  setText(nextCheck, actor.next_run ? moment(actor.next_run) : "");

  const [toggle] = row.querySelectorAll("button");
  if (isPaused) row.dataset.isPaused = "yes";
  else delete row.dataset.isPaused;
  row.dataset.control = JSON.stringify(control ?? {});
  setText(toggle, isPaused ? "Resume" : "Pause");
  toggle.setAttribute("aria-label", `${toggle.textContent} ${actor.name}`);
}

function poolSummary(details) {
  if (details?.cached === undefined) return "";
  const age = details.age_seconds === null ? "not read yet" : `read ${details.age_seconds} s ago`;
  const waiting = details.waiting ? `, ${details.waiting} requests waiting` : "";
  return `${details.cached} candidates cached, ${age}${waiting}`;
}
