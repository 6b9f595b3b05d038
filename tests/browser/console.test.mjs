// The operators' console, end to end.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
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

/** Shows a tab of the console. */
const tab = (page, name) => page.locator("#tabs").getByRole("link", { name }).click();

/** Signs in with the page in a shared context, as another tab of the same browser. */
async function anotherTab(page, path) {
  const other = await page.context().newPage();
  await other.goto(broker.url + path);
  await other.getByLabel("Admin token").fill(ADMIN_TOKEN);
  await other.keyboard.press("Enter");
  return other;
}

/** Axe finds nothing in the page as it is. */
async function assertAccessible(page, place) {
  // The page's policy admits no other script, so the checker comes in from outside.
  await page.evaluate(await readFile(new URL("node_modules/axe-core/axe.min.js", import.meta.url), "utf8"));
  const { violations } = await page.evaluate(() => globalThis.axe.run());
  const found = violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" ")}`);
  assert.deepEqual(found, [], place);
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
  await tab(page, "Sandboxes");
  await page.locator("#rows tr").first().waitFor();
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
  const percentiles = await page.locator("#throughput dd").allTextContents();
  assert.ok(percentiles.slice(1, 4).every((text) => Number.parseFloat(text) > 0), percentiles.join());
  await tab(page, "Events");
  await shows(page, page.locator("#events li"), `sandbox ${body.sandbox_id}`);

  await tab(page, "Sandboxes");
  await page.locator("#status").selectOption("allocated");
  await shows(page, page.locator("#rows tr"), body.name);
  assert.equal(await page.locator("#events i, #rows i").count(), 0, "what tracks call themselves is text, not markup");
  await page.getByLabel("Search").fill("STUDENT-1");
  await page.keyboard.press("Enter");
  await shows(page, page.locator("#table-caption"), "1 sandbox");
  assert.match(page.url(), /#\/sandboxes\?search=STUDENT-1&status=allocated$/);
  await page.getByLabel("Search").fill("nobody");
  await page.keyboard.press("Enter");
  await shows(page, page.locator("#table-caption"), "No sandbox fits");
  await close(page);
});

test("pages of the table lead on and back", async () => {
  const page = await signedIn();
  await tab(page, "Sandboxes");
  await shows(page, page.locator("#table-caption"), "Page 1, 25");
  const first = await page.locator("#rows tr").first().textContent();
  await page.getByRole("button", { name: "Next page" }).click();
  await shows(page, page.locator("#table-caption"), "Page 2, 25");
  assert.notEqual(await page.locator("#rows tr").first().textContent(), first);
  await page.reload();
  await shows(page, page.locator("#table-caption"), "Page 2, 25");
  await page.getByRole("button", { name: "Previous page" }).click();
  await shows(page, page.locator("#table-caption"), "Page 1, 25");
  await close(page);
});

test("an actor is paused with a reason, and resumed after a look at it", async () => {
  const page = await open(chrome, broker, "/console#/actors");
  await page.getByLabel("Admin token").fill(ADMIN_TOKEN);
  await page.getByLabel("Your name").fill("Ána 安娜");
  await page.getByRole("button", { name: "Sign in" }).click();
  const cleanup = actor(page, "cleanup");
  const state = async () => (await broker.admin("actors/cleanup")).body.desired_state;
  await cleanup.getByRole("button", { name: "Pause" }).focus();
  await page.keyboard.press("Enter");
  await page.keyboard.press("Enter");
  assert.equal(await page.locator("#dialog").isVisible(), true, "a reason is required");
  await page.keyboard.press("Escape");
  assert.equal(await state(), "running", "Escape does nothing");

  await cleanup.getByRole("button", { name: "Pause" }).click();
  assert.match(await page.locator("#dialog-text").textContent(), /No replica runs this job/);
  await page.getByLabel("Reason").fill("freeze deletions");
  await page.keyboard.press("Enter");
  await shows(page, cleanup.locator(".badge"), "paused");
  await shows(page, cleanup, "freeze deletions (Ána 安娜@127.0.0.1");
  await page.keyboard.press("Enter");
  await page.keyboard.press("Enter");
  assert.equal(await state(), "paused", "Enter, Enter undoes nothing");
  assert.equal(await page.locator("#dialog").isVisible(), false);

  await cleanup.getByRole("button", { name: "Run" }).click();
  assert.match(await page.locator("#dialog-text").textContent(), /deleted at the cloud provider now/);
  await page.locator("#dialog-yes").click();
  await shows(page, page.getByRole("alert"), "ACTOR_PAUSED");
  await page.getByRole("button", { name: "Dismiss" }).click();
  assert.equal(await page.getByRole("alert").isVisible(), false);

  await cleanup.getByRole("button", { name: "Resume" }).focus();
  await page.keyboard.press("Enter");
  assert.match(await page.locator("#dialog-text").textContent(), /paused by Ána 安娜.*freeze deletions/);
  await page.keyboard.press("Enter");
  assert.equal(await state(), "paused", "Enter, Enter changes nothing");
  await cleanup.getByRole("button", { name: "Resume" }).click();
  await page.locator("#dialog-yes").click();
  await shows(page, cleanup.locator(".badge"), "idle");
  await actor(page, "csp-sync").getByRole("button", { name: "Run" }).click();
  await shows(page, actor(page, "csp-sync"), "synced 50");

  await tab(page, "Audit");
  await shows(page, page.locator("#orders tr"), "pause");
  const orders = await page.locator("#orders tr").allTextContents();
  assert.match(orders[0], /Ána 安娜@127.0.0.1run/);
  assert.ok(orders.some((order) => /resumecleanupok/.test(order)), orders.join("\n"));
  await page.reload();
  await page.locator("#connection.live").waitFor();
  await page.getByRole("button", { name: "Sign out" }).click();
  assert.equal(await page.getByLabel("Your name").inputValue(), "Ána 安娜", "the name is remembered");
  await close(page);
});

test("orders that were given while no console was open are in the audit log", async () => {
  const id = (await broker.allocate("student-audited")).body.sandbox_id;
  for (const [operator, order] of [["ben", `sandboxes/${id}/release`], ["cem", "actors/pool-stats/run"], ["dia", "cleanup"]]) {
    await broker.call("POST", `/v1/admin/${order}`, ADMIN_TOKEN, { "X-Operator": operator });
  }
  const page = await open(chrome, broker, "/console#/audit?by=ben");
  await page.getByLabel("Admin token").fill(ADMIN_TOKEN);
  await page.keyboard.press("Enter");
  await shows(page, page.locator("#orders tr"), id);
  assert.equal(await page.locator("#orders tr").count(), 1);
  await page.getByLabel("Who").fill("");
  for (const who of ["ben", "cem", "dia"]) await shows(page, page.locator("#orders tr"), who);
  await page.locator("#orders").getByRole("link", { name: id }).first().click();
  await shows(page, page.locator("#sandbox-fields"), "student-audited");
  await shows(page, page.locator("#sandbox-orders tr"), "force-release");
  await close(page);
});

test("a selection is released after its number was typed, and the list is exported", async () => {
  for (const number of [1, 2, 3]) await broker.allocate(`student-bulk-${number}`);
  const page = await signedIn();
  await page.goto(`${broker.url}/console#/sandboxes?search=student-bulk`);
  await shows(page, page.locator("#table-caption"), "3 sandboxes");
  const saved = page.waitForEvent("download");
  await page.getByRole("button", { name: "Export as CSV" }).click();
  const lines = (await (await (await saved).createReadStream()).toArray()).join("").trim().split("\r\n");
  assert.equal(lines.length, 4);
  assert.match(lines[0], /^sandbox_id,name,status,allocated_to_track/);
  assert.equal(await page.getByRole("button", { name: "Release selected" }).isDisabled(), true);
  await page.getByLabel("Select this page").check();
  await page.getByRole("button", { name: "Release selected" }).click();
  await page.keyboard.type("2");
  await page.keyboard.press("Enter");
  assert.equal(await page.locator("#dialog").isVisible(), true, "2 is not their number");
  await page.keyboard.type("3");
  await page.keyboard.press("Enter");
  await shows(page, page.locator("#table-caption"), "3 of 3 done");
  assert.equal((await broker.admin("sandboxes?search=student-bulk&status=pending_deletion")).body.count, 3);
  await close(page);
});

test("the queue shows who waits, and a ticket is dropped with a reason", async () => {
  const empty = await Broker.start({ CSP_SIM_SANDBOXES: "0", BROKER_STORE: "memory" });
  const page = await open(chrome, empty, "/console#/queue");
  await page.getByLabel("Admin token").fill(ADMIN_TOKEN);
  await page.keyboard.press("Enter");
  await shows(page, page.locator("#queue-caption"), "No one waits.");
  const request = (track, headers) => empty.allocate(track, { Prefer: "wait=50", ...headers });
  const first = request("<i>student-1</i>", { "X-Sandbox-Name-Prefix": "gpu-", "X-Instruqt-Track-ID": "dns" });
  const rows = page.locator("#queue-rows tr");
  await shows(page, rows, "<i>student-1</i>");
  const second = request("student-2", { "Idempotency-Key": "lab-2" });
  await shows(page, page.locator("#queue-caption"), "2 students wait; no sandbox has come lately");
  assert.match(await rows.nth(0).textContent(), /^1<i>student-1<\/i>gpu-dns.*open/);
  assert.match(await rows.nth(1).textContent(), /^2student-2lab-2/);
  await assertAccessible(page, "queue");
  const drop = page.getByRole("button", { name: "Drop student-2 from the queue" });
  await drop.click();
  await page.keyboard.press("Enter");
  assert.equal(await page.locator("#dialog").isVisible(), true, "a reason is required");
  await assertAccessible(page, "dialog");
  await page.getByLabel("Reason").fill("left the class");
  await page.keyboard.press("Enter");
  await shows(page, page.locator("#queue-caption"), "student-2");
  const { status, body } = await second;
  assert.deepEqual([status, body.error.code], [409, "WITHDRAWN"]);
  await drop.waitFor({ state: "detached" });
  const { entries } = (await empty.admin("audit?action=drop-ticket")).body;
  assert.match(entries[0].parameters, /left/);

  await tab(page, "Overview");
  await shows(page, tile(page, "waiting"), /^1$/);
  await shows(page, page.locator("#labs tr"), /dns/);
  await shows(page, page.locator("#banners"), "1 student waits for a sandbox");
  await assertAccessible(page, "labs");
  await empty.call("DELETE", "/v1/admin/queue?track_id=%3Ci%3Estudent-1%3C%2Fi%3E&reason=done", ADMIN_TOKEN);
  await first;
  await close(page);
  await empty.end();
});

test("standby is shown apart, and a holding is extended and frozen on its page", async () => {
  const own = await Broker.start({ BROKER_STORE: "memory", POOL_STATS_INTERVAL_SEC: "2" });
  const lab = { "X-Instruqt-Track-ID": "dns" };
  await own.allocate("student-standby", { ...lab, "X-Sandbox-Standby": "true" });
  const { body } = await own.allocate("student-active", lab);
  // The page reads the labs when it opens, and the count after these allocations makes their figures.
  for (let held = 0; held < 2; held = (await own.admin("labs")).body.labs[0]?.held ?? 0) await new Promise((done) => setTimeout(done, 200));
  const page = await signedIn({}, own);
  await shows(page, tile(page, "standby"), /^1$/);
  await shows(page, tile(page, "allocated"), /^2$/);
  await page.locator("#labs").getByRole("link", { name: "dns" }).click();
  await shows(page, page.locator("#table-caption"), "2 sandboxes");
  assert.match(page.url(), /#\/sandboxes\?lab=dns$/);

  await page.locator("#rows").getByRole("link", { name: body.name }).click();
  const before = (await own.admin(`sandboxes/${body.sandbox_id}`)).body.expires_at;
  await page.getByRole("button", { name: "Extend" }).click();
  await page.getByLabel("Hours from now").fill("soon");
  await page.keyboard.press("Enter");
  assert.equal(await page.locator("#dialog").isVisible(), true, "it takes a number");
  await page.getByLabel("Hours from now").fill("9.5");
  await page.keyboard.press("Enter");
  await page.locator("#sandbox-orders tr", { hasText: "extend" }).waitFor();
  assert.ok((await own.admin(`sandboxes/${body.sandbox_id}`)).body.expires_at > before + 5 * 3600);
  await page.getByRole("button", { name: "Freeze" }).click();
  await page.keyboard.press("Enter");
  await page.locator("#sandbox-orders tr", { hasText: "freeze" }).waitFor();
  await page.getByRole("button", { name: "Release" }).click();
  await page.locator("#dialog-yes").click();
  await page.getByRole("button", { name: "Quarantine" }).click();
  await page.getByLabel("Reason").fill("evidence");
  await page.keyboard.press("Enter");
  await shows(page, page.locator("#sandbox-fields"), "evidence");
  await page.getByRole("button", { name: "End quarantine" }).waitFor();
  await close(page);
  await own.end();
});

test("a pause of the pool is announced for as long as it lasts", async () => {
  const paused = await Broker.start();
  const page = await signedIn({}, paused);
  const post = (path, body) => fetch(`${paused.url}/v1/admin/${path}`, { method: "POST", body, headers: { Authorization: `Bearer ${ADMIN_TOKEN}` } });
  await post("actors/pool-manager/pause", JSON.stringify({ reason: "maintenance until 14:00" }));
  await shows(page, page.locator("#banners"), "maintenance until 14:00");
  await post("actors/pool-manager/resume");
  await page.waitForFunction(() => document.querySelector("#banners").textContent === "");
  await close(page);
  await paused.end();
});

test("charts show what was before the page was opened", async () => {
  await broker.until("the first minute is kept", async () => (await broker.admin("stats/history")).body.points.length > 0);
  const page = await signedIn();
  await page.waitForFunction(() => document.querySelector("#pool-chart .available")?.hasAttribute("d") || document.querySelector("#allocation-chart .grid"));
  await page.getByRole("button", { name: "Week" }).click();
  await shows(page, page.locator("#step"), "56 min");
  await close(page);
});

test("eight tabs follow the broker", async () => {
  const page = await signedIn();
  const tabs = [page];
  for (let number = 1; number < 8; number += 1) tabs.push(await anotherTab(page, "/console#/events"));
  for (const one of tabs) await one.locator("#connection.live").waitFor();
  await broker.allocate("student-of-eight-tabs");
  for (const one of tabs.slice(1)) await shows(one, one.locator("#events li"), "student-of-eight-tabs");
  // The one that read for all goes; another takes over.
  await tabs[0].close();
  await broker.allocate("student-of-seven-tabs");
  for (const one of tabs.slice(1)) await shows(one, one.locator("#events li"), "student-of-seven-tabs");
  assert.deepEqual(page.faults, []);
  await page.context().close();
});

for (const colorScheme of ["light", "dark"]) {
  test(`axe finds nothing in ${colorScheme}`, async () => {
    const { body } = await broker.allocate("student-axe");
    const page = await open(chrome, broker, "/console", { colorScheme });
    await assertAccessible(page, "sign in");
    await page.getByLabel("Admin token").fill(ADMIN_TOKEN);
    await page.keyboard.press("Enter");
    await page.locator("#connection.live").waitFor();
    await page.locator("#stats dd").first().waitFor();
    for (const path of ["", "sandboxes", `sandbox/${body.sandbox_id}`, "queue", "actors", "audit", "events"]) {
      await page.evaluate((hash) => void (location.hash = `#/${hash}`), path);
      await page.waitForTimeout(500);
      await assertAccessible(page, path);
    }
    await close(page);
  });
}

test("a sandbox is released, after a question", async () => {
  const { body } = await broker.allocate("student-released");
  const page = await signedIn();
  await tab(page, "Sandboxes");
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
  await tab(page, "Events");
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
  await tab(page, "Sandboxes");
  await page.locator("#status").selectOption("deletion_failed");
  await page.getByRole("button", { name: `Retry deletion of sandbox ${body.sandbox_id}` }).click();
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
  await tab(page, "Actors");
  await actor(page, "csp-sync").getByRole("button", { name: "Run" }).click();
  await shows(page, page.getByRole("alert"), "does not answer");
  await broker.start();
  await shows(page, page.locator("#connection.live"), "Live");
  await page.waitForFunction(() => document.querySelector("#notice").hidden);
  await broker.allocate("student-after-the-crash");
  await tab(page, "Events");
  await shows(page, page.locator("#events li"), "student-after-the-crash");
  await close(page);
});

test("an empty pool is explained", async () => {
  const empty = await Broker.start({ CSP_SIM_SANDBOXES: "0" });
  const page = await signedIn({}, empty);
  await shows(page, page.locator("#pool-empty"), "holds no sandbox");
  await tab(page, "Sandboxes");
  await shows(page, page.locator("#table-caption"), "No sandbox fits");
  await close(page);
  await empty.end();
});

for (const colorScheme of ["light", "dark"]) {
  test(`it fits a phone in ${colorScheme}`, async () => {
    const page = await signedIn({ colorScheme, viewport: { width: 360, height: 700 } });
    assert.equal(await page.evaluate(() => scrollY), 0, "the top is visible");
    for (const name of ["Overview", "Sandboxes", "Queue", "Actors", "Audit", "Events"]) {
      await tab(page, name);
      await page.waitForTimeout(300);
      const width = await page.evaluate(() => document.documentElement.scrollWidth);
      assert.ok(width <= 360, `${name}: ${width} pixels wide`);
    }
    const [red] = await page.evaluate(() => getComputedStyle(document.body).backgroundColor.match(/\d+/g).map(Number));
    assert.equal(red < 128, colorScheme === "dark");
    await close(page);
  });
}

test("a search finds while one types, and the page does not jump under the pointer", async () => {
  await broker.allocate("student-typed");
  const page = await signedIn();
  await tab(page, "Sandboxes");
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
  const names = new Set();
  for (const name of ["Overview", "Sandboxes", "Queue", "Actors", "Audit", "Events"]) {
    await tab(page, name);
    await page.waitForTimeout(500);
    await page.evaluate(() => document.activeElement.blur());
    for (let presses = 0; presses < 40; presses += 1) {
      await page.keyboard.press("Tab");
      names.add(await page.evaluate(() => {
        const { ariaLabel, textContent, id } = document.activeElement;
        return ariaLabel || id || textContent.trim();
      }));
    }
  }
  for (const name of ["sign-out", "Week", "Pause pool-manager", "Run now: stale-collector", "search", "status", "export", "audit-by", "events"]) {
    assert.ok(names.has(name), `${name} is not among ${[...names].join(", ")}`);
  }
  await close(page);
});
