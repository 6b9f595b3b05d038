// The broker's calls, each with checks of its answer. Environment: BROKER_URLS (comma-separated; virtual users are spread
// over them), TRACK_TOKEN, ADMIN_TOKEN, RUN (a prefix that makes this run's track names unique).

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
    // Without a name, k6 makes a series of each sandbox's URL.
    tags: { name },
    responseCallback: http.expectedStatuses(...expected),
  };
}

/** A name for a student, unique over iterations and runs. */
export const newTrack = () => `${RUN}-${exec.scenario.name}-${exec.scenario.iterationInTest}`;

/** Allocates a sandbox and checks that the status is an expected one. */
export function allocate(track, expected = [201], headers = {}) {
  const answer = http.post(url('/v1/allocate'), null, asTrack(track, 'allocate', headers, expected));
  check(answer, {
    'allocate: status': ({ status }) => expected.includes(status),
    'allocate: a complete answer': (answer) => answer.status >= 400 || isComplete(answer.json()),
  });
  return answer;
}

/** The same request twice, to different brokers if there are several, for `http.batch`. */
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
  check(answer, { 'release: pending deletion': (answer) => answer.json('status') === 'pending_deletion' });
  return answer;
}

/** The number of sandboxes by status. */
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

const isComplete = ({ sandbox_id, name, external_id, allocated_at, expires_at }) =>
  [sandbox_id, name, external_id].every((text) => typeof text === 'string' && text !== '') && expires_at > allocated_at;
