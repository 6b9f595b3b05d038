// A stacked area chart with the newest point at the right edge. The pointer shows the values of one moment.

import { clock, number, setText, words } from "/console/page.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 600;
const HEIGHT = 100;
// Points that are kept, one per second.
const MAX_POINTS = 300;
// The width of a chart with few points, in points.
const MIN_SPAN = 60;

export class Chart {
  #figure;
  #series;
  #unit;
  #points = [];

  /** Draws the named series into `figure`. `unit` is what their sum counts. */
  constructor(figure, series, unit) {
    this.#figure = figure;
    this.#series = series;
    this.#unit = unit;
    const svg = figure.querySelector("svg");
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.addEventListener("pointermove", (event) => this.#read(event.offsetX / svg.clientWidth));
    svg.addEventListener("pointerleave", () => this.#read(null));
  }

  /** Adds a point: `at`, in seconds since the Unix epoch, and a number for each series. */
  add(point) {
    this.#points = [...this.#points, point].slice(-MAX_POINTS);
    this.#draw();
  }

  clear() {
    this.#points = [];
    this.#figure.querySelector("svg").replaceChildren();
    for (const text of this.#figure.querySelectorAll("span")) text.textContent = "";
  }

  #span() {
    return Math.max(this.#points.length, MIN_SPAN);
  }

  #draw() {
    const points = this.#points;
    const total = (point) => this.#series.reduce((sum, name) => sum + point[name], 0);
    const top = roundUp(Math.max(...points.map(total)));
    const x = (index) => (((this.#span() - points.length + index) / (this.#span() - 1)) * WIDTH).toFixed(1);
    const y = (value) => (HEIGHT - (value / top) * HEIGHT).toFixed(1);
    const base = points.map(() => 0);
    const areas = this.#series.map((name) => {
      const lower = points.map((_, index) => `${x(index)},${y(base[index])}`).reverse();
      const upper = points.map((point, index) => {
        base[index] += point[name];
        return `${x(index)},${y(base[index])}`;
      });
      return path(name, points.length > 1 ? `M${upper.join("L")}L${lower.join("L")}Z` : "");
    });
    const grid = path("grid", [25, 50, 75].map((height) => `M0,${height}H${WIDTH}`).join(""));
    this.#figure.querySelector("svg").replaceChildren(...areas, grid);
    setText(this.#figure.querySelector(".top"), `${number(top)} ${this.#unit}`);
    setText(this.#figure.querySelector(".from"), clock(points[0].at));
    setText(this.#figure.querySelector(".to"), clock(points.at(-1).at));
  }

  /** Shows the values at this fraction of the width; nothing for `null`. */
  #read(fraction) {
    const index = fraction === null ? -1 : Math.round(fraction * (this.#span() - 1)) - (this.#span() - this.#points.length);
    const point = this.#points[index];
    const values = point && this.#series.map((name) => `${words(name)} ${number(point[name])}`).join(", ");
    setText(this.#figure.querySelector(".reading"), point ? `${clock(point.at)}: ${values}` : "");
  }
}

/** The next round number: 1, 2 or 5 followed by zeros. */
function roundUp(value) {
  const magnitude = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 2, 5, 10].map((step) => step * magnitude).find((step) => step >= value);
}

function path(className, d) {
  const made = document.createElementNS(SVG, "path");
  made.setAttribute("class", className);
  if (d) made.setAttribute("d", d);
  return made;
}
