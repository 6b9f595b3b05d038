// A class: STUDENTS (200) at once, each with LABS (20) labs in a row and scripts that send every request twice at the same
// time. Duplicates get one sandbox; no student gets another's.

import http from 'k6/http';
import { check } from 'k6';
import { allocate, newTrack, read, release, twinAllocations } from './broker.js';

export const options = {
  scenarios: {
    students: {
      executor: 'per-vu-iterations',
      vus: Number(__ENV.STUDENTS || 200),
      iterations: Number(__ENV.LABS || 20),
      maxDuration: '10m',
    },
  },
  thresholds: { checks: ['rate==1'], http_req_failed: ['rate==0'] },
  summaryTrendStats: ['min', 'med', 'p(95)', 'p(99)', 'max'],
};

export default function () {
  const track = newTrack();
  const twins = http.batch(twinAllocations(track)).map((answer) => answer.json());
  check(twins, {
    'duplicates get one sandbox': ([one, other]) => one.sandbox_id !== undefined && one.sandbox_id === other.sandbox_id,
  });
  const second = allocate(track, [201], { 'Idempotency-Key': `${track}-second` }).json();
  check(second, { 'another key gets another sandbox': ({ sandbox_id }) => sandbox_id !== twins[0].sandbox_id });
  for (const { sandbox_id } of [twins[0], second]) {
    read(track, sandbox_id);
    release(track, sandbox_id);
  }
}
