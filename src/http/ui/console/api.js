// Calls of the broker's API, in the name of who has signed in. The token lives as long as this tab and travels in a
// header only.

import { notify } from "/console/page.js";

const TOKEN = "sandbox-broker.admin-token";
const OPERATOR = "sandbox-broker.operator";

let whenRefused = () => {};

/** An answer of the broker that is an error. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }

  /** Whether another token is needed. */
  get isRefusal() {
    return this.status === 401 || this.status === 403;
  }
}

export const session = {
  get token() {
    return sessionStorage.getItem(TOKEN);
  },
  begin(token, operator) {
    sessionStorage.setItem(TOKEN, token);
    if (operator) sessionStorage.setItem(OPERATOR, operator);
  },
  end() {
    sessionStorage.removeItem(TOKEN);
    sessionStorage.removeItem(OPERATOR);
  },
  /** Calls this when the broker does not accept the token any more. */
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
  const operator = sessionStorage.getItem(OPERATOR);
  const all = { ...headers, Authorization: `Bearer ${token}`, ...(operator && { "X-Operator": operator }) };
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

/** Does what an operator has asked for, and says what went wrong. */
export async function attempt(what, work) {
  try {
    await work();
    notify("");
  } catch (error) {
    if (error.isRefusal) return whenRefused();
    const why = error instanceof ApiError ? error.message : "the broker does not answer; it may or may not have been done";
    notify(`${what} failed: ${why}`);
  }
}
