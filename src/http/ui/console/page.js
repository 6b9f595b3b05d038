// The page's elements, and how values are written. Everything is set as text, never as markup.

export const find = (id) => document.getElementById(id);

export function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined && text !== null) made.textContent = text;
  if (className) made.className = className;
  return made;
}

/** A button. `label` is its name for screen readers, which do not see what it stands beside; it contains the text. */
export function button(text, label, action, className) {
  const made = element("button", text, className);
  made.type = "button";
  made.setAttribute("aria-label", label);
  made.addEventListener("click", action);
  return made;
}

/** A link within the page. */
export function link(text, address) {
  const made = element("a", text);
  made.href = address;
  return made;
}

/** Sets a text only if it differs, so that screen readers read it once. */
export function setText(place, text) {
  if (place.textContent !== text) place.textContent = text;
}

let noticeCause = "";

/** Shows what went wrong, until an action succeeds, the cause goes, or the notice is dismissed. */
export function notify(text, cause = "") {
  noticeCause = text ? cause : "";
  find("notice-text").textContent = text;
  find("notice").hidden = !text;
}

/** The cause of notices is gone. */
export function resolve(cause) {
  if (noticeCause === cause) notify("");
}

export const words = (name) => name.replaceAll("_", " ");
export const number = (value) => (value === null || value === undefined ? "–" : value.toLocaleString(undefined, { maximumFractionDigits: 2 }));

let isUtc = false;
const zone = () => (isUtc ? { timeZone: "UTC" } : {});

/** Whether times are written in UTC instead of the browser's zone. */
export function setUtc(utc) {
  isUtc = utc;
}

/** The name of the zone that times are written in. */
export function zoneName() {
  const parts = new Intl.DateTimeFormat(undefined, { timeZoneName: "short", ...zone() }).formatToParts(new Date());
  return parts.find((part) => part.type === "timeZoneName").value;
}

/** The time, with the date unless it is today. */
export function moment(seconds) {
  const date = new Date(seconds * 1000);
  const day = (of) => of.toLocaleDateString(undefined, zone());
  return day(date) === day(new Date()) ? date.toLocaleTimeString(undefined, zone()) : date.toLocaleString(undefined, zone());
}

/** A duration in its two largest units. */
export function duration(seconds) {
  const [minutes, hours, days] = [60, 3600, 86_400].map((unit) => Math.floor(seconds / unit));
  if (days) return hours % 24 ? `${days} d ${hours % 24} h` : `${days} d`;
  if (hours) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  if (minutes) return seconds % 60 && minutes < 10 ? `${minutes} min ${Math.floor(seconds % 60)} s` : `${minutes} min`;
  return `${Math.floor(seconds)} s`;
}

/** The counts of a report, without zeros. */
export function summary(report) {
  const counted = Object.entries(report ?? {}).filter(([, value]) => value);
  return counted.map(([name, value]) => `${words(name)} ${value}`).join(", ") || "nothing to do";
}
