// Takes the README's pictures of the console: node tests/browser/screenshots.mjs <directory>

import { join } from "node:path";

import { ADMIN_TOKEN, Broker, browser, open } from "./broker.mjs";

const [chrome, broker] = await Promise.all([browser(), Broker.start({ BROKER_REPLICA_ID: "broker-1" })]);
const directory = process.argv[2] ?? ".";

async function picture(name, options, target) {
  const page = await open(chrome, broker, "/console", options);
  await page.getByLabel("Admin token").fill(ADMIN_TOKEN);
  await page.keyboard.press("Enter");
  await page.locator("#connection.live").waitFor();
  for (let student = 1; student <= 24; student += 1) {
    await broker.allocate(`student-${name}-${student}`);
    await new Promise((wait) => setTimeout(wait, 60 + (student % 5) * 60));
  }
  await page.locator("#actors li").nth(4).waitFor();
  await page.locator("#rows tr").first().waitFor();
  await page.waitForTimeout(2500);
  await page.screenshot({ path: join(directory, `${name}.png`), clip: target });
  await page.context().close();
}

await picture("console-light", { colorScheme: "light", viewport: { width: 1200, height: 1180 } });
await picture("console-dark-phone", { colorScheme: "dark", viewport: { width: 390, height: 1180 } });
await chrome.close();
await broker.end();
