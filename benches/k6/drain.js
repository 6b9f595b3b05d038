// Uses the pool up: TRACKS (1000) students ask at once for a pool of exactly that size. Each gets a sandbox and none is
// refused; then one more student is. load.sh sets the size of the pool.

import { check } from 'k6';
import { allocate, newTrack, stats } from './broker.js';

const tracks = Number(__ENV.TRACKS || 1000);

export const options = {
  scenarios: { drain: { executor: 'per-vu-iterations', vus: tracks, iterations: 1, maxDuration: '2m' } },
  thresholds: { checks: ['rate==1'], http_req_failed: ['rate==0'], 'http_reqs{name:allocate}': [`count==${tracks + 1}`] },
  summaryTrendStats: ['min', 'med', 'p(95)', 'p(99)', 'max'],
};

export default function () {
  allocate(newTrack());
}

// The number of allocated sandboxes shows that all are distinct.
export function teardown() {
  check(stats(), {
    'all are allocated': ({ allocated }) => allocated === tracks,
    'none is left': ({ available }) => available === 0,
  });
  const answer = allocate('one-too-many', [409]);
  check(answer, { 'one more is refused': (answer) => answer.json('error.code') === 'NO_SANDBOXES_AVAILABLE' });
}
