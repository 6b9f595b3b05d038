// A class starts: from 50 allocations a second to PEAK (2000) within 5 s, for 10 s, and back. Requests are served, late if
// need be, or refused with 503; afterwards latency is as before.

import { allocate, newTrack } from './broker.js';

const peak = Number(__ENV.PEAK || 2000);
const scenario = (startTime, startRate, stages) => ({
  executor: 'ramping-arrival-rate',
  startTime,
  startRate,
  timeUnit: '1s',
  preAllocatedVUs: 200,
  maxVUs: 2000,
  stages,
});

export const options = {
  scenarios: {
    spike: scenario('0s', 50, [
      { target: 50, duration: '5s' },
      { target: peak, duration: '5s' },
      { target: peak, duration: '10s' },
      { target: 50, duration: '2s' },
    ]),
    after: scenario('25s', 50, [{ target: 50, duration: '10s' }]),
  },
  thresholds: {
    checks: ['rate==1'],
    http_req_failed: ['rate==0'],
    'http_req_duration{scenario:after}': ['p(99)<10'],
  },
  summaryTrendStats: ['min', 'med', 'p(95)', 'p(99)', 'max'],
};

export default function () {
  allocate(newTrack(), [201, 503]);
}
