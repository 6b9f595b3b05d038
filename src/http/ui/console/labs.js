// The labs: how many sandboxes each of them holds, how many students wait, and for how long they have worked.

import { get } from "/console/api.js";
import { duration, element, find, link, moment, number, setText } from "/console/page.js";
import { address } from "/console/route.js";

const COLUMNS = ["Lab", "Held", "On standby", "Waiting", "Median time"];

export async function loadLabs() {
  const { counted_at: at, labs } = await get("labs");
  find("labs").replaceChildren(...labs.map(row));
  find("labs-table").hidden = labs.length === 0;
  setText(find("labs-caption"), at === null ? "" : `Counted ${moment(at)}. The median is of the present holdings, without standby.`);
  find("no-labs").hidden = labs.length > 0;
}

export function clearLabs() {
  find("labs").replaceChildren();
}

function row({ lab, held, standby, waiting, median_seconds: median }) {
  const made = element("tr");
  const texts = ["", number(held), number(standby), number(waiting), median === null ? "–" : duration(median)];
  const cells = texts.map((text, index) => {
    const cell = element(index === 0 ? "th" : "td", text, index === 0 ? "" : "number");
    cell.dataset.label = COLUMNS[index];
    return cell;
  });
  cells[0].scope = "row";
  cells[0].append(link(lab, address("sandboxes", { lab })));
  made.append(...cells);
  return made;
}
