// Draws the charts of a page. Each has a table with the same values, for browsers without this script.
"use strict";
(() => {
  const HEIGHT = 200;
  const LABEL_PX = 130; // to the right of a wide chart, for the names of its lines
  const MIN_LABELLED_PX = 480;
  const charts = new Map();

  // A line differs from the others of its chart in color and in dashes, so one of the two is enough to tell them apart.
  const DASHES = [[], [10, 4], [2, 3], [10, 4, 2, 4], [5, 3], [1, 6]];
  const NUM_COLORS = DASHES.length;
  const KINDS = {
    line: (color, dash) => ({ stroke: color, width: 2, dash }),
    steps: (color, dash) => ({ stroke: color, width: 2, dash, paths: window.uPlot.paths.stepped({ align: 1 }) }),
    dashed: (color) => ({ stroke: color, width: 2, dash: [6, 4] }),
    limit: (color) => ({ stroke: color, width: 1.5, dash: [2, 4] }),
    band: (color) => ({ stroke: color, width: 1, dash: [2, 3], points: { show: false } }),
    dots: (color) => ({ stroke: color, paths: () => null, points: { show: true, size: 6, fill: color } }),
    rings: (color) => ({ stroke: color, paths: () => null, points: { show: true, size: 9 } }),
  };

  const token = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // The look of each series: the open cycle has the color of the line that it continues.
  function looks(series) {
    let lines = -1;
    return series.map((one) => {
      if (one.kind === "line" || one.kind === "steps") lines += 1;
      const at = one.kind === "rings" ? 1 : Math.max(0, lines) % NUM_COLORS;
      const color = token({ limit: "--text", band: "--quiet" }[one.kind] || `--chart-${at + 1}`);
      const isNamed = one.kind !== "dots" && one.kind !== "rings";
      return { label: one.label, isNamed, spanGaps: true, ...KINDS[one.kind](color, DASHES[at]) };
    });
  }

  // A time of a chart in UTC, as in its table: with the day if the chart is longer than one.
  function moment(seconds, length) {
    const text = new Date(seconds * 1000).toISOString();
    return length >= 86400 ? text.slice(5, 10) : length > 120 ? text.slice(11, 16) : text.slice(11, 19);
  }

  // The name of each line at its end; names that would overlap move apart.
  function nameLines(chart) {
    const { ctx, data, series, bbox } = chart;
    const scale = devicePixelRatio;
    const gap = 14 * scale;
    const ends = [];
    for (let at = 1; at < series.length; at += 1) {
      const value = data[at].at(-1);
      if (value !== null && series[at].show && series[at].isNamed) ends.push({ at, y: chart.valToPos(value, "y", true) });
    }
    ends.sort((one, other) => one.y - other.y);
    ends.forEach((one, at) => {
      if (at) one.y = Math.max(one.y, ends[at - 1].y + gap);
    });
    let bottom = bbox.top + bbox.height;
    for (const one of ends.reverse()) {
      one.y = Math.min(one.y, bottom);
      bottom = one.y - gap;
    }
    ctx.save();
    ctx.font = `${12 * scale}px system-ui, sans-serif`;
    ctx.textAlign = "left";
    ctx.textBaseline = "middle";
    for (const { at, y } of ends) {
      const { label } = series[at];
      ctx.fillStyle = series[at].stroke(chart, at);
      ctx.fillText(label.length > 18 ? `${label.slice(0, 17)}…` : label, bbox.left + bbox.width + 8 * scale, y);
    }
    ctx.restore();
  }

  function make(box, chart, data) {
    const axis = { stroke: token("--text"), grid: { stroke: "rgba(128,128,128,0.25)" } };
    const times = { ...axis, values: (_, at) => at.map((x) => moment(x, at.at(-1) - at[0])) };
    const cycles = { ...axis, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] };
    const series = looks(chart.series);
    const isLabelled = chart.series.length > 1 && box.clientWidth >= MIN_LABELLED_PX;
    return new window.uPlot(
      {
        width: Math.max(240, box.clientWidth),
        height: HEIGHT,
        padding: [null, isLabelled ? LABEL_PX : null, null, null],
        scales: { x: { time: Boolean(chart.time) } },
        legend: { live: false, markers: { width: 3, dash: (_, at) => (series[at - 1]?.dash?.length ? "dashed" : "solid") } },
        axes: [chart.time ? times : cycles, { ...axis, size: 70 }],
        series: [{ label: chart.time ? "time" : "cycle" }, ...series],
        hooks: isLabelled ? { draw: [nameLines] } : {},
      },
      data,
      box,
    );
  }

  function draw() {
    for (const box of document.querySelectorAll("[data-chart]")) {
      const known = charts.get(box.dataset.chart);
      const isShown = known && known.shown === box.dataset.series;
      if (isShown && known.root.parentNode === box) continue;
      const chart = JSON.parse(box.dataset.series);
      const data = [chart.x, ...chart.series.map((one) => one.values)];
      if (known && known.series.length === data.length) {
        if (known.root.parentNode !== box) box.replaceChildren(known.root);
        if (!isShown) known.setData(data);
        known.shown = box.dataset.series;
        continue;
      }
      box.replaceChildren();
      const made = make(box, chart, data);
      made.shown = box.dataset.series;
      charts.set(box.dataset.chart, made);
    }
  }

  // The texts of a change come first: its charts are drawn with the next picture of the screen.
  function drawSoon() {
    cancelAnimationFrame(drawSoon.frame);
    drawSoon.frame = requestAnimationFrame(draw);
  }

  // All charts again, for example in the colors of the other theme.
  function redraw() {
    charts.clear();
    draw();
  }

  // A value of the open cycle.
  function addPoint(box, [x, value]) {
    const chart = JSON.parse(box.dataset.series);
    let at = chart.x.indexOf(x);
    if (at < 0) {
      at = chart.x.push(x) - 1;
      for (const one of chart.series) one.values.push(null);
    }
    const running = chart.series.find((one) => one.kind === "dashed");
    if (running) running.values[at] = value;
    box.dataset.series = JSON.stringify(chart);
  }

  addEventListener("resize", () => {
    for (const made of charts.values()) {
      const box = made.root.parentNode;
      if (box) made.setSize({ width: Math.max(240, box.clientWidth), height: HEIGHT });
    }
  });

  window.pygridCharts = { addPoint, drawSoon, redraw };
})();
