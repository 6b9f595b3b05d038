// A stacked area chart over time. A time without a point is a gap. The pointer shows the values of one moment.

import { moment, number, setText, words } from "/console/page.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 600;
const HEIGHT = 100;

export class Chart {
  #figure;
  #series;
  #unit;
  #points = [];
  #from = 0;
  #to = 0;
  #step = 60;

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

  /**
   * Draws these points: `at`, in seconds since the Unix epoch, and a number for each series. `step` is the time between
   * two points without a gap.
   */
  show(points, { from, to, step }) {
    this.#points = points;
    [this.#from, this.#to, this.#step] = [from, to, step];
    const total = (point) => this.#series.reduce((sum, name) => sum + (point[name] ?? 0), 0);
    const top = roundUp(Math.max(1, ...points.map(total)));
    const x = (at) => (((at - from) / (to - from)) * WIDTH).toFixed(1);
    const y = (value) => (HEIGHT - (value / top) * HEIGHT).toFixed(1);
    const areas = this.#series.map((name, index) => {
      const below = (point) => this.#series.slice(0, index).reduce((sum, other) => sum + (point[other] ?? 0), 0);
      const area = (run) => {
        const ends = run.length === 1 ? [run[0].at, run[0].at + step] : run.map((point) => point.at);
        const at = (place) => run[Math.min(place, run.length - 1)];
        const upper = ends.map((end, place) => `${x(end)},${y(below(at(place)) + (at(place)[name] ?? 0))}`);
        const lower = ends.map((end, place) => `${x(end)},${y(below(at(place)))}`).reverse();
        return `M${upper.join("L")}L${lower.join("L")}Z`;
      };
      return path(name, runs(points, step).map(area).join(""));
    });
    const grid = path("grid", [25, 50, 75].map((height) => `M0,${height}H${WIDTH}`).join(""));
    this.#figure.querySelector("svg").replaceChildren(...areas, grid);
    setText(this.#figure.querySelector(".top"), points.length ? `${number(top)} ${this.#unit}` : "No figures yet");
    setText(this.#figure.querySelector(".from"), moment(from));
    setText(this.#figure.querySelector(".to"), moment(to));
  }

  clear() {
    this.#points = [];
    this.#figure.querySelector("svg").replaceChildren();
    for (const text of this.#figure.querySelectorAll("span")) text.textContent = "";
  }

  /** Shows the values at this fraction of the width; nothing for `null`, and in a gap. */
  #read(fraction) {
    const at = this.#from + fraction * (this.#to - this.#from);
    const point = fraction !== null && this.#points.find((candidate) => Math.abs(candidate.at - at) <= this.#step / 2 + 1);
    const values = point && this.#series.map((name) => `${words(name)} ${number(point[name] ?? 0)}`).join(", ");
    setText(this.#figure.querySelector(".reading"), point ? `${moment(point.at)}: ${values}` : "");
  }
}

/** The points without the gaps between them. */
function runs(points, step) {
  const found = [];
  for (const point of points) {
    const last = found.at(-1);
    if (last && point.at - last.at(-1).at <= step * 1.5) last.push(point);
    else found.push([point]);
  }
  return found;
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
