"use strict";

// The value to sort by: the number behind the cell, or its text, as a number if it is one.
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
    // Text stays below the numbers in both directions.
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

// The map: the list below it holds what its card says.
for (const map of document.querySelectorAll(".map")) {
  const [pan, plane, card] = [".pan", ".plane", ".card"].map((name) => map.querySelector(name));
  const spots = [...plane.querySelectorAll(".spot")];
  const rows = [...map.querySelectorAll("#map-list tbody tr")];
  let shown = null;

  function line(...words) {
    const paragraph = document.createElement("p");
    paragraph.append(...words);
    return paragraph;
  }

  function show(spot) {
    if (!spot || spot === shown) return;
    shown?.classList.remove("shown");
    shown = spot;
    spot.classList.add("shown");
    const [photo, ...cells] = rows[spots.indexOf(spot)].cells;
    const [label, split, answers, marks] = cells.map((cell) => cell.textContent.trim());
    const name = document.createElement("b");
    name.append(label);
    const lines = [...answers.split(", "), marks].filter(Boolean).map((words) => line(words));
    card.replaceChildren(photo.querySelector(".picture").cloneNode(), line(name, `, ${split}`), ...lines);
    card.append(line(photo.textContent.trim()));
    const [frame, place] = [pan, spot].map((element) => element.getBoundingClientRect());
    card.classList.toggle("left", place.left > frame.left + frame.width / 2);
    card.hidden = false;
  }

  // The nearest photo in a direction; what lies aside counts twice.
  function next(x, y) {
    const at = (spot) => ["--x", "--y"].map((axis) => Number(spot.style.getPropertyValue(axis)));
    const [left, top] = at(shown);
    let best = null;
    for (const spot of spots) {
      const [right, down] = at(spot);
      const ahead = (right - left) * x + (down - top) * y;
      const far = ahead + 2 * Math.abs((right - left) * y + (down - top) * x);
      if (ahead > 0 && spot.offsetParent && !(best?.far <= far)) best = { spot, far };
    }
    return best?.spot;
  }

  for (const event of ["pointerover", "click"]) {
    plane.addEventListener(event, ({ target }) => show(target.closest(".spot")));
  }
  const directions = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  pan.addEventListener("keydown", (event) => {
    const direction = directions[event.key];
    if (!direction) return;
    event.preventDefault();
    show(shown ? next(...direction) : spots[0]);
    shown.scrollIntoView({ block: "nearest", inline: "nearest" });
  });

  const tools = map.querySelector(".tools");
  tools.hidden = false;
  tools.querySelector("select").addEventListener("change", ({ target }) => {
    for (const spot of spots) {
      spot.classList.toggle("faded", target.value !== "" && spot.dataset.class !== target.value);
    }
  });
  let zoom = 1;
  for (const button of tools.querySelectorAll("button")) {
    button.addEventListener("click", () => {
      const middle = [pan.scrollLeft + pan.clientWidth / 2, pan.scrollTop + pan.clientHeight / 2];
      const before = plane.clientWidth;
      zoom = Math.min(8, Math.max(1, zoom * button.dataset.zoom));
      plane.style.setProperty("--zoom", zoom);
      // Photos grow more slowly than the space between them.
      plane.style.setProperty("--shrink", Math.sqrt(zoom));
      const grown = plane.clientWidth / before;
      pan.scrollTo(middle[0] * grown - pan.clientWidth / 2, middle[1] * grown - pan.clientHeight / 2);
    });
  }
}
