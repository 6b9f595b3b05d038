// Asks before an action that cannot be undone or that needs a reason.

import { find } from "/console/page.js";

/** Resolves to the reason, or to true if none is asked for; to null if the operator cancels. */
export function ask({ title, text, yes, withReason = false }) {
  const dialog = find("dialog");
  find("dialog-title").textContent = title;
  find("dialog-text").textContent = text;
  find("dialog-yes").textContent = yes;
  find("dialog-reason-label").hidden = !withReason;
  find("dialog-reason").required = withReason;
  find("dialog-reason").value = "";
  dialog.showModal();
  (withReason ? find("dialog-reason") : find("dialog-no")).focus();
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
      const reason = find("dialog-reason").value.trim();
      if (!withReason || reason) end(withReason ? reason : true);
    });
    listen(find("dialog-no"), "click", () => end(null));
    listen(dialog, "close", () => end(null));
  });
}
