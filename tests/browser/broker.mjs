// Brokers in processes of their own, and a real browser.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

export const TRACK_TOKEN = "development-track-token";
export const ADMIN_TOKEN = "development-admin-token";

const BINARY = process.env.BROKER_BINARY ?? new URL("../../target/debug/sandbox-broker", import.meta.url).pathname;

/** A broker on a file of its own, which can be killed and started again on the same port. */
export class Broker {
  constructor(settings) {
    this.settings = settings;
    this.port = 0;
  }

  static async start(settings = {}) {
    const broker = new Broker(settings);
    broker.directory = await mkdtemp(join(tmpdir(), "broker-"));
    await broker.start();
    return broker;
  }

  async start() {
    const settings = {
      BROKER_HOST: "127.0.0.1",
      BROKER_PORT: String(this.port),
      BROKER_DATA_DIR: this.directory,
      // With a cloud provider in the settings, DynamoDB would be the default.
      BROKER_STORE: "embedded",
      LOG_FORMAT: "json",
      ...this.settings,
    };
    this.process = spawn(BINARY, [], { env: settings, stdio: ["ignore", "pipe", "ignore"] });
    this.port = Number(await printed(this.process, /"address":"127\.0\.0\.1:(\d+)"/));
    await this.until("it is ready", async () => (await fetch(`${this.url}/readyz`)).ok);
  }

  get url() {
    return `http://127.0.0.1:${this.port}`;
  }

  /** SIGKILL: as a crash. */
  async kill() {
    const ended = once(this.process, "exit");
    this.process.kill("SIGKILL");
    await ended;
  }

  async end() {
    await this.kill();
    await rm(this.directory, { recursive: true });
  }

  async call(method, path, token, headers = {}) {
    const response = await fetch(this.url + path, { method, headers: { Authorization: `Bearer ${token}`, ...headers } });
    return { status: response.status, body: await response.json() };
  }

  allocate(track, headers = {}) {
    return this.call("POST", "/v1/allocate", TRACK_TOKEN, { "X-Track-ID": track, ...headers });
  }

  giveBack(id, track) {
    return this.call("POST", `/v1/sandboxes/${id}/mark-for-deletion`, TRACK_TOKEN, { "X-Track-ID": track });
  }

  admin(path) {
    return this.call("GET", `/v1/admin/${path}`, ADMIN_TOKEN);
  }

  async until(what, isTrue) {
    for (const end = Date.now() + 20_000; Date.now() < end; await new Promise((wait) => setTimeout(wait, 50))) {
      if (await Promise.resolve(isTrue()).catch(() => false)) return;
    }
    throw new Error(`waited in vain: ${what}`);
  }
}

/** A simulated cloud provider in a process of its own, whose faults can be switched. */
export class CspSim {
  static async start(sandboxes = 5) {
    const sim = new CspSim();
    const flags = ["csp-sim", "--port=0", `--sandboxes=${sandboxes}`];
    sim.process = spawn(BINARY, flags, { env: { CSP_API_TOKEN: "csp-token" }, stdio: ["ignore", "pipe", "ignore"] });
    sim.url = await printed(sim.process, /simulated CSP on (\S+)/);
    sim.settings = { CSP_MODE: "http", CSP_BASE_URL: sim.url, CSP_API_TOKEN: "csp-token" };
    return sim;
  }

  async setFaults(faults) {
    const headers = { Authorization: "Token csp-token", "Content-Type": "application/json" };
    const answer = await fetch(`${this.url}/sim/faults`, { method: "PUT", headers, body: JSON.stringify(faults) });
    if (!answer.ok) throw new Error(await answer.text());
  }

  end() {
    this.process.kill("SIGKILL");
  }
}

/** Waits until the process prints what fits; the rest of its output goes nowhere. */
async function printed(process, pattern) {
  let text = "";
  return new Promise((resolve, reject) => {
    process.once("exit", () => reject(new Error(`it ended: ${text}`)));
    process.stdout.on("data", (chunk) => {
      text = (text + chunk).slice(-10_000);
      const found = text.match(pattern);
      if (found) resolve(found[1]);
    });
  });
}

/** Chromium without a window. It asks nobody but the broker. */
export function browser() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"],
  });
}

/** A page of the broker, with everything noted that it may not do. */
export async function open(chrome, broker, path, options = {}) {
  const context = await chrome.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(20_000);
  page.faults = [];
  page.on("pageerror", (error) => page.faults.push(`error: ${error}`));
  page.on("console", (message) => {
    // That an answer is an error, or none comes, is part of the tests.
    const isAnswer = message.text().startsWith("Failed to load resource");
    if (message.type() === "error" && !isAnswer) page.faults.push(`console: ${message.text()}`);
  });
  page.on("request", (request) => {
    const url = new URL(request.url());
    if (url.protocol !== "data:" && url.origin !== broker.url) page.faults.push(`foreign host: ${url}`);
    if (url.href.includes(ADMIN_TOKEN)) page.faults.push(`token in a URL: ${url}`);
  });
  await page.goto(broker.url + path);
  return page;
}
