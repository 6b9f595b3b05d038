// Calls of the broker's API on behalf of the operator who signed in. The token is kept until this tab is closed, and sent
// in a header only. The operator's name is remembered.

import { notify } from "/console/page.js";

const TOKEN = "sandbox-broker.admin-token";
const OPERATOR = "sandbox-broker.operator";

/** The cause of notices that go away once the broker answers again. */
export const UNREACHABLE = "unreachable";

let whenRefused = () => {};

/** An error that the broker answered. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }

  /** Whether the token was not accepted. */
  get isRefusal() {
    return this.status === 401 || this.status === 403;
  }
}

export const session = {
  get token() {
    return sessionStorage.getItem(TOKEN);
  },
  get operator() {
    return localStorage.getItem(OPERATOR) ?? "";
  },
  begin(token, operator) {
    sessionStorage.setItem(TOKEN, token);
    if (operator) localStorage.setItem(OPERATOR, operator);
    else localStorage.removeItem(OPERATOR);
  },
  end() {
    sessionStorage.removeItem(TOKEN);
  },
  /** Registers what to do when the broker no longer accepts the token. */
  onRefusal(listener) {
    whenRefused = listener;
  },
};

async function errorOf(response) {
  try {
    const { error } = await response.json();
    return new ApiError(response.status, `${error.message} (${error.code}, request ${error.request_id})`);
  } catch {
    return new ApiError(response.status, `the broker answered ${response.status}`);
  }
}

/** Sends a request; throws an `ApiError` if the answer is one. */
export async function send(path, { token = session.token, headers = {}, ...options } = {}) {
  const { operator } = session;
  // Headers take no other characters than those of Latin 1.
  const all = { ...headers, Authorization: `Bearer ${token}`, ...(operator && { "X-Operator": encodeURIComponent(operator) }) };
  const response = await fetch(`/v1/admin/${path}`, { ...options, headers: all });
  if (!response.ok) throw await errorOf(response);
  return response;
}

export async function get(path) {
  return (await send(path)).json();
}

export async function post(path, body) {
  const json = body && { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
  return (await send(path, { method: "POST", ...json })).json();
}

/** Does what an operator asked for, and shows what went wrong. Work that only reads leaves nothing in doubt. */
export async function attempt(what, work, { isRead = false } = {}) {
  try {
    await work();
    notify("");
  } catch (error) {
    if (error.isRefusal) return whenRefused();
    if (error instanceof ApiError || error.isAnswer) return notify(`${what} failed: ${error.message}`);
    const doubt = isRead ? "" : "; whether it was done is unknown";
    notify(`${what} failed: the broker does not answer${doubt}`, UNREACHABLE);
  }
}
