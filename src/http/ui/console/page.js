// The page's elements, and how values are written. Everything is set as text, never as markup.

export const find = (id) => document.getElementById(id);

export function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined && text !== null) made.textContent = text;
  if (className) made.className = className;
  return made;
}

/** A button. `label` is its name for screen readers, which do not see what it stands beside. */
export function button(text, label, action, className) {
  const made = element("button", text, className);
  made.type = "button";
  made.setAttribute("aria-label", label);
  made.addEventListener("click", action);
  return made;
}

/** Sets a text only if it differs, so that screen readers read it once. */
export function setText(place, text) {
  if (place.textContent !== text) place.textContent = text;
}

/** Shows what went wrong, until an action succeeds or the notice is dismissed. */
export function notify(text) {
  find("notice-text").textContent = text;
  find("notice").hidden = !text;
}

export const words = (name) => name.replaceAll("_", " ");
export const number = (value) => (value === null ? "–" : value.toLocaleString(undefined, { maximumFractionDigits: 2 }));
export const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString();

/** The time, with the date unless it is today. */
export function moment(seconds) {
  const date = new Date(seconds * 1000);
  const isToday = date.toDateString() === new Date().toDateString();
  return isToday ? date.toLocaleTimeString() : date.toLocaleString();
}

/** The counts of a report, without zeros. */
export function summary(report) {
  const counted = Object.entries(report ?? {}).filter(([, value]) => value);
  return counted.map(([name, value]) => `${words(name)} ${value}`).join(", ") || "nothing to do";
}
