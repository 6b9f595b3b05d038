// What the scripts share: the broker's calls, each with checks of its answer. Settings come from the environment:
// BROKER_URLS (comma-separated; the virtual users are spread over them), TRACK_TOKEN, ADMIN_TOKEN, RUN (makes the
// names of this run's tracks unlike those of any other).

import http from 'k6/http';
import { check, fail } from 'k6';
import exec from 'k6/execution';

const URLS = (__ENV.BROKER_URLS || 'http://127.0.0.1:8080').split(',');
const TRACK_TOKEN = __ENV.TRACK_TOKEN || 'development-track-token';
const ADMIN_TOKEN = __ENV.ADMIN_TOKEN || 'development-admin-token';
const RUN = __ENV.RUN || `${Date.now()}`;

const url = (path) => `${URLS[exec.vu.idInTest % URLS.length]}${path}`;

function asTrack(track, name, headers = {}, expected = [200, 201]) {
  return {
    headers: { Authorization: `Bearer ${TRACK_TOKEN}`, 'X-Track-ID': track, ...headers },
    // Without a name each sandbox's URL would become a series of its own.
    tags: { name },
    responseCallback: http.expectedStatuses(...expected),
  };
}

/** The name of a student that no other iteration of this or another run has. */
export const newTrack = () => `${RUN}-${exec.scenario.name}-${exec.scenario.iterationInTest}`;

/** Asks for a sandbox; the answer is one of the statuses that are expected. */
export function allocate(track, expected = [201], headers = {}) {
  const answer = http.post(url('/v1/allocate'), null, asTrack(track, 'allocate', headers, expected));
  check(answer, {
    'allocate: status': ({ status }) => expected.includes(status),
    'allocate: a whole answer': (answer) => answer.status >= 400 || isWhole(answer.json()),
  });
  return answer;
}

/** The same request twice, each to a broker of its own if there are several, for `http.batch`. */
export const twinAllocations = (track) =>
  [0, 1].map((twin) => ({
    method: 'POST',
    url: `${URLS[(exec.vu.idInTest + twin) % URLS.length]}/v1/allocate`,
    params: asTrack(track, 'allocate'),
  }));

export function read(track, sandboxId) {
  const answer = http.get(url(`/v1/sandboxes/${sandboxId}`), asTrack(track, 'read'));
  check(answer, { 'read: allocated to the caller': (answer) => answer.json('allocated_to_track') === track });
  return answer;
}

export function release(track, sandboxId) {
  const path = `/v1/sandboxes/${sandboxId}/mark-for-deletion`;
  const answer = http.post(url(path), null, asTrack(track, 'release'));
  check(answer, { 'release: waits for its deletion': (answer) => answer.json('status') === 'pending_deletion' });
  return answer;
}

/** How many sandboxes of each status there are. */
export function stats() {
  const answer = http.get(url('/v1/admin/stats'), {
    headers: { Authorization: `Bearer ${ADMIN_TOKEN}` },
    tags: { name: 'stats' },
  });
  if (answer.status !== 200) {
    fail(`no stats: ${answer.status} ${answer.body}`);
  }
  return answer.json();
}

const isWhole = ({ sandbox_id, name, external_id, allocated_at, expires_at }) =>
  [sandbox_id, name, external_id].every((text) => typeof text === 'string' && text !== '') && expires_at > allocated_at;
