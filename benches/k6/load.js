// The target: RATE (1000) allocations a second for DURATION (60s), each for a new student, no error, p99 below 10 ms.
// Needs one sandbox for each allocation.

import { allocate, newTrack } from './broker.js';

const rate = Number(__ENV.RATE || 1000);

export const options = {
  scenarios: {
    load: {
      executor: 'constant-arrival-rate',
      rate,
      timeUnit: '1s',
      duration: __ENV.DURATION || '60s',
      preAllocatedVUs: 50,
      maxVUs: 500,
    },
  },
  thresholds: {
    checks: ['rate==1'],
    http_req_failed: ['rate==0'],
    dropped_iterations: ['count==0'],
    'http_req_duration{name:allocate}': ['p(99)<10'],
  },
  summaryTrendStats: ['min', 'med', 'p(95)', 'p(99)', 'p(99.9)', 'max'],
};

export default function () {
  allocate(newTrack());
}
