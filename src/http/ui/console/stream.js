// Reads the broker's server-sent events. `EventSource` cannot send the token in a header.
//
// One tab of the browser reads and passes on what it receives, because browsers open only six connections to a host. A
// hidden tab does not read: another takes over.

import { ApiError, send, session } from "/console/api.js";

// Snapshots come every second; a connection without data for this long is dead.
const SILENCE_MS = 8000;
const FIRST_RETRY_MS = 1000;
const MAX_RETRY_MS = 10_000;
const NAME = "sandbox-broker.stream";
const MAX_KEPT_EVENTS = 200;

const channel = new BroadcastChannel(NAME);

let connection = null;
let lastEventId = null;
/** The last journal events, for tabs that come later. */
let kept = [];

/** Stops following, and forgets the position in the stream. */
export function unfollow() {
  connection?.abort();
  connection = null;
  lastEventId = null;
  kept = [];
  channel.onmessage = null;
}

/**
 * Follows until `unfollow`. Calls `received(name, data)` for each event and `lost(why)` whenever the connection is lost,
 * and then reconnects. Rejects if the token is refused.
 */
export async function follow(received, lost) {
  const current = new AbortController();
  const { signal } = current;
  connection = current;
  let isLeader = false;
  let watchdog;
  const watch = () => {
    clearTimeout(watchdog);
    watchdog = setTimeout(() => !isLeader && !signal.aborted && lost("Connection lost"), SILENCE_MS);
  };
  channel.onmessage = ({ data: { name, data } }) => {
    if (name === "hello") return isLeader && kept.length && channel.postMessage({ name: "journal", data: kept });
    if (isLeader) return;
    watch();
    if (name === "lost") lost(data);
    else received(name, data);
  };
  watch();
  channel.postMessage({ name: "hello" });
  const pass = (name, data) => {
    if (name === "journal") kept = [...kept, ...data].slice(-MAX_KEPT_EVENTS);
    channel.postMessage({ name, data });
    received(name, data);
  };
  const passLost = (why) => {
    channel.postMessage({ name: "lost", data: why });
    lost(why);
  };
  const lead = async () => {
    isLeader = true;
    try {
      await readWhileVisible(signal, pass, passLost);
    } finally {
      isLeader = false;
    }
  };
  try {
    while (!signal.aborted) {
      await visible(signal);
      // Without a secure context there are no locks: each tab reads for itself.
      if (navigator.locks) await navigator.locks.request(NAME, { signal }, lead);
      else await lead();
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  } finally {
    clearTimeout(watchdog);
  }
}

/** Waits until the tab is seen. */
function visible(signal) {
  if (!document.hidden) return;
  return new Promise((resolve) => {
    const seen = () => {
      if (document.hidden && !signal.aborted) return;
      document.removeEventListener("visibilitychange", seen);
      resolve();
    };
    document.addEventListener("visibilitychange", seen);
    signal.addEventListener("abort", seen);
  });
}

async function readWhileVisible(signal, received, lost) {
  let wait = FIRST_RETRY_MS;
  while (!signal.aborted && !document.hidden) {
    const current = new AbortController();
    const stop = () => current.abort();
    const hide = () => document.hidden && stop();
    signal.addEventListener("abort", stop);
    document.addEventListener("visibilitychange", hide);
    let why = "Connection lost";
    try {
      await read(current, (name, data) => {
        wait = FIRST_RETRY_MS;
        received(name, data);
      });
    } catch (error) {
      if (error.isRefusal) throw error;
      if (error instanceof ApiError) why = error.message;
    } finally {
      signal.removeEventListener("abort", stop);
      document.removeEventListener("visibilitychange", hide);
    }
    if (signal.aborted || document.hidden) return;
    lost(why);
    await new Promise((resolve) => setTimeout(resolve, wait));
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
