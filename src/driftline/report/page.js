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

function fillTable(id, head, rows) {
  const table = document.createElement("table");
  for (const [place, cells] of [head, ...rows].entries()) {
    const row = table.insertRow();
    for (const cell of cells) row.appendChild(document.createElement(place ? "td" : "th")).textContent = cell;
  }
  document.getElementById(id).replaceChildren(table);
}

// The section of one tensor: chosen by a click in the map, or in the list.
function showTensor(place) {
  const { tensors, clock, intervals, colours, charts, ...all } = data("tensors");
  const tensor = tensors[place];
  if (!tensor) return;
  document.getElementById("tensor-choice").value = place;
  document.getElementById("tensor-about").textContent = tensor.about;
  const share = (mille) => mille / 1000;
  const centres = tensor.r2.map((_, i) => (i + 0.5) / tensor.r2.length);
  const traces = {
    r2: [
      { type: "bar", x: centres, y: tensor.r2.map(share), name: "this tensor", marker: { color: colours[0] } },
      { type: "scatter", mode: "lines", x: centres, y: all.null.map(share), name: "driftless walk", line: { color: colours[1], shape: "hvh" } },
    ],
    samples: tensor.samples.flatMap((y, i) => [
      { type: "scatter", mode: "markers", x: clock, y, marker: { color: colours[i], symbol: i } },
      { type: "scatter", mode: "lines", x: [clock[0], clock.at(-1)], y: tensor.lines[i], line: { color: colours[i] }, hoverinfo: "skip" },
    ]),
    cosines: [{
      type: "heatmap", coloraxis: "coloraxis", x: intervals, y: intervals, hovertemplate: "%{y} and %{x}: %{z:.2f}<extra></extra>",
      z: tensor.cosines.map((row) => row.map((hundredths) => hundredths === null ? null : hundredths / 100)),
    }],
  };
  fillTable("tensor-numbers", ["", ...clock.map((at) => `${at}`)], tensor.samples.map((y, i) => [`weight ${i + 1}`, ...y]));
  fillTable("tensor-shares", ["bin of R², from", ...centres.map((c) => (c - centres[0]).toFixed(2))],
    [["this tensor, per mille", ...tensor.r2], ["driftless walk", ...all.null]]);
  for (const [name, drawing] of Object.entries(traces)) draw(`tensor-${name}`, { data: drawing, layout: charts[name].layout });
}

if (document.getElementById("tensors")) {
  const choice = document.getElementById("tensor-choice");
  choice.addEventListener("change", () => showTensor(Number(choice.value)));
  for (const map of ["heat-map", "outside"].map((id) => document.getElementById(id)).filter(Boolean)) {
    map.on("plotly_click", ({ points: [{ customdata }] }) => {
      showTensor(customdata);
      document.getElementById("tensor").scrollIntoView({ block: "nearest" });
    });
  }
  showTensor(0);
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
