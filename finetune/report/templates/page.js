"use strict";

// A number to sort by: what the cell was made from, or its text where that is a number.
function key(cell) {
  const text = cell.dataset.key ?? cell.textContent.trim();
  const number = Number(text.replaceAll(",", ""));
  return text === "" || Number.isNaN(number) ? text : number;
}

function compare(a, b) {
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return typeof a === "number" ? a - b : a.localeCompare(b);
}

function sort(table, head, column) {
  const rows = [...table.tBodies[0].rows];
  const keys = new Map(rows.map((row) => [row, key(row.cells[column])]));
  const numbers = rows.some((row) => typeof keys.get(row) === "number");
  const before = head.ariaSort;
  const down = before ? before === "ascending" : numbers;
  rows.sort((a, b) => {
    const [one, other] = [keys.get(a), keys.get(b)];
    // What is no number stays below the numbers, whichever way they are sorted.
    return typeof one === typeof other && down ? compare(other, one) : compare(one, other);
  });
  for (const cell of head.parentNode.cells) cell.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  table.tBodies[0].append(...rows);
}

for (const table of document.querySelectorAll("table[data-sort]")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(table, head, column));
    head.append(button);
  });
}

for (const table of document.querySelectorAll("table[data-filter]")) {
  const field = document.createElement("input");
  field.type = "search";
  field.className = "filter";
  field.placeholder = "Filter";
  field.setAttribute("aria-label", "Show only rows with this text");
  field.addEventListener("input", () => {
    const wanted = field.value.toLowerCase();
    for (const row of table.tBodies[0].rows) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
    }
  });
  table.parentNode.before(field);
}
