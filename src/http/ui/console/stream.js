// Reads the broker's server-sent events. `EventSource` cannot send the token in a header.

import { ApiError, send, session } from "/console/api.js";

// Snapshots come every second; a connection without data for this long is dead.
const SILENCE_MS = 8000;
const FIRST_RETRY_MS = 1000;
const MAX_RETRY_MS = 10_000;

let connection = null;
let lastEventId = null;

/** Stops following, and forgets the position in the stream. */
export function unfollow() {
  connection?.abort();
  connection = null;
  lastEventId = null;
}

/**
 * Follows until `unfollow`. Calls `received(name, data)` for each event and `lost(why)` whenever the connection is lost,
 * and then reconnects. Rejects if the token is refused.
 */
export async function follow(received, lost) {
  let wait = FIRST_RETRY_MS;
  for (;;) {
    const current = new AbortController();
    connection = current;
    let why = "Connection lost";
    try {
      await read(current, (name, data) => {
        wait = FIRST_RETRY_MS;
        received(name, data);
      });
    } catch (error) {
      if (connection !== current) return;
      if (error.isRefusal) throw error;
      if (error instanceof ApiError) why = error.message;
    }
    if (connection !== current) return;
    lost(why);
    await new Promise((resolve) => setTimeout(resolve, wait));
    if (connection !== current) return;
    wait = Math.min(wait * 2, MAX_RETRY_MS);
  }
}

async function read(current, received) {
  let watchdog;
  const watch = () => {
    clearTimeout(watchdog);
    watchdog = setTimeout(() => current.abort(), SILENCE_MS);
  };
  watch();
  try {
    const headers = lastEventId ? { "Last-Event-ID": lastEventId } : {};
    const response = await send("events", { token: session.token, headers, signal: current.signal });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      watch();
      const frames = (text + value).split("\n\n");
      text = frames.pop();
      for (const frame of frames) {
        const { event, id, data } = fieldsOf(frame);
        lastEventId = id ?? lastEventId;
        received(event, JSON.parse(data));
      }
    }
  } finally {
    clearTimeout(watchdog);
  }
}

function fieldsOf(frame) {
  const pair = (line) => [line.slice(0, line.indexOf(": ")), line.slice(line.indexOf(": ") + 2)];
  return Object.fromEntries(frame.split("\n").map(pair));
}
