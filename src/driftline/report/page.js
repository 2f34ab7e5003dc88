"use strict";
// Draws every chart of the page from the data beside it, and serves its switches and copy buttons.
const CONFIG = { displayModeBar: false, responsive: true };
const data = (id) => JSON.parse(document.getElementById(id).textContent);

function draw(id, figure) {
  return Plotly.react(id, figure.data, figure.layout, CONFIG);
}

for (const chart of document.querySelectorAll(".chart[data-from]")) draw(chart.id, data(chart.dataset.from));

// A switch shows one of several sets of traces in one or more charts: {chart: [[restyled, relaid], ...]}.
for (const group of document.querySelectorAll(".switch")) {
  const choices = data(group.dataset.from);
  const buttons = [...group.querySelectorAll("button")];
  buttons.forEach((button, chosen) => button.addEventListener("click", () => {
    for (const other of buttons) other.setAttribute("aria-pressed", other === button);
    for (const [chart, views] of Object.entries(choices)) Plotly.update(chart, ...views[chosen]);
  }));
}

for (const button of document.querySelectorAll(".command button")) {
  button.addEventListener("click", async () => {
    const code = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch { // pages opened from disk may not be given the clipboard
      getSelection().selectAllChildren(code);
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
}

// Charts have the width of the window they were drawn in; paper is narrower.
const drawn = () => document.querySelectorAll(".chart.js-plotly-plot");
addEventListener("beforeprint", () => drawn().forEach((chart) => Plotly.relayout(chart, { width: 640 })));
addEventListener("afterprint", () => drawn().forEach((chart) => Plotly.relayout(chart, { width: null, autosize: true })));
