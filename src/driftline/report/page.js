"use strict";
// Draws every chart of the page from the data beside it, and serves its switches and copy buttons.
const CONFIG = { displayModeBar: false, responsive: true };
const data = (id) => JSON.parse(document.getElementById(id).textContent);

// The cells of a map travel as lines of figures, nothing between two commas where there is none.
const cells = (lines) => lines.map((line) => line.split(",").map((cell) => cell === "" ? null : Number(cell)));
const unpacked = (z) => typeof z[0] === "string" ? cells(z) : z;

function draw(id, figure) {
  for (const trace of figure.data) if (trace.z) trace.z = unpacked(trace.z);
  return Plotly.react(id, figure.data, figure.layout, CONFIG);
}

for (const chart of document.querySelectorAll(".chart[data-from]")) draw(chart.id, data(chart.dataset.from));

// A switch shows one of several sets of traces in one or more charts: {chart: [[restyled, relaid], ...]}.
for (const group of document.querySelectorAll(".switch")) {
  const choices = data(group.dataset.from);
  for (const [{ z }] of Object.values(choices).flat()) z[0] = unpacked(z[0]);
  const buttons = [...group.querySelectorAll("button")];
  buttons.forEach((button, chosen) => button.addEventListener("click", () => {
    for (const other of buttons) other.setAttribute("aria-pressed", other === button);
    for (const [chart, views] of Object.entries(choices)) Plotly.update(chart, ...views[chosen]);
  }));
}

function fillTable(id, head, rows) {
  const table = document.createElement("table");
  for (const [place, words] of [head, ...rows].entries()) {
    const row = table.insertRow();
    for (const [column, text] of words.entries()) {
      const cell = row.appendChild(document.createElement(place ? "td" : "th"));
      cell.textContent = text;
      if (place && column) cell.className = "n";
    }
  }
  document.getElementById(id).replaceChildren(table);
}

// Numbers that travel as base64 of little-endian integers.
const bytes = (packed) => Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0)).buffer;

// A weight's change: [the largest magnitude, 16-bit shares of it].
const change = ([largest, packed]) => [...new Int16Array(bytes(packed))].map((share) => Number((largest * share / 32767).toPrecision(3)));

// A symmetric matrix from hundredths of its upper triangle, row by row; -128 where there is no number.
function square(packed, size) {
  const upper = [...new Int8Array(bytes(packed))].map((hundredths) => hundredths === -128 ? null : hundredths / 100);
  const places = [...Array(size).keys()];
  const at = (row, column) => upper[row * size - row * (row - 1) / 2 + column - row];
  return places.map((row) => places.map((column) => at(Math.min(row, column), Math.max(row, column))));
}

// The section of one tensor: chosen by a click in the map, or in the list.
function showTensor(place) {
  const { tensors, clock, intervals, colours, charts, ...all } = data("tensors");
  const tensor = tensors[place];
  if (!tensor) return;
  document.getElementById("tensor-choice").value = place;
  document.getElementById("tensor-about").textContent = `${tensor.figures[0]} parameters, ${tensor.figures[1]} of them measured`;
  const share = (mille) => mille / 1000;
  const samples = tensor.samples.map(change);
  const centres = tensor.r2.map((_, i) => (i + 0.5) / tensor.r2.length);
  const traces = {
    r2: [
      { type: "bar", x: centres, y: tensor.r2.map(share), name: "this tensor", marker: { color: colours[0] } },
      { type: "scatter", mode: "lines", x: centres, y: all.null.map(share), name: "driftless walk", line: { color: colours[1], shape: "hvh" } },
    ],
    samples: samples.flatMap((y, i) => [
      { type: "scatter", mode: "markers", x: clock, y, marker: { color: colours[i], symbol: i } },
      { type: "scatter", mode: "lines", x: [clock[0], clock.at(-1)], y: tensor.lines[i], line: { color: colours[i] }, hoverinfo: "skip" },
    ]),
    cosines: [{
      type: "heatmap", coloraxis: "coloraxis", x: intervals, y: intervals, hovertemplate: "%{y} and %{x}: %{z:.2f}<extra></extra>",
      z: square(tensor.cosines, intervals.length),
    }],
  };
  fillTable("tensor-numbers", ["", ...clock.map((at) => `${at}`)], samples.map((y, i) => [`weight ${i + 1}`, ...y]));
  fillTable("tensor-shares", ["bin of R², from", ...centres.map((c) => (c - centres[0]).toFixed(2))],
    [["this tensor, per mille", ...tensor.r2], ["driftless walk", ...all.null]]);
  for (const [name, drawing] of Object.entries(traces)) draw(`tensor-${name}`, { data: drawing, layout: charts[name].layout });
}

if (document.getElementById("tensors")) {
  const choice = document.getElementById("tensor-choice");
  const { tensors, head } = data("tensors");
  choice.append(...tensors.map(({ name }, place) => new Option(name, place)));
  fillTable("tensor-table", head, tensors.map(({ name, figures }) => [name, ...figures]));
  choice.addEventListener("change", () => showTensor(Number(choice.value)));
  for (const map of ["heat-map", "outside"].map((id) => document.getElementById(id)).filter(Boolean)) {
    map.on("plotly_click", ({ points: [{ customdata }] }) => {
      showTensor(customdata);
      document.getElementById("tensor").scrollIntoView({ block: "nearest" });
    });
  }
  showTensor(0);
}

// A token of a response says its log-prob at the checkpoints, hundredths of a nat, when it is pointed at.
document.addEventListener("mouseover", ({ target }) => {
  if (target.matches("mark[data-at]:not([title])")) {
    const steps = data("token-steps");
    target.title = [...new Int16Array(bytes(target.dataset.at))].map((at, i) => `${steps[i]}: ${(at / 100).toFixed(2)}`).join(", ");
  }
});

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
