// The orders that an operator may give for one sandbox.

import { attempt, post } from "/console/api.js";
import { ask } from "/console/dialog.js";
import { button } from "/console/page.js";

/** Gives an order for a sandbox: a verb of the API, with its parameters. */
export const order = (id, verb, body) => post(`sandboxes/${encodeURIComponent(id)}/${verb}`, body);

const release = ({ sandbox_id: id, allocated_to_track: track }) => ({
  name: "Release",
  label: `Release sandbox ${id}`,
  text: `The holding of ${track} ends at once, and the sandbox with all its contents is deleted at the cloud provider. This cannot be undone.`,
  isDanger: true,
  give: () => order(id, "release"),
});

const retry = ({ sandbox_id: id }) => ({
  name: "Retry deletion",
  label: `Retry deletion of sandbox ${id}`,
  text: "The sandbox becomes pending deletion again, and the next cleanup tries to delete it at the cloud provider.",
  give: () => order(id, "retry-deletion"),
});

const extend = ({ sandbox_id: id }) => ({
  name: "Extend",
  label: `Extend the holding of sandbox ${id}`,
  text: "The holding ends this long from now, or at its present end if that is later.",
  hours: 2,
  give: (hours) => order(id, `extend?hours=${hours}`),
});

const freeze = ({ sandbox_id: id }) => ({
  name: "Freeze",
  label: `Freeze sandbox ${id}`,
  text: "The sandbox is not deleted for this long, also if its holding ends. 0 ends a freeze.",
  hours: 24,
  give: (hours) => order(id, `freeze?hours=${hours}`),
});

const quarantine = ({ sandbox_id: id }) => ({
  name: "Quarantine",
  label: `Quarantine sandbox ${id}`,
  text: "The sandbox is neither allocated nor deleted until the quarantine ends.",
  withReason: true,
  give: (reason) => order(id, "quarantine", { reason }),
});

const unquarantine = ({ sandbox_id: id }) => ({
  name: "End quarantine",
  label: `End quarantine of sandbox ${id}`,
  text: "The sandbox is deleted if a student had it. If none had, it is available again.",
  give: () => order(id, "unquarantine"),
});

/** The orders that suit a sandbox of each status, the most likely first. */
const ORDERS = {
  available: [quarantine],
  allocated: [release, extend, freeze],
  pending_deletion: [freeze, quarantine],
  deletion_failed: [retry, quarantine],
  quarantined: [unquarantine],
};

// Rows of the table have room for the orders that are given often.
const FREQUENT = [release, retry];

/** The buttons of a row of the table. `done(what)` follows an order that was carried out. */
export const actions = (sandbox, done) => buttons(sandbox, done, (order) => FREQUENT.includes(order));

/** The buttons of the page of a sandbox. A standby has no end to extend: its lab has not started. */
export const allActions = (sandbox, done) => buttons(sandbox, done, (order) => order !== extend || !sandbox.standby);

function buttons(sandbox, done, isWanted) {
  const wanted = (ORDERS[sandbox.status] ?? []).filter(isWanted).map((order) => order(sandbox));
  return wanted.map((wish) => button(wish.name, wish.label, () => carryOut(wish, done), wish.isDanger ? "danger" : ""));
}

async function carryOut({ label, text, give, withReason = false, hours = null }, done) {
  const answer = await ask({ title: `${label}?`, text, yes: label, withReason, hours });
  if (answer === null) return;
  await attempt(label, async () => {
    await give(answer);
    await done(label);
  });
}
