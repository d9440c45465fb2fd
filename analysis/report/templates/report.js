"use strict";
// Sort tables by a heading, filter the rows of the table of cells, and open the entry that a link points to.
const rowsOf = table => table.tBodies[table.tBodies.length - 1]; // those of the unpruned model, above, stay
function shown(cell) {
  const drawing = cell.querySelector("svg");
  return drawing ? drawing.getAttribute("aria-label") : cell.textContent;
}
const numberIn = text => parseFloat(text.replace(/[,\u00d7 ]/g, "").replace("\u2212", "-"));
function sort(heading) {
  const table = heading.closest("table"), column = heading.cellIndex, numeric = "numeric" in heading.dataset;
  const down = heading.getAttribute("aria-sort") === "ascending";
  const missing = text => numeric ? Number.isNaN(numberIn(text)) : text === "";
  const compare = (a, b) => numeric ? numberIn(a) - numberIn(b) : a.localeCompare(b, "en", {numeric: true});
  const rows = Array.from(rowsOf(table).rows).sort((a, b) => {
    const x = shown(a.cells[column]), y = shown(b.cells[column]);
    if (missing(x) || missing(y)) return missing(x) - missing(y); // at the end in either order
    return compare(x, y) * (down ? -1 : 1);
  });
  rowsOf(table).append(...rows);
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
