// Swagger UI: both tokens, and a call of each kind.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { ADMIN_TOKEN, Broker, TRACK_TOKEN, browser, open } from "./broker.mjs";

let chrome;
let broker;

before(async () => {
  [chrome, broker] = await Promise.all([browser(), Broker.start()]);
});

after(async () => {
  await chrome?.close();
  await broker?.end();
});

async function execute(page, operation, fill = async () => {}) {
  const block = page.locator(`[id="${operation}"]`);
  await block.locator("button.opblock-summary-control").click();
  await block.getByRole("button", { name: "Try it out" }).click();
  await fill(block);
  await block.getByRole("button", { name: "Execute" }).click();
  return block.locator(".live-responses-table .response-col_status").last().textContent();
}

test("calls of both APIs are tried with both tokens", async () => {
  const page = await open(chrome, broker, "/v1/docs");
  await page.getByRole("button", { name: "Authorize" }).first().click();
  for (const [scheme, token] of [["track_token", TRACK_TOKEN], ["admin_token", ADMIN_TOKEN]]) {
    const form = page.locator(".auth-container form", { hasText: scheme });
    await form.locator("input").fill(token);
    await form.getByRole("button", { name: "Apply credentials" }).click();
  }
  await page.getByRole("button", { name: "Close" }).first().click();
  const track = (block) => block.locator('tr[data-param-name="X-Track-ID"] input').fill("student-docs");
  assert.match(await execute(page, "operations-Sandboxes-allocate", track), /^201/);
  assert.match(await execute(page, "operations-Admin-stats"), /^200/);
  assert.deepEqual(page.faults, []);
});
