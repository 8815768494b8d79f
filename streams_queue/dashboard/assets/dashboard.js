// Everything that comes from the queue was written by strangers: it is put on the page as text (textContent), never as markup.
"use strict";

const at = (id) => document.getElementById(id);
const state = { about: null, look: null, letters: new Map(), next: null, deadSeen: null, loading: false, again: false, alerts: "" };

// --- words and numbers ---

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

const count = (value) => (value < 100_000 ? whole.format(value) : short.format(value));

function decimals(value) {
  if (value === 0) return "0";
  if (value < 10) return value.toFixed(value < 0.1 ? 2 : 1);
  return count(Math.round(value));
}

function span(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} m ${Math.floor(seconds % 60)} s`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} m`;
  return `${Math.floor(seconds / 86_400)} d ${Math.floor((seconds % 86_400) / 3600)} h`;
}

const moment = (seconds) => (seconds ? new Date(seconds * 1000).toISOString().replace("T", " ").slice(0, 19) + "Z" : "–");
const events = (number) => `${count(number)} ${number === 1 ? "event" : "events"}`;
const letters = (number) => `${count(number)} dead ${number === 1 ? "letter" : "letters"}`;

// --- asking the server ---

async function ask(path, body) {
  const options = body === undefined ? {} : {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Streams-Queue": "dashboard" },
    body: JSON.stringify(body),
  };
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The dashboard does not answer");
  }
  if (answer.status === 401) location.assign("login");
  if (answer.status === 204) return null;
  const value = await answer.json().catch(() => ({ error: `The dashboard answered ${answer.status}` }));
  if (!answer.ok) throw new Error(value.error);
  return value;
}

let toastTimer = 0;
function say(text) {
  at("toast").textContent = text;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { at("toast").textContent = ""; }, 6000);
}

// --- building ---

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function set(id, text) {
  const target = at(id);
  if (target.textContent !== text) target.textContent = text;
}

// Rows are kept by id, so that focus and selection survive an update.
function fillRows(body, items, build, update) {
  const known = new Map([...body.rows].map((row) => [row.dataset.id, row]));
  let place = body.firstElementChild;
  for (const item of items) {
    let row = known.get(item.id);
    if (row === undefined) {
      row = build(item);
      row.dataset.id = item.id;
    }
    known.delete(item.id);
    update?.(row, item);
    if (row === place) place = place.nextElementSibling;
    else body.insertBefore(row, place);
  }
  for (const row of known.values()) row.remove();
}

const cell = (className, text, title = text) => element("td", { className, textContent: text, title });

function facts(list, pairs) {
  list.replaceChildren(...pairs.flatMap(([name, value]) => [
    element("dt", { textContent: name }), element("dd", { textContent: String(value) })]));
}

// --- charts ---

function ink(className) {
  const probe = at("ink");
  probe.className = className;
  return getComputedStyle(probe).color;
}

const charts = [];

function makeChart(id, series, describe, unit) {
  const place = at(id);
  const size = () => ({ width: Math.max(120, place.clientWidth), height: place.clientHeight });
  const axis = { stroke: () => ink("ink-quiet"), grid: { stroke: () => ink("ink-grid"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
  const plot = new uPlot({
    ...size(),
    padding: [10, 26, 0, 0],
    legend: { show: false },
    cursor: { show: false },
    scales: { x: { time: true }, y: { range: (_, low, high) => [0, Math.max(high || 0, unit) * 1.1] } },
    axes: [
      { ...axis, size: 26, space: 84, values: (_, ticks) => ticks.map((tick) => new Date(tick * 1000).toTimeString().slice(0, tick % 60 ? 8 : 5)) },
      { ...axis, size: 46, space: 30, values: (_, ticks) => ticks.map((tick) => short.format(tick)) },
    ],
    series: [{}, ...series.map(({ className }, number) => ({
      stroke: () => ink(className), width: 1.75, points: { show: false }, spanGaps: false,
      fill: number === 0 ? () => ink(className).replace("rgb(", "rgba(").replace(")", ", 0.10)") : undefined,
    }))],
  }, [[], ...series.map(() => [])], place);
  new ResizeObserver(() => plot.setSize(size())).observe(place);
  charts.push({ plot, place, series, describe });
}

const past = [];
const KEEP = 600;

function drawCharts() {
  const xs = past.map((point) => point.at);
  for (const { plot, place, series, describe } of charts) {
    plot.setData([xs, ...series.map(({ value }) => past.map(value))]);
    const label = describe();
    if (place.getAttribute("aria-label") !== label) place.setAttribute("aria-label", label);
  }
}

const highest = (value) => past.reduce((most, point) => Math.max(most, value(point) ?? 0), 0);
const newest = () => past.at(-1);

function makeCharts() {
  makeChart("chart-waiting", [{ className: "ink-1", value: (p) => p.waiting }], () => newest()
    ? `Waiting events over the last ten minutes: now ${count(newest().waiting)}, at most ${count(highest((p) => p.waiting))}` : "Waiting events", 5);
  makeChart("chart-rate", [
    { className: "ink-1", value: (p) => p.processed_rate }, { className: "ink-2", value: (p) => p.accepted_rate }], () => newest()
    ? `Events per second over the last ten minutes: now ${decimals(newest().processed_rate)} processed and ${decimals(newest().accepted_rate)} accepted` : "Events per second", 1);
  const time = (p) => (p.processing_time === null ? null : p.processing_time * 1000);
  makeChart("chart-time", [{ className: "ink-1", value: time }], () => newest()
    ? `Processing time over the last ten minutes: now ${span(newest().processing_time)}, at most ${span(highest(time) / 1000)}` : "Processing time", 1);
}

// --- the live stream ---

function link(kind, text) {
  at("link").dataset.state = kind;
  set("link-text", text);
}

function listen() {
  const stream = new EventSource("api/live");
  stream.addEventListener("queue", (event) => showQueue(JSON.parse(event.data)));
  stream.addEventListener("history", (event) => {
    past.splice(0, past.length, ...JSON.parse(event.data));
    drawCharts();
  });
  stream.addEventListener("look", (event) => showLook(JSON.parse(event.data)));
  stream.addEventListener("error", () => {
    link("lost", "No connection");
    if (stream.readyState !== EventSource.CLOSED) return;
    // The server refused; a session that ended leads to the login page.
    ask("api/health").catch(() => {}).finally(() => setTimeout(listen, 3000));
  });
}

function showQueue(about) {
  state.about = about;
  set("queue", about.name);
  set("namespace", `${about.namespace}:{${about.name}}`);
  set("version", `streams-queue ${about.version}`);
  document.title = `${about.name} · streams-queue`;
  at("logout").hidden = !about.needs_token;
}

function showLook(look) {
  state.look = look;
  if (look.trouble !== undefined) {
    link("lost", "Server unreachable");
    showAlerts([["bad", `The queue's server does not answer: ${look.trouble}`]]);
    return;
  }
  link("live", "Live");
  past.push(look.point);
  past.splice(0, past.length - KEEP);
  drawCharts();
  showFigures(look.stats, look.point);
  if (look.in_flight !== undefined) showHolders(look);
  if (look.stats.dead !== state.deadSeen) loadDead();
}

function showFigures(stats, point) {
  const full = stats.max_size ? point.held / stats.max_size : 1;
  const level = full >= 1 ? "bad" : full > 0.8 ? "warn" : "ok";
  at("tile-depth").dataset.level = level;
  set("waiting", count(stats.waiting));
  set("fill-text", `${Math.floor(full * 100)} % of ${count(stats.max_size)} used`);
  at("fill").value = Math.min(1, full);
  set("held-by-consumers", count(stats.in_flight));
  set("delayed", count(stats.delayed));
  set("dead", count(stats.dead));
  at("tile-dead").dataset.level = stats.dead >= state.about.dead_max_size ? "bad" : "ok";
  set("accepted", count(stats.totals.enqueued));
  set("processed-rate", decimals(point.processed_rate));
  set("error-rate", point.error_rate === null ? "–" : decimals(point.error_rate * 100));
  at("tile-errors").dataset.level = point.error_rate > 0.01 ? "warn" : "ok";
  const [value, unit] = span(point.processing_time).split(/ (.*)/s);
  set("processing-time", value);
  set("processing-unit", unit ?? "");
  set("oldest", span(stats.oldest_waiting_age));
  const alerts = [];
  if (level === "bad") alerts.push(["bad", `The queue is full: ${count(point.held)} of ${count(stats.max_size)} events.`]);
  if (level === "warn") alerts.push(["warn", "The queue is more than 80 % full."]);
  if (stats.dead >= state.about.dead_max_size) {
    alerts.push(state.about.dead_when_full === "refuse"
      ? ["bad", "The dead letters are full: events that fail stay delayed."]
      : ["warn", "The dead letters are full: the oldest ones go."]);
  }
  if (stats.paused) alerts.push(["warn", "The queue is paused."]);
  showAlerts(alerts);
}

function showAlerts(alerts) {
  const now = JSON.stringify(alerts);
  if (now === state.alerts) return;
  state.alerts = now;
  at("alerts").replaceChildren(...alerts.map(([level, text]) => {
    const made = element("p", { className: "alert", textContent: text });
    made.dataset.level = level;
    return made;
  }));
}

// --- who holds what ---

function showHolders({ consumers, in_flight, stats }) {
  fillRows(at("in-flight-rows"), in_flight, (item) => element("tr", {},
    cell("mono", item.event_id || item.id), cell("mono", item.consumer), cell("number", ""), cell("number", ""),
    cell("number", String(item.deliveries)), element("td", { className: "actions" }, viewButton(item, `api/in-flight/${item.id}`))),
  (row, item) => {
    row.cells[1].textContent = item.consumer;
    row.cells[2].textContent = span(item.age);
    row.cells[3].textContent = span(item.idle);
    row.cells[4].textContent = item.deliveries;
  });
  at("in-flight-empty").hidden = in_flight.length > 0;
  set("in-flight-summary", stats.in_flight > in_flight.length ? `the oldest ${in_flight.length} of ${count(stats.in_flight)}` : "");
  fillRows(at("consumers-rows"), consumers, (item) => element("tr", {},
    cell("mono", item.id), cell("number", ""), cell("number", "")),
  (row, item) => {
    row.cells[1].textContent = count(item.in_flight);
    row.cells[2].textContent = `${span(item.idle)} ago`;
  });
  at("consumers-empty").hidden = consumers.length > 0;
  set("consumers-summary", stats.consumers > consumers.length ? `${consumers.length} of ${count(stats.consumers)}` : "");
}

function viewButton(item, path) {
  const button = element("button", { type: "button", textContent: "View" });
  button.setAttribute("aria-label", `View the payload of ${item.event_id || item.id}`);
  button.addEventListener("click", () => view(path));
  return button;
}

async function view(path) {
  try {
    const found = await ask(path);
    const dead = "reason" in found;
    set("payload-title", found.event_id || found.id);
    facts(at("payload-facts"), dead
      ? [["Reason", found.reason], ["Error", found.error || "–"], ["Died", moment(found.died_at)], ["Enqueued", moment(found.enqueued_at)], ["Deliveries", found.deliveries], ["Dead letter", found.id]]
      : [["Consumer", found.consumer], ["Enqueued", moment(found.enqueued_at)], ["Renewed", `${span(found.idle)} ago`], ["Deliveries", found.deliveries], ["Entry", found.id]]);
    at("payload").textContent = found.payload;
    set("payload-note", found.chars > found.payload.length ? `The first ${count(found.payload.length)} of ${count(found.chars)} characters.` : "");
    at("payload-redrive").hidden = !dead;
    at("payload-redrive").dataset.id = found.id;
    at("payload-dialog").showModal();
  } catch (error) {
    say(error.message);
  }
}

// --- dead letters ---

async function loadDead({ more = false } = {}) {
  if (state.loading) {
    state.again = true;
    return;
  }
  state.loading = true;
  const seen = state.look?.stats?.dead ?? null;
  try {
    // As many as are shown already: an update must not shorten the list under the reader's eyes.
    const wanted = more ? state.letters.size + 50 : Math.max(50, state.letters.size);
    const filter = at("filter").value.trim();
    const found = new Map();
    let after = null;
    do {
      const query = new URLSearchParams({ filter, limit: String(Math.min(100, wanted - found.size)) });
      if (after !== null) query.set("after", after);
      const page = await ask(`api/dead?${query}`);
      for (const letter of page.letters) found.set(letter.id, letter);
      after = page.next;
    } while (after !== null && found.size < wanted && (filter === "" || found.size === 0 || !more));
    state.letters = found;
    state.next = after;
    state.deadSeen = seen;
    showDead(filter);
  } catch (error) {
    say(error.message);
  } finally {
    state.loading = false;
    if (state.again) {
      state.again = false;
      loadDead();
    }
  }
}

function showDead(filter) {
  const body = at("dead-rows");
  const focused = body.contains(document.activeElement) ? document.activeElement.closest("tr").rowIndex - 1 : null;
  fillRows(body, state.letters.values(), deadRow);
  if (focused !== null && !body.contains(document.activeElement)) {
    // The row that had the focus is gone: the next one gets it, so that a keyboard goes on from there.
    (body.rows[Math.min(focused, body.rows.length - 1)]?.querySelector("button") ?? at("dead-title")).focus();
  }
  const total = state.look?.stats?.dead ?? state.letters.size;
  at("dead-empty").hidden = state.letters.size > 0;
  set("dead-empty", filter ? "No dead letter matches." : "No dead letters.");
  set("dead-summary", filter ? `${count(state.letters.size)}${state.next ? "+" : ""} of ${count(total)} match` : total > state.letters.size ? `the oldest ${count(state.letters.size)} of ${count(total)}` : "");
  at("dead-more").hidden = state.next === null;
  at("redrive-all").disabled = state.letters.size === 0;
  set("redrive-all", filter ? "Redrive these…" : "Redrive all…");
}

function deadRow(letter) {
  const redrive = element("button", { type: "button", textContent: "Redrive" });
  redrive.setAttribute("aria-label", `Redrive ${letter.event_id || letter.id}`);
  redrive.addEventListener("click", () => redriveThese({ ids: [letter.id] }));
  return element("tr", {},
    cell("fit", moment(letter.died_at)),
    element("td", { className: "fit" }, element("span", { className: "badge", textContent: letter.reason, title: letter.reason })),
    cell("", letter.error || "–"), cell("mono", letter.event_id || "–"), cell("number", String(letter.deliveries)),
    cell("mono", letter.preview), element("td", { className: "actions" }, viewButton(letter, `api/dead/${letter.id}`), redrive));
}

async function redriveThese(which) {
  try {
    const done = await ask("api/redrive", which);
    const wanted = which.ids?.length ?? done.redriven + done.dead;
    say(done.redriven < wanted ? `${letters(done.redriven)} redriven, ${count(wanted - done.redriven)} not: no room, or gone` : `${letters(done.redriven)} redriven`);
    await loadDead();
  } catch (error) {
    say(error.message);
  }
}

function chosen() {
  return at("filter").value.trim() === "" ? { all: true } : { ids: [...state.letters.keys()].slice(0, 500) };
}

at("redrive-all").addEventListener("click", () => {
  const which = chosen();
  const number = which.all ? state.look?.stats?.dead ?? state.letters.size : which.ids.length;
  set("redrive-title", which.all ? "Redrive all dead letters?" : "Redrive these dead letters?");
  set("redrive-text", `${letters(number)} go back into the queue, with a fresh delivery count, as far as there is room.`);
  at("redrive-dialog").returnValue = "";
  at("redrive-dialog").showModal();
});
at("redrive-dialog").addEventListener("close", () => {
  if (at("redrive-dialog").returnValue === "go") redriveThese(chosen());
});
at("payload-redrive").addEventListener("click", (event) => {
  at("payload-dialog").close();
  redriveThese({ ids: [event.target.dataset.id] });
});
at("dead-more").addEventListener("click", () => loadDead({ more: true }));

let filterTimer = 0;
at("filter").addEventListener("input", () => {
  clearTimeout(filterTimer);
  filterTimer = setTimeout(() => { state.letters = new Map(); loadDead(); }, 250);
});

// --- health and flush ---

at("check").addEventListener("click", async () => {
  try {
    const health = await ask("api/health");
    facts(at("health-facts"), Object.entries(health).map(([name, value]) => [name.replaceAll("_", " "), value]));
    set("health-title", `Health: ${health.status}`);
    at("health-dialog").showModal();
  } catch (error) {
    say(error.message);
  }
});

at("flush").addEventListener("click", () => {
  const stats = state.look?.stats;
  set("flush-text", `${stats ? `${events(stats.waiting + stats.delayed)} that wait or are delayed move` : "Everything that waits or is delayed moves"} to the dead letters, reason “purged”. What is in flight is left alone. Nothing is deleted.`);
  set("flush-name", state.about?.name ?? "");
  set("flush-problem", "");
  at("flush-confirm").value = "";
  at("flush-go").disabled = true;
  at("flush-dialog").showModal();
  at("flush-confirm").focus();
});
at("flush-cancel").addEventListener("click", () => at("flush-dialog").close());
at("flush-confirm").addEventListener("input", (event) => {
  at("flush-go").disabled = event.target.value !== state.about?.name;
});
at("flush-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  at("flush-go").disabled = true;
  try {
    const done = await ask("api/flush", { confirm: at("flush-confirm").value });
    at("flush-dialog").close();
    say(done.left ? `${events(done.moved)} flushed; ${count(done.left)} left, perhaps because the dead letters are full` : `${events(done.moved)} flushed to the dead letters`);
  } catch (error) {
    set("flush-problem", error.message);
    at("flush-go").disabled = false;
  }
});

// --- theme and session ---

at("theme").value = document.documentElement.dataset.theme ?? "system";
at("theme").addEventListener("change", ({ target: { value } }) => {
  if (value === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = value;
  localStorage.setItem("streams-queue-theme", value);
  redraw();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

function redraw() {
  for (const { plot } of charts) plot.redraw(false, true);
}

at("logout").addEventListener("click", async () => {
  await ask("logout", {}).catch(() => {});
  location.assign("login");
});

makeCharts();
listen();
