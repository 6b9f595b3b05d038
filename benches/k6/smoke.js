// A few students, one after another, use every call of the track API.

import { check } from 'k6';
import { allocate, newTrack, read, release, stats } from './broker.js';

export const options = {
  scenarios: { smoke: { executor: 'per-vu-iterations', vus: 1, iterations: 5, maxDuration: '1m' } },
  thresholds: { checks: ['rate==1'], http_req_failed: ['rate==0'] },
};

export default function () {
  const track = newTrack();
  const before = stats();
  const held = allocate(track).json();
  const again = allocate(track, [200]).json();
  check(again, { 'a replay gets the same sandbox': ({ sandbox_id }) => sandbox_id === held.sandbox_id });
  read(track, held.sandbox_id);
  const released = release(track, held.sandbox_id).json();
  const repeated = release(track, held.sandbox_id).json();
  check(repeated, {
    'a repeated release gets the same answer': ({ deletion_requested_at }) =>
      deletion_requested_at === released.deletion_requested_at,
  });
  check(stats(), { 'the sandbox is no longer available': ({ available }) => available < before.total });
}
