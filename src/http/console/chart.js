// An area chart in SVG: series stacked upon each other, the newest point at the right edge.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 600;
const HEIGHT = 100;

/** Draws `points`, of which each has a number for every name of `series`, into `svg`; returns the chart's upper end. */
export function drawStacked(svg, series, points, capacity) {
  const total = (point) => series.reduce((sum, name) => sum + point[name], 0);
  const top = Math.max(1, ...points.map(total));
  const x = (index) => ((capacity - points.length + index) / (capacity - 1)) * WIDTH;
  const y = (value) => HEIGHT - (value / top) * HEIGHT;
  const base = points.map(() => 0);
  const areas = series.map((name) => {
    const lower = points.map((_, index) => `${x(index).toFixed(1)},${y(base[index]).toFixed(1)}`).reverse();
    const upper = points.map((point, index) => {
      base[index] += point[name];
      return `${x(index).toFixed(1)},${y(base[index]).toFixed(1)}`;
    });
    const area = document.createElementNS(SVG, "path");
    area.setAttribute("class", name);
    if (points.length > 1) area.setAttribute("d", `M${upper.join("L")}L${lower.join("L")}Z`);
    return area;
  });
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.replaceChildren(...areas);
  return top;
}
