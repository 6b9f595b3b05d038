// Takes the README's pictures of the console: node tests/browser/screenshots.mjs <directory>

import { join } from "node:path";

import { ADMIN_TOKEN, Broker, CspSim, browser, open } from "./broker.mjs";

// The charts show what happens in this time.
const SECONDS = 600;
const LABS = ["first-steps", "dns-deep-dive", "zero-trust", "load-balancing"];

const [chrome, csp] = await Promise.all([browser(), CspSim.start(400)]);
const settings = { BROKER_REPLICA_ID: "broker-1", DELETION_RETRY_MAX_ATTEMPTS: "1", ...csp.settings };
const broker = await Broker.start(settings);
const directory = process.argv[2] ?? ".";

async function signIn(options) {
  const page = await open(chrome, broker, "/console", { timezoneId: "America/New_York", ...options });
  await page.getByLabel("Admin token").fill(ADMIN_TOKEN);
  await page.getByLabel("Your name").fill("anna");
  await page.keyboard.press("Enter");
  await page.locator("#connection.live").waitFor();
  await page.locator("#stats dd").first().waitFor();
  return page;
}

async function allocate(number) {
  const student = `student-${number}`;
  const standby = number % 5 === 0 && { "X-Sandbox-Standby": "true" };
  const { body } = await broker.allocate(student, { "X-Instruqt-Track-ID": LABS[number % LABS.length], ...standby });
  return { student, id: body.sandbox_id };
}

const picture = (page, name) => page.screenshot({ path: join(directory, `${name}.png`) });

// A deletion fails, some are given back, classes come and go, one job rests.
const failed = await allocate(18);
await broker.giveBack(failed.id, failed.student);
await csp.setFaults({ undeletable: [Number(failed.id)] });
await broker.call("POST", "/v1/admin/cleanup", ADMIN_TOKEN);

const dark = await signIn({ colorScheme: "dark", viewport: { width: 1280, height: 860 } });
const held = [];
let number = 100;
for (let second = 0; second < SECONDS; second += 1) {
  const students = Math.round(2 + 2 * Math.sin(second / 60));
  if (second % 4 === 0) for (let student = 0; student < students; student += 1) held.push(await allocate((number += 1)));
  if (second % 9 === 8) await Promise.all(held.splice(0, 3).map(({ id, student }) => broker.giveBack(id, student)));
  await dark.waitForTimeout(1000);
}
await dark.getByRole("link", { name: "Actors" }).click();
await dark.getByRole("button", { name: "Pause stale-collector" }).click();
await dark.getByLabel("Reason").fill("comparing with the tenant");
await dark.keyboard.press("Enter");
await dark.locator("#actors .badge.paused").waitFor();
await dark.getByRole("link", { name: "Overview" }).click();
await dark.mouse.move(0, 0);
await dark.evaluate(() => document.activeElement.blur());
await dark.waitForTimeout(1500);
await picture(dark, "console-dark");

const light = await signIn({ colorScheme: "light", viewport: { width: 1280, height: 860 } });
await light.getByRole("link", { name: "Sandboxes" }).click();
await light.locator("#rows tr", { hasText: "deletion failed" }).waitFor();
await picture(light, "console-light");

await chrome.close();
await broker.end();
csp.end();
