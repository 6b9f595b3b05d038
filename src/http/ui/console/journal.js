// Recent events, newest first.

import { element, find, moment, summary, words } from "/console/page.js";

const MAX_EVENTS = 200;

let known = [];

/** Adds these events. Known ones may come again: from another replica, or after a restart. */
export function addEvents(events) {
  const all = new Map([...known, ...events].map((event) => [JSON.stringify(event), event]));
  known = [...all.values()].sort((one, other) => one.at - other.at).slice(-MAX_EVENTS);
  redrawEvents();
}

export function redrawEvents() {
  find("events").replaceChildren(...known.toReversed().map(item));
}

export function clearEvents() {
  known = [];
  find("events").replaceChildren();
}

function item(event) {
  const made = element("li");
  const time = element("time", moment(event.at));
  time.dateTime = new Date(event.at * 1000).toISOString();
  const subject = event.actor ?? (event.sandbox_id && `sandbox ${event.sandbox_id}`);
  const isError = event.outcome === "error";
  const report = event.report && summary(event.report);
  const people = [event.track_id && `for ${event.track_id}`, event.by && `by ${event.by}`].filter(Boolean).join(" ");
  const text = element("span");
  text.append(element("b", [event.action, subject].filter(Boolean).join(" ")), " ");
  text.append(element("span", words(event.outcome), isError ? "error" : "quiet"));
  const more = [people, event.detail, report].filter(Boolean).join(" · ");
  if (more) text.append(` · ${more}`);
  made.append(time, text);
  return made;
}
