// To the last one: TRACKS (1000) students ask at the same moment for a pool of exactly as many; each gets one, nobody is
// told that there is none, and then one more is. load.sh sees to the size of the pool.

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

// As many allocated as asked says that all are distinct.
export function teardown() {
  check(stats(), {
    'all are allocated': ({ allocated }) => allocated === tracks,
    'none is left': ({ available }) => available === 0,
  });
  const answer = allocate('one-too-many', [409]);
  check(answer, { 'and that is told': (answer) => answer.json('error.code') === 'NO_SANDBOXES_AVAILABLE' });
}
