// A long run: RATE (50) students a second allocate, read and release for DURATION (1h), while the broker deletes and
// replaces the sandboxes. Memory must not grow; load.sh prints it at the start and at the end.

import { sleep } from 'k6';
import { allocate, newTrack, read, release } from './broker.js';

export const options = {
  scenarios: {
    soak: {
      executor: 'constant-arrival-rate',
      rate: Number(__ENV.RATE || 50),
      timeUnit: '1s',
      duration: __ENV.DURATION || '1h',
      preAllocatedVUs: 100,
      maxVUs: 1000,
    },
  },
  thresholds: {
    checks: ['rate==1'],
    http_req_failed: ['rate==0'],
    dropped_iterations: ['count==0'],
    http_req_duration: ['p(99)<10'],
  },
  summaryTrendStats: ['min', 'med', 'p(95)', 'p(99)', 'p(99.9)', 'max'],
};

export default function () {
  const track = newTrack();
  const { sandbox_id } = allocate(track).json();
  sleep(Math.random());
  read(track, sandbox_id);
  release(track, sandbox_id);
}
