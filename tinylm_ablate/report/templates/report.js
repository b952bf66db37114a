"use strict";
// Sorting of tables, copying of commands, hints where a table can be scrolled, and figures made interactive on request.
(() => {
  const collator = new Intl.Collator("en", {numeric: true});
  const sortTable = (head) => {
    const table = head.closest("table"), body = table.tBodies[0];
    const column = [...head.parentNode.children].indexOf(head);
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const keyed = [...body.rows].map((row, place) => {
      const text = row.cells[column].dataset.value;
      return {row, place, text, number: text === undefined || text === "" ? NaN : Number(text)};
    });
    const numbers = keyed.every((entry) => entry.text === undefined || !Number.isNaN(entry.number));
    keyed.sort((a, b) => {
      if (a.text === undefined || b.text === undefined) return (a.text === undefined) - (b.text === undefined) || a.place - b.place;
      const order = numbers ? a.number - b.number : collator.compare(a.text, b.text);
      return (up ? order : -order) || a.place - b.place;
    });
    body.append(...keyed.map((entry) => entry.row));
  };
  const evaluate = () => {
    if (window.vegaEmbed) return;
    const script = document.createElement("script");
    script.textContent = document.getElementById("vega-bundle").textContent.replaceAll("<\\/", "</").replaceAll("<\\!--", "<!--").replace(/\bexport\s*\{[^}]*\};?\s*$/, "");
    document.head.append(script);
  };
  const interactive = async (button) => {
    const figure = button.closest("figure"), drawing = figure.querySelector(".drawing");
    evaluate();
    const specs = JSON.parse(document.getElementById("figure-data").textContent);
    await window.vegaEmbed(drawing, specs[figure.dataset.figure], {renderer: "svg", actions: false, ast: false});
    button.textContent = "Interactive: hover for values";
    button.disabled = true;
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.parentNode?.matches("thead th")) sortTable(button.parentNode);
    if (button.matches(".interactive")) interactive(button);
    if (button.matches(".copy")) {
      navigator.clipboard?.writeText(button.parentNode.querySelector("code").textContent).then(() => { button.textContent = "Copied"; });
    }
  });
  const hints = () => {
    for (const frame of document.querySelectorAll(".table, .drawing, .wide")) {
      const wide = frame.scrollWidth > frame.clientWidth + 2;
      let hint = frame.nextElementSibling;
      if (!hint || !hint.matches(".hint")) {
        if (!wide) continue;
        hint = document.createElement("p");
        hint.className = "hint";
        hint.textContent = "Scroll sideways for more →";
        frame.after(hint);
      }
      hint.classList.toggle("shown", wide);
    }
  };
  let waiting = 0;
  const later = () => { clearTimeout(waiting); waiting = setTimeout(hints, 50); };
  addEventListener("resize", later);
  document.addEventListener("toggle", later, true);
  hints();
})();
