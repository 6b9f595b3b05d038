// Asks before an action that cannot be undone or that needs a reason.

import { find } from "/console/page.js";

/**
 * Resolves to the reason, or to true if none is asked for; to null if the operator cancels. With `count`, the operator
 * types the number of sandboxes first.
 */
export function ask({ title, text, yes, withReason = false, count = null }) {
  const dialog = find("dialog");
  const input = find("dialog-reason");
  const label = count === null ? "Reason, for other operators" : `Type ${count} to confirm`;
  const needsText = withReason || count !== null;
  find("dialog-title").textContent = title;
  find("dialog-text").textContent = text;
  find("dialog-yes").textContent = yes;
  find("dialog-reason-text").textContent = label;
  find("dialog-reason-label").hidden = !needsText;
  input.required = needsText;
  input.value = "";
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
      const value = input.value.trim();
      if (withReason ? value : count === null || value === String(count)) end(withReason ? value : true);
      else input.select();
    });
    listen(find("dialog-no"), "click", () => end(null));
    listen(dialog, "close", () => end(null));
  });
}
