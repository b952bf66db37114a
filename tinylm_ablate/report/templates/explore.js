"use strict";
// Exploring runs: filters, groups, parallel coordinates, scatter with its Pareto front, importance, curves and a table.
// All of it draws from columns of one array each, so that ten thousand runs are filtered within a frame or two.
(() => {
  const data = JSON.parse(document.getElementById("explore-data").textContent);
  const columns = data.columns, count = data.count, root = document.getElementById("explorer");
  const numeric = columns.filter((column) => column.kind === "number");
  const named = Object.fromEntries(columns.map((column) => [column.name, column]));
  const MOST_LINES = 1500, MOST_ROWS = 100, MOST_CURVES = 12;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const LIGHT = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7F7F7F"];
  const DARK = ["#4AA8E0", "#FF8A3D", "#2FC79A", "#E5A0C6", "#A5D8F6", "#F2BE55", "#A9A9A9"];
  let PALETTE = dark.matches ? DARK : LIGHT;
  for (const column of columns) {
    column.rank = column.kind === "number" ? null : column.words.map((_, place) => place);
    column.at = column.kind === "number"
      ? (row) => column.values[row] === null ? NaN : column.values[row]
      : (row) => column.codes[row] < 0 ? NaN : column.codes[row];
    column.text = column.kind === "number"
      ? (row) => column.values[row] === null ? "–" : column.name === "seed" ? String(column.values[row]) : column.digits ? column.values[row].toFixed(column.digits) : short(column.values[row])
      : (row) => column.codes[row] < 0 ? "–" : column.words[column.codes[row]];
    let low = Infinity, high = -Infinity;
    for (let row = 0; row < count; row++) {
      const value = column.at(row);
      if (value < low) low = value;
      if (value > high) high = value;
    }
    column.low = low; column.high = high;
  }
  function short(value) {
    const size = Math.abs(Number(value.toPrecision(4)));
    for (const [limit, unit] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
      if (size >= limit) return `${Number((value / limit).toPrecision(4))}${unit}`;
    }
    return String(Number(value.toPrecision(5)));
  }
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (key === "class") element.className = value;
      else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
      else if (value !== false) element.setAttribute(key, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null));
    return element;
  };
  const choose = (name, label, from, chosen, changed, none = null) => {
    const select = make("select", {"aria-label": label, name, onchange: changed});
    if (none !== null) select.append(make("option", {value: ""}, none));
    for (const column of from) select.append(make("option", {value: column.name, selected: column.name === chosen}, column.title));
    return [make("label", {}, `${label} `, select), select];
  };
  const first = (names, fallback) => names.find((name) => named[name]) ?? fallback?.name ?? "";
  const start = first(data.measures, numeric[0]);
  const state = {filters: [], shown: null, sort: start, up: (data.better[start] ?? -1) < 0, picked: new Set(), axes: new Set(data.settings.slice(0, 7))};
  const [measureLabel, measure] = choose("measure", "Measure", numeric, start, () => update());
  const [colorLabel, color] = choose("color", "Color by", columns, "", () => update(), "the measure");
  const [groupLabel, group] = choose("group", "Group by", columns, "", () => update(), "nothing");
  const [xLabel, x] = choose("x", "Across", numeric, first(data.costs, numeric[0]), () => drawScatter());
  const [yLabel, y] = choose("y", "Up", numeric, start, () => drawScatter());
  const front = make("input", {type: "checkbox", name: "front", checked: true, onchange: () => drawScatter()});
  const [keyLabel, key] = choose("key", "Filter", columns, "", null);
  const low = make("input", {name: "low", size: 10, placeholder: "from, or words", "aria-label": "From, or words"});
  const high = make("input", {name: "high", size: 8, placeholder: "to", "aria-label": "To"});
  const chips = make("div", {class: "bar chips"}), status = make("p", {class: "status", role: "status"});
  const parallel = make("canvas", {role: "img", "aria-label": "Parallel coordinates of the settings and the measure", height: 300});
  const scatter = make("canvas", {role: "img", "aria-label": "Scatter of two columns", height: 300});
  const curves = make("canvas", {role: "img", "aria-label": "Loss curves of the chosen runs", height: 300});
  const groups = make("div"), table = make("div"), curveNote = make("p", {class: "status"}), scatterNote = make("p", {class: "status"});
  const form = make("form", {onsubmit: (event) => {
    event.preventDefault();
    const column = named[key.value], from = low.value.trim(), to = high.value.trim();
    if (!column || (!from && !to)) return;
    if (column.kind === "number" && (from === "" || !Number.isNaN(Number(from)))) {
      addFilter({column, low: from === "" ? -Infinity : Number(from), high: to === "" ? Infinity : Number(to)});
    } else {
      addFilter({column, words: from.toLowerCase()});
    }
    low.value = high.value = "";
  }}, keyLabel, low, high, make("button", {type: "submit"}, "Add filter"));
  const importance = data.importance.length ? make("div", {}, make("h3", {}, `Importance of settings for ${data.importanceMeasure}`), simple(
    ["setting", "share of the variance", "90 % interval"],
    data.importance.map((entry) => [entry.setting, (100 * entry.share).toFixed(1) + " %", `${(100 * entry.low).toFixed(1)} to ${(100 * entry.high).toFixed(1)} %`]),
  )) : null;
  root.replaceChildren(
    make("div", {class: "bar"}, measureLabel, colorLabel, groupLabel), form, chips, status,
    make("div", {class: "wide", tabindex: 0, role: "region", "aria-label": "Parallel coordinates"}, parallel),
    make("p", {class: "status"}, "Drag along an axis to filter by it; a click on an axis clears its filter."),
    make("details", {}, make("summary", {}, "Choose the axes"), make("div", {class: "bar"}, ...data.settings.map((name) => make("label", {},
      make("input", {type: "checkbox", name: "axis", value: name, checked: state.axes.has(name), onchange: (event) => {
        event.target.checked ? state.axes.add(name) : state.axes.delete(name); drawParallel();
      }}), ` ${named[name].title}`)))),
    make("div", {class: "panels"},
      make("div", {}, make("h3", {}, "Two columns"), make("div", {class: "bar"}, xLabel, yLabel, make("label", {}, front, " Pareto front")), scatter, scatterNote),
      make("div", {}, make("h3", {}, "Curves of chosen runs"), curves, curveNote), importance, groups),
    make("h3", {}, "Runs"), table,
  );
  function simple(head, rows) {
    const body = make("tbody");
    for (const row of rows) body.append(make("tr", {}, ...row.map((cell, place) => make(place ? "td" : "th", place ? {class: "number"} : {scope: "row", class: "words"}, cell))));
    return make("div", {class: "table", tabindex: 0, role: "region", "aria-label": head[0]}, make("table", {}, make("thead", {}, make("tr", {}, ...head.map((name, place) => make("th", {scope: "col", class: place ? "number" : ""}, name)))), body));
  }
  function addFilter(filter) {
    state.filters = state.filters.filter((other) => other.column !== filter.column || filter.words !== undefined);
    state.filters.push(filter);
    update();
  }
  function kept() {
    const rows = [];
    const tests = state.filters.map((filter) => {
      if (filter.words === undefined) return (row) => { const value = filter.column.at(row); return value >= filter.low && value <= filter.high; };
      const good = filter.column.kind === "word" ? filter.column.words.map((word) => word.toLowerCase().includes(filter.words)) : null;
      return (row) => good ? filter.column.codes[row] >= 0 && good[filter.column.codes[row]] : filter.column.text(row).includes(filter.words);
    });
    next: for (let row = 0; row < count; row++) {
      for (const test of tests) if (!test(row)) continue next;
      rows.push(row);
    }
    return rows;
  }
  function update() {
    const started = performance.now();
    state.shown = kept();
    for (const canvas of [parallel, scatter, curves]) canvas.room = canvas.clientWidth;  // later, each would lay out the page again
    const size = state.shown.length === count ? `${count.toLocaleString("en")} runs` : `${state.shown.length.toLocaleString("en")} of ${count.toLocaleString("en")} runs`;
    status.textContent = size + (data.leftOut ? `; ${data.leftOut}` : "");
    chips.replaceChildren(...state.filters.map((filter) => make("button", {type: "button", onclick: () => {
      state.filters = state.filters.filter((other) => other !== filter);
      update();
    }}, `${filter.column.title}: ${describe(filter)} ✕`)));
    drawParallel(); drawScatter(); drawGroups(); drawTable(); drawCurves();
    root.dataset.milliseconds = (performance.now() - started).toFixed(1);
    document.dispatchEvent(new Event("toggle"));
  }
  function describe(filter) {
    if (filter.words !== undefined) return filter.words;
    const word = (value) => filter.column.kind === "word" ? filter.column.words[Math.round(value)] : short(value);
    if (filter.column.kind === "word") {
      const inside = filter.column.words.filter((_, place) => place >= filter.low && place <= filter.high);
      return inside.slice(0, 3).join(", ") + (inside.length > 3 ? ", …" : "");
    }
    return `${filter.low === -Infinity ? "" : word(filter.low)} … ${filter.high === Infinity ? "" : word(filter.high)}`;
  }
  let styles = {};  // read once per scheme: each reading makes the browser compute the styles of the whole page
  const style = (name) => styles[name] ??= getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  function canvasOf(element) {
    const scale = window.devicePixelRatio || 1, width = element.room || 600, height = 300;
    if (element.width !== Math.round(width * scale)) element.width = Math.round(width * scale);
    element.height = Math.round(height * scale);
    element.style.height = `${height}px`;
    const pen = element.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.font = "12px system-ui, Arial, sans-serif";
    return {pen, width, height};
  }
  // Colors: up to seven words of a column, or five steps from the lowest to the highest number.
  const steps = () => [dark.matches ? "#7d95d8" : "#3b528b", "#21918c", "#35a870", "#90d743", "#f1c232"];
  function colorOf() {
    const column = named[color.value || measure.value];
    if (!column) return {bucket: () => 0, colors: [PALETTE[0]]};
    if (column.kind === "word") return {bucket: (row) => Math.max(0, column.codes[row]) % PALETTE.length, colors: PALETTE};
    const span = column.high - column.low || 1;
    return {bucket: (row) => Math.min(4, Math.floor(5 * (column.at(row) - column.low) / span)) || 0, colors: steps()};
  }
  let axes = [];
  function drawParallel() {
    const {pen, width, height} = canvasOf(parallel);
    const names = [...data.settings.filter((name) => state.axes.has(name)), measure.value].filter((name, place, all) => named[name] && all.indexOf(name) === place);
    const top = 34, bottom = height - 24, left = 16, step = (width - left - 90) / Math.max(1, names.length - 1);
    axes = names.map((name, place) => ({column: named[name], x: left + place * step, top, bottom}));
    const height_ = (axis, row) => {
      const value = axis.column.at(row);
      return Number.isNaN(value) ? bottom + 10 : bottom - (bottom - top) * (value - axis.column.low) / ((axis.column.high - axis.column.low) || 1);
    };
    const rows = state.shown.length > MOST_LINES ? state.shown.filter((_, place) => place % Math.ceil(state.shown.length / MOST_LINES) === 0) : state.shown;
    const {bucket, colors} = colorOf(), paths = colors.map(() => new Path2D());
    for (const row of rows) {
      const path = paths[bucket(row)];
      axes.forEach((axis, place) => place ? path.lineTo(axis.x, height_(axis, row)) : path.moveTo(axis.x, height_(axis, row)));
    }
    pen.globalAlpha = rows.length > 500 ? 0.25 : 0.6;
    paths.forEach((path, place) => { pen.strokeStyle = colors[place]; pen.stroke(path); });
    pen.globalAlpha = 1;
    for (const axis of axes) {
      pen.strokeStyle = style("--quiet"); pen.fillStyle = style("--text");
      pen.beginPath(); pen.moveTo(axis.x, top); pen.lineTo(axis.x, bottom); pen.stroke();
      pen.fillText(clip(pen, axis.column.title, step - 8), axis.x - 4, 14);
      const ends = axis.column.kind === "number" ? [[axis.column.low, short(axis.column.low)], [axis.column.high, short(axis.column.high)]]
        : axis.column.words.map((word, place) => [place, word]).filter((_, place, all) => all.length < 9 || place % Math.ceil(all.length / 8) === 0);
      for (const [value, word] of ends) {
        const place = bottom - (bottom - top) * (value - axis.column.low) / ((axis.column.high - axis.column.low) || 1);
        pen.strokeStyle = style("--ground"); pen.lineWidth = 4; pen.lineJoin = "round";  // a label stands out from the lines under it
        const at = [clip(pen, word, step - 12), axis.x + 5, place + (value === axis.column.low ? 13 : 4)];
        pen.strokeText(...at); pen.fillText(...at);
        pen.lineWidth = 1;
      }
      const own = state.filters.find((filter) => filter.column === axis.column && filter.words === undefined);
      if (own) {
        const place = (value) => bottom - (bottom - top) * (Math.min(Math.max(value, axis.column.low), axis.column.high) - axis.column.low) / ((axis.column.high - axis.column.low) || 1);
        pen.fillStyle = style("--accent"); pen.globalAlpha = 0.35;
        pen.fillRect(axis.x - 6, place(own.high), 12, Math.max(2, place(own.low) - place(own.high)));
        pen.globalAlpha = 1;
      }
    }
    if (rows.length < state.shown.length) {
      pen.fillStyle = style("--quiet");
      pen.fillText(`${rows.length.toLocaleString("en")} of ${state.shown.length.toLocaleString("en")} lines drawn`, left, height - 2);
    }
  }
  function clip(pen, text, width) {
    if (pen.measureText(text).width <= width) return text;
    let cut = text;
    while (cut.length > 1 && pen.measureText(`${cut}…`).width > width) cut = cut.slice(0, -1);
    return `${cut}…`;
  }
  let dragged = null;
  const inside = (event) => { const box = parallel.getBoundingClientRect(); return {x: event.clientX - box.left, y: event.clientY - box.top}; };
  parallel.addEventListener("pointerdown", (event) => {
    const at = inside(event), axis = axes.find((own) => Math.abs(own.x - at.x) < 14);
    if (axis) { dragged = {axis, from: at.y}; parallel.setPointerCapture(event.pointerId); }
  });
  parallel.addEventListener("pointerup", (event) => {
    if (!dragged) return;
    const {axis, from} = dragged, to = inside(event).y, value = (place) => axis.column.low + (axis.bottom - place) / (axis.bottom - axis.top) * (axis.column.high - axis.column.low);
    dragged = null;
    if (Math.abs(to - from) < 4) { state.filters = state.filters.filter((filter) => filter.column !== axis.column); update(); return; }
    addFilter({column: axis.column, low: value(Math.max(from, to)), high: value(Math.min(from, to))});
  });
  function frame(pen, width, height, across, up) {
    const left = 62, right = width - 12, top = 10, bottom = height - 36;
    pen.strokeStyle = style("--line"); pen.fillStyle = style("--text");
    for (let tick = 0; tick <= 4; tick++) {
      const px = left + (right - left) * tick / 4, py = bottom - (bottom - top) * tick / 4;
      pen.beginPath(); pen.moveTo(px, top); pen.lineTo(px, bottom); pen.moveTo(left, py); pen.lineTo(right, py); pen.stroke();
      const value = across.low + (across.high - across.low) * tick / 4;
      pen.textAlign = tick === 4 ? "right" : "center"; pen.fillText(short(across.log ? 10 ** value : value), px, bottom + 14);
      pen.textAlign = "right"; pen.fillText(short(up.low + (up.high - up.low) * tick / 4), left - 5, py + 4);
    }
    pen.textAlign = "left";
    pen.fillText(clip(pen, across.title, right - left), left, height - 4);
    return {x: (value) => left + (right - left) * (value - across.low) / ((across.high - across.low) || 1), y: (value) => bottom - (bottom - top) * (value - up.low) / ((up.high - up.low) || 1)};
  }
  function extent(rows, at) {
    let low = Infinity, high = -Infinity;
    for (const row of rows) { const value = at(row); if (value < low) low = value; if (value > high) high = value; }
    return low > high ? {low: 0, high: 1} : {low, high};
  }
  function drawScatter() {
    const {pen, width, height} = canvasOf(scatter), across = named[x.value], up = named[y.value];
    if (!across || !up) return;
    const rows = state.shown.filter((row) => !Number.isNaN(across.at(row)) && !Number.isNaN(up.at(row)));
    const range = extent(rows, across.at), log = range.low > 0 && range.high / range.low > 20;
    const at = log ? (row) => Math.log10(across.at(row)) : across.at;
    const place = frame(pen, width, height, {...extent(rows, at), title: across.title + (log ? " (log)" : ""), log}, {...extent(rows, up.at)});
    const {bucket, colors} = colorOf(), points = colors.map(() => []);
    for (const row of rows) points[bucket(row)].push(row);
    pen.globalAlpha = rows.length > 2000 ? 0.5 : 0.85;
    points.forEach((own, number) => {  // rectangles one by one at whole pixels are faster than one path of all
      pen.fillStyle = colors[number];
      for (const row of own) pen.fillRect(Math.round(place.x(at(row))) - 2, Math.round(place.y(up.at(row))) - 2, 4, 4);
    });
    pen.globalAlpha = 1;
    scatterNote.textContent = `Up: ${up.title}.`;
    if (!front.checked) return;
    const sign = (column) => data.better[column.name] ?? -1;
    const ordered = [...rows].sort((a, b) => -sign(across) * (across.at(a) - across.at(b)) || -sign(up) * (up.at(a) - up.at(b)));
    let best = Infinity;
    const chosen = ordered.filter((row) => { const value = -sign(up) * up.at(row); if (value < best) { best = value; return true; } return false; });
    pen.strokeStyle = PALETTE[1]; pen.lineWidth = 2; pen.beginPath();
    chosen.forEach((row, number) => {  // a staircase: between two runs of the front the better one is not yet paid for
      const px = place.x(at(row)), py = place.y(up.at(row));
      if (number) { pen.lineTo(px, place.y(up.at(chosen[number - 1]))); pen.lineTo(px, py); } else pen.moveTo(px, py);
    });
    pen.stroke(); pen.lineWidth = 1;
    scatterNote.textContent += ` ${chosen.length} on the front of ${sign(up) < 0 ? "less" : "more"} ${up.title} for ${sign(across) < 0 ? "less" : "more"} ${across.title}.`;
  }
  function drawGroups() {
    const column = named[group.value], value = named[measure.value];
    if (!column || !value) { groups.replaceChildren(); return; }
    const found = new Map();
    for (const row of state.shown) {
      const own = value.at(row);
      if (Number.isNaN(own)) continue;
      const word = column.text(row), entry = found.get(word) ?? {n: 0, sum: 0, squares: 0};
      entry.n++; entry.sum += own; entry.squares += own * own;
      found.set(word, entry);
    }
    const rows = [...found].map(([word, entry]) => ({word, n: entry.n, mean: entry.sum / entry.n, spread: Math.sqrt(Math.max(0, (entry.squares - entry.sum ** 2 / entry.n) / Math.max(1, entry.n - 1)))}));
    rows.sort((a, b) => a.mean - b.mean);
    groups.replaceChildren(make("h3", {}, `${value.title} by ${column.title}`), simple([column.title, "runs", "mean", "sd"], rows.slice(0, 100).map((row) => [row.word, String(row.n), short(row.mean), row.n > 1 ? short(row.spread) : "–"])));
  }
  function drawTable() {
    const names = [...new Set([measure.value, ...data.table])].filter((name) => named[name]), column = named[state.sort] ?? named[measure.value];
    const order = [...state.shown];
    if (column) {
      const keys = order.map((row) => column.at(row)), places = order.map((_, place) => place);
      places.sort((a, b) => Number.isNaN(keys[a]) || Number.isNaN(keys[b]) ? Number.isNaN(keys[a]) - Number.isNaN(keys[b]) : state.up ? keys[a] - keys[b] : keys[b] - keys[a]);
      places.forEach((place, number) => { places[number] = order[place]; });
      order.splice(0, order.length, ...places.slice(0, MOST_ROWS));
    }
    const head = make("tr", {}, make("th", {scope: "col"}, "curve"), ...names.map((name) => make("th", {scope: "col", class: named[name].kind, "aria-sort": name === column?.name ? (state.up ? "ascending" : "descending") : false},
      make("button", {type: "button", "data-sort": name}, named[name].title))));
    head.addEventListener("click", (event) => {
      const name = event.target.dataset?.sort;
      if (!name) return;
      event.stopPropagation();
      state.up = state.sort === name ? !state.up : true; state.sort = name; drawTable();
    });
    const body = make("tbody");
    for (const row of order.slice(0, MOST_ROWS)) {
      const box = make("input", {type: "checkbox", checked: state.picked.has(row), "aria-label": `Curve of ${named.identity?.text(row) ?? row}`, onchange: () => {
        state.picked.has(row) ? state.picked.delete(row) : state.picked.add(row); drawCurves();
      }});
      body.append(make("tr", {}, make("td", {}, box), ...names.map((name) => make("td", {class: named[name].kind === "number" ? "number" : "words"}, named[name].text(row)))));
    }
    const more = state.shown.length > MOST_ROWS ? make("p", {class: "status"}, `The first ${MOST_ROWS} of ${state.shown.length.toLocaleString("en")}.`) : null;
    table.replaceChildren(make("div", {class: "table", tabindex: 0, role: "region", "aria-label": "Runs"}, make("table", {}, make("thead", {}, head), body)));
    if (more) table.append(more);
  }
  let decoded = null;
  function curveOf(row) {
    decoded ??= {starts: data.curves.starts, values: decode(data.curves.base64)};
    const from = decoded.starts[row], to = decoded.starts[row + 1], points = [];
    for (let place = from; place < to; place++) points.push([decoded.values[2 * place], decoded.values[2 * place + 1]]);
    return points;
  }
  function decode(text) {
    const bytes = Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
    return new Float32Array(bytes.buffer);
  }
  function drawCurves() {
    const {pen, width, height} = canvasOf(curves), rows = [...state.picked].slice(0, MOST_CURVES);
    if (!data.curves || !rows.length) { curveNote.textContent = data.curves ? "Choose runs in the table below." : "No curves are kept for these runs."; return; }
    const drawn = rows.map((row) => ({row, points: curveOf(row)})).filter((entry) => entry.points.length);
    const points = drawn.flatMap((entry) => entry.points), tail = drawn.flatMap((entry) => entry.points.slice(Math.floor(entry.points.length / 8)));
    const across = extent(points, (point) => point[0]), up = {low: extent(points, (point) => point[1]).low, high: extent(tail, (point) => point[1]).high};
    const place = frame(pen, width, height, {...across, title: "tokens"}, up);
    drawn.forEach((entry, number) => {
      pen.strokeStyle = PALETTE[number % PALETTE.length]; pen.setLineDash(number < PALETTE.length ? [] : [5, 3]); pen.beginPath();
      entry.points.forEach((point, place_) => { const px = place.x(point[0]), py = Math.max(4, place.y(point[1])); place_ ? pen.lineTo(px, py) : pen.moveTo(px, py); });
      pen.stroke();
    });
    pen.setLineDash([]);
    curveNote.replaceChildren("Loss in nats per token. ", ...drawn.flatMap((entry, number) => {
      const word = make("span", {}, `— ${named.arm ? named.arm.text(entry.row) : ""} ${named.identity?.text(entry.row) ?? ""}`);
      word.style.color = PALETTE[number % PALETTE.length];
      return [word, "; "];
    }));
  }
  let waiting = 0;
  addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(update, 100); });
  dark.addEventListener("change", () => { PALETTE = dark.matches ? DARK : LIGHT; styles = {}; update(); });
  if (data.curves && named[start]) {  // the curves of the three best runs, until others are chosen
    const value = (row) => { const own = named[start].at(row); return Number.isNaN(own) ? Infinity : -(data.better[start] ?? -1) * own; };
    Array.from({length: count}, (_, row) => row).sort((a, b) => value(a) - value(b)).slice(0, 3).forEach((row) => state.picked.add(row));
  }
  update();
})();
