"use strict";
(() => {
// What the server says, as docs/operations.md lists it; nothing of it ever becomes markup.
const PERIOD = 250, PX = 18, LAG = 450, KEEP = 130000, TOLD = 40, NODE = [156, 46], GAP = [56, 14];
const $ = (id) => document.getElementById(id);
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const dark = matchMedia("(prefers-color-scheme: dark)");
const token = $("reports").dataset.token;
let face = null, rows = [], told = [], reports = [], graph = { nodes: [], edges: [] };
let last = 0, offset = 0, beatAge = null, colours = {}, lost = 0;

function el(tag, name, text) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text !== undefined) node.textContent = text;
  return node;
}
function svg(tag, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}
function put(node, text) { if (node.textContent !== text) node.textContent = text; }
function span(ms) {
  if (ms < 10000) return (ms / 1000).toFixed(1) + " s";
  if (ms < 120000) return Math.floor(ms / 1000) + " s";
  if (ms < 7200000) return Math.floor(ms / 60000) + " min";
  if (ms < 172800000) return Math.floor(ms / 3600000) + " h";
  return Math.floor(ms / 86400000) + " d";
}
function clock(ms) {
  const at = new Date(ms), today = at.toDateString() === new Date().toDateString();
  const time = at.toTimeString().slice(0, 8);
  return today ? time : `${at.getMonth() + 1}/${at.getDate()} ${time}`;
}
const MANNER = { up: "ok", starting: "ok", late: "bad", stopping: "bad", failed: "bad",
  backoff: "bad", held: "held" };
const manner = (state) => MANNER[state] || "off";
// The codes of docs/segment.md: no process, or none that beats; silent; held on purpose.
const drawn = (code) => (code === 1 || code === 2 ? "ok" : code === 3 || code === 4 ? "bad"
  : code === 6 ? "held" : "off");

// ---- what is known ----

function take(message) {
  offset = message.at - performance.now();
  last = message.at;
  beatAge = message.watchdog_age;
  if (message.face) setFace(message.face);
  if (message.traces) message.traces.forEach((steps, index) => {
    const row = rows[index];
    if (!row) return;
    row.steps = [];
    const first = message.times.length - steps.length;
    steps.forEach((step, i) => push(row, message.times[first + i], step));
  });
  else message.hearts.forEach((step, index) => rows[index] && push(rows[index], message.at, step));
  if (message.traces) told = [];
  if (message.told) setTold(message.told);
  if (message.graph) { graph = message.graph; drawGraph(); }
  if (message.reports) { reports = message.reports; setReports(); }
  for (const row of rows) setNumbers(row);
  setAbout();
}

function push(row, at, [beats, age, code]) {
  // A look that came late saw the beats of several: they were not one big one.
  const before = row.steps.length ? row.steps[row.steps.length - 1].at : at;
  const late = Math.min(Math.round((at - before) / PERIOD), 40);
  if (late > 1 && beats >= late) {
    beats /= late;
    for (let i = 1; i < late; i++) {
      const then = before + (at - before) * i / late;
      row.steps.push({ at: then, beats, beat: then, code });
    }
  }
  row.steps.push({ at, beats, beat: age === null ? at : Math.min(at, at - age), code });
  row.age = age;
  while (row.steps.length && row.steps[0].at < at - KEEP) row.steps.shift();
}

function setFace(next) {
  const before = new Map(rows.map((row) => [row.key, row]));
  face = next;
  rows = next.rows.map((data, index) => {
    const twin = next.rows.slice(0, index).filter((other) => other.service === data.service
      && other.heart === data.heart).length;
    const key = JSON.stringify([data.service, data.heart, twin]);
    const row = before.get(key) || make(key);
    row.data = data;
    return row;
  });
  const body = $("hearts").tBodies[0];
  if (body.children.length !== rows.length
    || rows.some((row, index) => body.children[index] !== row.node)) {
    body.replaceChildren(...rows.map((row) => row.node));
  }
  for (const row of rows) dress(row);
  document.body.className = face.well ? "well" : "unwell";
  document.title = `${face.name} \u00b7 ${face.summary}`;
  put($("name"), face.name);
  put($("summary"), face.summary);
  $("advice").hidden = !face.advice && !lost;
  if (!lost) put($("advice"), face.advice || "");
  drawGraph();
}

function make(key) {
  const node = el("tr"), head = el("th"), trace = el("td", "trace");
  head.scope = "row";
  const name = el("span", "name"), sub = el("span", "sub"), state = el("b"), who = el("span");
  sub.append(state, who);
  const doing = el("span", "sub");
  head.append(name, " ", sub, " ", doing);
  const canvas = el("canvas");
  canvas.setAttribute("role", "img");
  trace.append(canvas);
  const beat = el("td", "num beat"), age = el("span", "big"), rate = el("span", "sub");
  beat.append(age, " ", rate);
  const again = el("td", "num again"), restarts = el("span", "big"), cause = el("span", "sub");
  const link = el(token ? "a" : "span", "sub");
  again.append(restarts, " ", cause, " ", link);
  node.append(head, trace, beat, again);
  const row = { key, node, name, state, who, doing, canvas, age_: age, rate, restarts, cause, link,
    steps: [], age: null, seen: true };
  canvas.row = row;
  sizes.observe(canvas);
  sights.observe(canvas);
  return row;
}

function dress(row) {
  const data = row.data;
  const still = !data.beats && !row.steps.some((step) => step.beats > 0);
  row.node.className = `${data.heart === null ? "own" : "further"} ${manner(data.state)}`
    + (still ? " still" : "");
  put(row.name, data.heart === null ? data.service : data.heart);
  put(row.state, data.state);
  put(row.who, data.heart === null && data.pid ? ` \u00b7 pid ${data.pid} \u00b7 gen ${data.generation}` : "");
  put(row.doing, data.doing || "");
  row.doing.hidden = !data.doing;
  put(row.restarts, data.heart === null ? String(data.restarts) : "");
  put(row.cause, data.heart !== null ? "" : (data.restarts === 1 ? "restart" : "restarts")
    + (data.cause ? `, last ${data.cause}` : ""));
  const report = reports.filter((one) => one.service === data.service).pop();
  row.link.hidden = !report || data.heart !== null;
  if (report) {
    put(row.link, `report ${report.number}`);
    if (token) row.link.href = `/reports/${report.number}?token=${token}`;
  }
  row.canvas.setAttribute("aria-label", `beats of ${row.name.textContent}, ${data.state}`);
}

function setNumbers(row) {
  const data = row.data, beats = data.beats && row.age !== null;
  const age = beats ? row.age + Math.max(0, now() - last) : null;
  put(row.age_, beats ? span(age) : "\u2013");
  const steps = row.steps.slice(-21);
  let rate = data.source;
  if (beats && steps.length > 4) {
    const sum = steps.slice(1).reduce((sum, step) => sum + step.beats, 0);
    const each = sum * 1000 / (steps[steps.length - 1].at - steps[0].at);
    rate = `${each < 10 ? each.toFixed(1) : Math.round(each)} beats/s`;
    if (data.limit_ms) rate += `, limit ${span(data.limit_ms).replace(".0", "")}`;
  }
  put(row.rate, rate);
}

function setAbout() {
  const about = $("about");
  let text = "";
  if (face && face.watchdog) {
    text = `watchdog ${face.watchdog[0]} ${face.watchdog[1]}`;
    if (beatAge !== null) text += `, beat ${span(beatAge)} ago`;
    text += `, started ${span(Math.max(0, last - face.since_ms))} ago`;
  }
  put(about.firstChild.nodeType === 3 ? about.firstChild : about.insertBefore(
    document.createTextNode(""), about.firstChild), text + " ");
  put(about.lastElementChild, face ? face.run_dir : "");
}

function setTold(fresh) {
  const list = $("told"), whole = told.length === 0;
  told = told.concat(fresh).slice(-200);
  const lines = fresh.slice(-TOLD).map((one) => {
    const item = el("li", one.level);
    item.append(el("time", "", clock(one.at)), " ", el("span", "", one.line));
    return item;
  }).reverse();
  if (whole) list.replaceChildren(...lines); else list.prepend(...lines);
  while (list.children.length > TOLD) list.lastChild.remove();
}

function setReports() {
  const list = $("reports").querySelector("ol");
  $("reports").hidden = reports.length === 0;
  list.replaceChildren(...reports.slice().reverse().map((one) => {
    const item = el("li"), link = el(token ? "a" : "span", token ? "" : "sub");
    put(link, `report ${one.number}`);
    if (token) link.href = `/reports/${one.number}?token=${token}`;
    item.id = `report-${one.number}`;
    item.append(el("time", "", clock(one.at)), " ", link, " ", el("span", "", one.sentence));
    return item;
  }));
  for (const row of rows) dress(row);
}

// ---- the graph ----

function drawGraph() {
  $("needs").hidden = graph.edges.length === 0;
  if (!graph.edges.length || !face) return;
  const states = new Map(face.rows.filter((row) => row.heart === null)
    .map((row) => [row.service, row.state]));
  const place = (node) => [node.column * (NODE[0] + GAP[0]), node.row * (NODE[1] + GAP[1])];
  const parts = [];
  for (const edge of graph.edges) {
    const [fx, fy] = place(graph.nodes[edge.from]), [x, ty] = place(graph.nodes[edge.to]);
    const sx = fx + NODE[0], sy = fy + NODE[1] / 2, tx = x - 1, y = ty + NODE[1] / 2;
    parts.push(svg("path", { class: `edge ${edge.kind}`,
      d: `M${sx} ${sy}C${sx + GAP[0] / 2} ${sy} ${x - GAP[0] / 2} ${y} ${tx} ${y}` }));
    parts.push(svg("path", { class: "head", d: `M${tx - 6} ${y - 4}l6 4l-6 4` }));
  }
  for (const node of graph.nodes) {
    const [x, y] = place(node), state = states.get(node.name) || "";
    const group = svg("g", { class: `node ${manner(state)}`, transform: `translate(${x} ${y})` });
    const name = node.name.length > 19 ? node.name.slice(0, 19) + "\u2026" : node.name;
    group.append(svg("title", {}, `${node.name}: ${state}`),
      svg("rect", { width: NODE[0], height: NODE[1], rx: 3 }),
      svg("text", { x: 12, y: 20 }, name), svg("text", { class: "state", x: 12, y: 36 }, state));
    parts.push(group);
  }
  const most = (key, i) => (Math.max(...graph.nodes.map((node) => node[key])) + 1)
    * (NODE[i] + GAP[i]) - GAP[i] + 4;
  const box = $("graph"), width = most("column", 0), height = most("row", 1);
  box.setAttribute("viewBox", `-2 -2 ${width} ${height}`);
  box.setAttribute("width", width);
  box.setAttribute("height", height);
  const name = (index) => graph.nodes[index].name;
  box.setAttribute("aria-label",
    graph.edges.map((edge) => `${name(edge.to)} needs ${name(edge.from)}`).join(", "));
  box.replaceChildren(...parts);
}

// ---- the traces ----

const now = () => performance.now() + offset;
const sizes = new ResizeObserver((entries) => {
  for (const { target } of entries) { fit(target); draw(target.row); }
});
const sights = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    entry.target.row.seen = entry.isIntersecting;
    if (entry.isIntersecting) draw(entry.target.row);
  }
});
function fit(canvas) {
  const scale = Math.min(devicePixelRatio || 1, 3), box = canvas.getBoundingClientRect();
  const width = Math.round(box.width * scale), height = Math.round(box.height * scale);
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
}
function readColours() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["paper", "ink", "muted", "grid", "accent", "wash"]) {
    colours[name] = style.getPropertyValue(`--${name}`).trim();
  }
  colours.small = `400 10px ${style.getPropertyValue("--sans")}`;
  colours.font = `600 12px ${style.getPropertyValue("--sans")}`;
}

function draw(row) {
  const canvas = row.canvas, pen = canvas.getContext("2d");
  if (!canvas.width || !row.data) return;
  const scale = Math.min(devicePixelRatio || 1, 3);
  const width = canvas.width / scale, height = canvas.height / scale;
  const base = height - 20, top = 24, end = calm.matches ? last : Math.min(now() - LAG, last);
  const x = (at) => width - 6 - (end - at) * PX / 1000;
  const start = end - (width + 20) * 1000 / PX;
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.lineJoin = "round";
  pen.fillStyle = colours.grid;
  for (let at = Math.ceil(start / 10000) * 10000; at < end; at += 10000) {
    pen.fillRect(Math.round(x(at)), 18, 1, height - 30);
  }
  const steps = row.steps;
  let first = steps.findIndex((step) => step.at > start);
  if (first < 0) return;
  first = Math.max(0, first - 1);
  const shown = steps.slice(first);
  // How high a spike is: beats of the last second, so that the grid of looks does not show.
  const second = shown.map((_, i) =>
    steps.slice(Math.max(0, first + i - 3), first + i + 1).reduce((sum, one) => sum + one.beats, 0));
  const most = Math.max(1, ...second);
  // Silences that became a verdict, or may: from the last beat to the next one.
  let quiet = null, alarm = null;
  const bands = [];
  for (const step of shown) {
    if (step.beats > 0) {
      if (alarm !== null) bands.push([alarm, step.beat]);
      quiet = step.beat;
      alarm = null;
    } else if (drawn(step.code) === "bad" && alarm === null) alarm = quiet === null ? step.at : quiet;
  }
  if (alarm !== null) bands.push([alarm, end]);
  pen.fillStyle = colours.wash;
  for (const [from, to] of bands) pen.fillRect(x(from), 18, Math.max(2, x(to) - x(from)), base - 8);
  // The line, in pieces of one manner each.
  let piece = null, before = x(shown[0].at), at = before;
  const begin = (kind) => {
    if (piece !== null) pen.stroke();
    piece = kind;
    pen.beginPath();
    pen.moveTo(at, base);
    pen.setLineDash(kind === "off" ? [1, 4] : kind === "held" ? [6, 4] : []);
    pen.lineWidth = kind === "bad" ? 2.5 : kind === "off" ? 1.5 : 1.25;
    pen.strokeStyle = kind === "bad" ? colours.accent : kind === "off" ? colours.muted : colours.ink;
  };
  let final = at;
  const silent = (time) => bands.some(([from, to]) => from < time && time <= to);
  for (const [index, step] of shown.entries()) {
    let kind = row.data.beats || step.beats || drawn(step.code) !== "ok" ? drawn(step.code) : "off";
    if (kind === "ok" && !step.beats && silent(step.at - 1)) kind = "bad";
    if (step.at > end + 250) break;
    const to = Math.min(x(step.at), x(end));
    if (kind !== piece) begin(kind);
    if (step.beats > 0) {
      const peak = Math.min(Math.max(x(step.beat), before + 1), to);
      const high = 0.4 + 0.6 * Math.log2(1 + second[index]) / Math.log2(1 + most);
      const roof = base - (base - top) * high, room = Math.min(2.6, (peak - before) / 2.2);
      const dip = room > 2 ? 1 : 0;
      if (peak > before) {
        pen.lineTo(peak - room, base);
        pen.lineTo(peak - room * 0.5, base + 2 * dip);
        pen.lineTo(peak, roof);
        pen.lineTo(peak + room * 0.5, base + 5 * dip);
        pen.lineTo(peak + room, base);
        before = peak + room;
        at = before;
      }
    }
    if (to > at) { pen.lineTo(to, base); at = to; }
    final = at;
  }
  if (piece !== null) pen.stroke();
  pen.setLineDash([]);
  if (row.data.pid) {
    pen.fillStyle = piece === "bad" ? colours.accent : colours.ink;
    pen.beginPath();
    pen.arc(Math.min(final, width - 5), base, 3, 0, 7);
    pen.fill();
  }
  if (row === rows[rows.length - 1]) {
    pen.font = colours.small;
    pen.fillStyle = colours.muted;
    pen.textBaseline = "bottom";
    for (let tick = Math.ceil(start / 10000) * 10000; tick < end; tick += 10000) {
      const from = x(tick) + 4, label = new Date(tick).toTimeString().slice(0, 8);
      if (from > 0 && from + 60 < width) pen.fillText(label, from, height - 1);
    }
  }
  if (row.data.heart === null) marks(row, pen, x, start, end, base, width);
}

function marks(row, pen, x, start, end, base, width) {
  pen.font = colours.font;
  pen.textBaseline = "top";
  let free = 0;
  for (const one of told) {
    if (!one.mark || one.service !== row.data.service || one.at < start || one.at > end) continue;
    const here = Math.round(x(one.at)), bad = one.level !== "info";
    const room = pen.measureText(one.mark).width;
    pen.fillStyle = bad ? colours.accent : colours.ink;
    if (bad) {
      pen.fillRect(here - 1, 3, 2, base + 3);
      // Left of its line: there is the silence that it is about.
      const from = here - room - 6 >= free ? here - room - 6 : here + 6;
      if (from >= free && from + room <= width) {
        pen.fillText(one.mark, from, 2);
        free = Math.max(from + room + 8, here + 5);
      }
    } else {
      if (/^(gen|taken) /.test(one.mark)) {
        pen.beginPath();
        pen.moveTo(here, base + 5);
        pen.lineTo(here - 4, base + 12);
        pen.lineTo(here + 4, base + 12);
        pen.fill();
      } else pen.fillRect(here - 0.5, 18, 1, base - 12);
      const from = Math.max(here + 5, free);
      if (from < here + 40 && from + room <= width) {
        pen.fillStyle = colours.muted;
        pen.fillText(one.mark, from, 2);
        free = from + room + 8;
      }
    }
  }
}

let frame = 0;
function turn(time) {
  requestAnimationFrame(turn);
  if (document.hidden || time - frame < (calm.matches ? 990 : 48)) return;
  frame = time;
  for (const row of rows) if (row.seen) draw(row);
}

// ---- what comes ----

function follow() {
  const source = new EventSource("/api/events");
  source.onmessage = (event) => {
    if (lost) { lost = 0; $("advice").hidden = true; if (face) setFace(face); }
    take(JSON.parse(event.data));
  };
  source.onerror = () => {
    if (!lost) lost = Date.now();
    $("advice").hidden = false;
    put($("advice"), "osps page does not answer: what you see is old. It goes on when it is back.");
    document.body.className = "unwell";
    if (source.readyState === EventSource.CLOSED) setTimeout(follow, 2000);
  };
}

readColours();
dark.addEventListener("change", () => { readColours(); rows.forEach(draw); });
take(JSON.parse($("first").textContent));
for (const row of rows) { fit(row.canvas); draw(row); }
performance.mark("first-trace");
requestAnimationFrame(turn);
follow();
})();
