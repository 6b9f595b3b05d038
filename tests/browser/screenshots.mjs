// Takes the README's pictures of the console: node tests/browser/screenshots.mjs <directory>

import { join } from "node:path";

import { ADMIN_TOKEN, Broker, browser, open } from "./broker.mjs";

const [chrome, broker] = await Promise.all([browser(), Broker.start({ BROKER_REPLICA_ID: "broker-1", CSP_SIM_SANDBOXES: "400" })]);
const directory = process.argv[2] ?? ".";

async function picture(name, options, at) {
  const page = await open(chrome, broker, "/console", options);
  await page.getByLabel("Admin token").fill(ADMIN_TOKEN);
  await page.keyboard.press("Enter");
  await page.locator("#connection.live").waitFor();
  await page.locator("#actors li").nth(4).waitFor();
  await page.locator("#rows tr").first().waitFor();
  for (let student = 1; student <= 150; student += 1) {
    await broker.allocate(`student-${student}-${options.colorScheme}`);
    await page.waitForTimeout(50 + (student % 40) * 5);
  }
  await page.locator("#status").selectOption("allocated");
  await page.locator("#rows tr button").first().waitFor();
  await page.locator(at).evaluate((place) => place.scrollIntoView());
  await page.screenshot({ path: join(directory, `${name}.png`) });
  await page.context().close();
}

await picture("console-light", { colorScheme: "light", viewport: { width: 1200, height: 1000 } }, "header");
await picture("console-dark", { colorScheme: "dark", viewport: { width: 1200, height: 1000 } }, "#breaker");
await chrome.close();
await broker.end();
