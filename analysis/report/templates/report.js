"use strict";
// Sort tables by a heading, filter the rows of the table of cells, and open the entry that a link points to.
const LAST = "~"; // rows without a value stay at the end in either order
const rowsOf = table => table.tBodies[table.tBodies.length - 1]; // those of the unpruned model, above, stay
function sort(heading) {
  const table = heading.closest("table"), body = rowsOf(table);
  const column = heading.cellIndex, numeric = "numeric" in heading.dataset;
  const down = heading.getAttribute("aria-sort") === "ascending";
  const key = row => row.cells[column].dataset.key ?? row.cells[column].textContent;
  const compare = (a, b) => numeric ? Number(a) - Number(b) : a.localeCompare(b);
  const value = text => text === "inf" ? "Infinity" : text === "-inf" ? "-Infinity" : text;
  const rows = Array.from(body.rows).sort((a, b) => {
    const x = key(a), y = key(b);
    if (x === LAST || y === LAST) return (x === LAST) - (y === LAST);
    return compare(value(x), value(y)) * (down ? -1 : 1);
  });
  body.append(...rows);
  for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
}
for (const button of document.querySelectorAll(".sortable thead button")) {
  button.addEventListener("click", () => sort(button.parentElement));
}
for (const input of document.querySelectorAll("[data-filters]")) {
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/);
    for (const row of rowsOf(document.getElementById(input.dataset.filters)).rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every(word => text.includes(word));
    }
  });
}
function reveal() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
  if (target) target.scrollIntoView();
}
addEventListener("hashchange", reveal);
if (location.hash) reveal();
