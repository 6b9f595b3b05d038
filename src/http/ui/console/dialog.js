// Asks before an action that cannot be undone or that needs a reason.

import { find } from "/console/page.js";

const MAX_HOURS = 8760;

/**
 * Resolves to the reason or the number of hours, or to true if neither is asked for; to null if the operator cancels. With
 * `count`, the operator types the number of sandboxes first. `hours` is the proposed number of hours from now.
 */
export function ask({ title, text, yes, withReason = false, count = null, hours = null }) {
  const dialog = find("dialog");
  const input = find("dialog-reason");
  const labels = [[hours, "Hours from now"], [count, `Type ${count} to confirm`]];
  const label = labels.find(([wanted]) => wanted !== null)?.[1] ?? "Reason, for other operators";
  const needsText = withReason || count !== null || hours !== null;
  const isHours = (value) => value !== "" && Number(value) >= 0 && Number(value) <= MAX_HOURS;
  const answerOf = (value) => {
    if (hours !== null) return isHours(value) ? Number(value) : null;
    if (withReason) return value || null;
    return count === null || value === String(count) ? true : null;
  };
  find("dialog-title").textContent = title;
  find("dialog-text").textContent = text;
  find("dialog-yes").textContent = yes;
  find("dialog-reason-text").textContent = label;
  find("dialog-reason-label").hidden = !needsText;
  input.required = needsText;
  input.value = hours ?? "";
  input.inputMode = hours === null ? "text" : "decimal";
  dialog.showModal();
  (needsText ? input : find("dialog-no")).focus();
  return new Promise((resolve) => {
    const done = new AbortController();
    const end = (answer) => {
      done.abort();
      dialog.close();
      resolve(answer);
    };
    const listen = (place, kind, listener) => place.addEventListener(kind, listener, { signal: done.signal });
    listen(dialog.querySelector("form"), "submit", (submitted) => {
      submitted.preventDefault();
      const answer = answerOf(input.value.trim());
      if (answer === null) input.select();
      else end(answer);
    });
    listen(find("dialog-no"), "click", () => end(null));
    listen(dialog, "close", () => end(null));
  });
}
