// The operators' console, end to end.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { ADMIN_TOKEN, Broker, CspSim, TRACK_TOKEN, browser, open } from "./broker.mjs";

let chrome;
let broker;

before(async () => {
  [chrome, broker] = await Promise.all([browser(), Broker.start()]);
});

after(async () => {
  await chrome?.close();
  await broker?.end();
});

async function signedIn(options, target = broker) {
  const page = await open(chrome, target, "/console", options);
  await page.getByLabel("Admin token").fill(ADMIN_TOKEN);
  await page.keyboard.press("Enter");
  await page.locator("#connection.live").waitFor();
  return page;
}

/** Closes the page; a test whose page did what it may not fails here. */
async function close(page) {
  assert.deepEqual(page.faults, []);
  await page.context().close();
}

const tile = (page, name) => page.locator(`#stats .${name} dd`);
const shows = (page, locator, text) => locator.filter({ hasText: text }).first().waitFor();
const actor = (page, name) => page.locator(`#actors tr[data-actor="${name}"]`);

test("a wrong token and one of a track open nothing", async () => {
  const page = await open(chrome, broker, "/console");
  for (const token of ["wrong", TRACK_TOKEN]) {
    await page.getByLabel("Admin token").fill(token);
    await page.getByRole("button", { name: "Sign in" }).click();
    await shows(page, page.getByRole("alert"), "not accepted");
    assert.equal(await page.locator("#console").isVisible(), false);
    assert.equal(await page.evaluate(() => sessionStorage.length), 0);
  }
  await close(page);
});

test("the token lives in this session alone, and signing out forgets it", async () => {
  const page = await signedIn();
  assert.equal(await page.evaluate(() => localStorage.length + document.cookie.length), 0);
  assert.equal(await page.evaluate(() => sessionStorage.length), 1);
  await page.reload();
  await page.locator("#connection.live").waitFor();
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByLabel("Admin token").waitFor();
  assert.equal(await page.evaluate(() => sessionStorage.length), 0);
  assert.equal(await page.locator("#rows tr").count(), 0);
  await close(page);
});

test("numbers, events and the table follow an allocation", async () => {
  const page = await signedIn();
  await shows(page, tile(page, "total"), /^50$/);
  const before = Number(await tile(page, "allocated").textContent());
  const { status, body } = await broker.allocate("<i>student-1</i>");
  assert.equal(status, 201);
  await shows(page, tile(page, "allocated"), new RegExp(`^${before + 1}$`));
  await shows(page, page.locator("#events li"), `sandbox ${body.sandbox_id}`);
  assert.equal(await page.locator("#events i, #rows i").count(), 0, "what tracks call themselves is text, not markup");
  await page.waitForFunction(() => document.querySelector("#pool-chart .allocated")?.hasAttribute("d"));
  await page.waitForFunction(() => document.querySelector("#throughput-chart .allocations")?.hasAttribute("d"));
  const percentiles = await page.locator("#throughput dd").allTextContents();
  assert.ok(percentiles.slice(1, 4).every((text) => Number.parseFloat(text) > 0), percentiles.join());
  await page.locator("#pool-chart svg").hover({ position: { x: 1, y: 1 } });
  const { width } = await page.locator("#pool-chart svg").boundingBox();
  await page.mouse.move(0, 0);
  await page.locator("#pool-chart svg").hover({ position: { x: width - 2, y: 20 } });
  await shows(page, page.locator("#pool-chart .reading"), `allocated ${before + 1}`);

  await page.locator("#status").selectOption("allocated");
  await shows(page, page.locator("#rows tr"), body.name);
  await page.getByLabel("Search").fill("STUDENT-1");
  await page.keyboard.press("Enter");
  await shows(page, page.locator("#table-caption"), "1 sandbox");
  await page.getByLabel("Search").fill("nobody");
  await page.keyboard.press("Enter");
  await shows(page, page.locator("#table-caption"), "No sandbox fits");
  await close(page);
});

test("pages of the table lead on and back", async () => {
  const page = await signedIn();
  await shows(page, page.locator("#table-caption"), "Page 1, 25");
  const first = await page.locator("#rows tr").first().textContent();
  await page.getByRole("button", { name: "Next page" }).click();
  await shows(page, page.locator("#table-caption"), "Page 2, 25");
  assert.notEqual(await page.locator("#rows tr").first().textContent(), first);
  await page.getByRole("button", { name: "Previous page" }).click();
  await shows(page, page.locator("#table-caption"), "Page 1, 25");
  await close(page);
});

test("an actor is paused with a reason, and resumed", async () => {
  const page = await open(chrome, broker, "/console");
  await page.getByLabel("Admin token").fill(ADMIN_TOKEN);
  await page.getByLabel("Your name").fill("Anna");
  await page.getByRole("button", { name: "Sign in" }).click();
  const cleanup = actor(page, "cleanup");
  await cleanup.getByRole("button", { name: "Pause" }).click();
  await page.keyboard.press("Escape");
  assert.equal((await broker.admin("actors/cleanup")).body.desired_state, "running", "Escape does nothing");

  await cleanup.getByRole("button", { name: "Pause" }).click();
  assert.match(await page.locator("#dialog-text").textContent(), /No replica runs this job/);
  await page.keyboard.press("Enter");
  assert.equal(await page.locator("#dialog").isVisible(), true, "a reason is required");
  await page.getByLabel("Reason").fill("freeze deletions");
  await page.keyboard.press("Enter");
  await shows(page, cleanup.locator(".badge"), "paused");
  await shows(page, cleanup, "freeze deletions (Anna@127.0.0.1");
  await shows(page, page.locator("#events li"), "pause cleanup");
  const { body } = await broker.admin("actors/cleanup");
  assert.equal(body.desired_state, "paused");
  assert.equal(body.control.reason, "freeze deletions");

  await cleanup.getByRole("button", { name: "Run" }).click();
  assert.match(await page.locator("#dialog-text").textContent(), /deleted at the cloud provider now/);
  await page.locator("#dialog-yes").click();
  await shows(page, page.getByRole("alert"), "ACTOR_PAUSED");
  await page.getByRole("button", { name: "Dismiss" }).click();
  assert.equal(await page.getByRole("alert").isVisible(), false);
  await cleanup.getByRole("button", { name: "Resume" }).click();
  await shows(page, cleanup.locator(".badge"), "idle");
  await actor(page, "csp-sync").getByRole("button", { name: "Run" }).click();
  await shows(page, actor(page, "csp-sync"), "synced 50");
  await close(page);
});

test("a sandbox is released, after a question", async () => {
  const { body } = await broker.allocate("student-released");
  const page = await signedIn();
  await page.getByLabel("Search").fill("student-released");
  await page.keyboard.press("Enter");
  const release = page.getByRole("button", { name: `Release sandbox ${body.sandbox_id}` });
  await release.click();
  assert.match(await page.locator("#dialog-text").textContent(), /student-released ends at once.*deleted/s);
  await page.getByRole("button", { name: "Cancel" }).click();
  assert.equal((await broker.admin("sandboxes?search=student-released")).body.sandboxes[0].status, "allocated");
  await release.click();
  await page.locator("#dialog-yes").click();
  await shows(page, page.locator("#rows tr"), "pending deletion");
  await page.locator("#table-caption:focus").waitFor();
  await shows(page, page.locator("#events li"), `force-release sandbox ${body.sandbox_id}`);
  assert.equal((await broker.admin("sandboxes?search=student-released")).body.sandboxes[0].status, "pending_deletion");
  await close(page);
});

test("a failed deletion is tried again, after a question", async () => {
  const csp = await CspSim.start();
  const failing = await Broker.start({ DELETION_RETRY_MAX_ATTEMPTS: "1", ...csp.settings });
  await failing.call("POST", "/v1/admin/sync", ADMIN_TOKEN);
  const { body } = await failing.allocate("student-failed");
  await failing.giveBack(body.sandbox_id, "student-failed");
  await csp.setFaults({ error_rate: 1, error_status: 500 });
  await failing.call("POST", "/v1/admin/cleanup", ADMIN_TOKEN);
  const page = await signedIn({}, failing);
  await page.locator("#status").selectOption("deletion_failed");
  await page.getByRole("button", { name: `Retry the deletion of sandbox ${body.sandbox_id}` }).click();
  await page.locator("#dialog-yes").click();
  await shows(page, page.locator("#table-caption"), "done");
  assert.equal((await failing.admin("sandboxes?search=student-failed")).body.sandboxes[0].status, "pending_deletion");
  await close(page);
  await failing.end();
  csp.end();
});

test("a broker that goes is said to be gone, and found again", async () => {
  const page = await signedIn();
  await broker.kill();
  await shows(page, page.locator("#connection.lost"), "Connection lost");
  await page.locator("body.is-lost").waitFor();
  await actor(page, "csp-sync").getByRole("button", { name: "Run" }).click();
  await shows(page, page.getByRole("alert"), "does not answer");
  await broker.start();
  await shows(page, page.locator("#connection.live"), "Live");
  await broker.allocate("student-after-the-crash");
  await shows(page, page.locator("#events li"), "student-after-the-crash");
  await close(page);
});

test("an empty pool is explained", async () => {
  const empty = await Broker.start({ CSP_SIM_SANDBOXES: "0" });
  const page = await signedIn({}, empty);
  await shows(page, page.locator("#pool-empty"), "holds no sandbox");
  await shows(page, page.locator("#table-caption"), "No sandbox fits");
  await close(page);
  await empty.end();
});

for (const colorScheme of ["light", "dark"]) {
  test(`it fits a phone in ${colorScheme}`, async () => {
    const page = await signedIn({ colorScheme, viewport: { width: 375, height: 700 } });
    await page.locator("#rows tr").first().waitFor();
    const width = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(width <= 375, `${width} pixels wide`);
    const [red] = await page.evaluate(() => getComputedStyle(document.body).backgroundColor.match(/\d+/g).map(Number));
    assert.equal(red < 128, colorScheme === "dark");
    await close(page);
  });
}

test("a search finds while one types, and the page does not jump under the pointer", async () => {
  await broker.allocate("student-typed");
  const page = await signedIn();
  await page.getByLabel("Search").pressSequentially("student-typ");
  await shows(page, page.locator("#table-caption"), "1 sandbox");
  await page.locator("#rows button").hover();
  const row = await page.locator("#rows tr").elementHandle();
  await page.waitForTimeout(6000);
  assert.equal(await row.evaluate((kept) => kept.isConnected), true, "the row was not replaced");
  await close(page);
});

test("the keyboard reaches everything", async () => {
  const page = await signedIn();
  await page.locator("#rows tr").first().waitFor();
  await page.locator("#actors tr").nth(4).waitFor();
  const names = new Set();
  await page.evaluate(() => document.activeElement.blur());
  for (let presses = 0; presses < 60; presses += 1) {
    await page.keyboard.press("Tab");
    names.add(await page.evaluate(() => {
      const { ariaLabel, textContent, id } = document.activeElement;
      return ariaLabel || id || textContent.trim();
    }));
  }
  for (const name of ["sign-out", "Pause pool-manager", "Run stale-collector now", "search", "status", "next", "events"]) {
    assert.ok(names.has(name), `${name} is not among ${[...names].join(", ")}`);
  }
  await close(page);
});
