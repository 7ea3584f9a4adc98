// Live pages, keyboard, dialogs. Everything here adds to pages that work without it.
"use strict";
(() => {
  const MAX_STREAMS = 3;
  const POLL_MS = 2000;
  const MAX_ROWS = 2000; // of a list in the page; then its next page is a page of its own
  const { addPoint, drawSoon, redraw } = window.pygridCharts;
  const status = document.getElementById("live-status");
  const mayFetch = new Map(); // topic -> time of the next fetch
  const pending = new Set();
  let source = null;
  let release = null;
  let timer = 0;
  let retryMs = 1000;

  const say = (text) => {
    if (status && status.textContent !== text) status.textContent = text;
  };
  const parts = () => [...document.querySelectorAll("[data-topic]")];
  const topics = () => [...new Set(parts().map((part) => part.dataset.topic))];

  // A part of the page is fetched again and merged into the page: focus and scroll stay. The slower the answer, the
  // longer the pause, so that many open pages do not keep a busy server from its work.
  async function refresh(topic) {
    if (pending.has(topic)) return;
    pending.add(topic);
    await new Promise((done) => setTimeout(done, Math.max(0, (mayFetch.get(topic) || 0) - Date.now())));
    pending.delete(topic);
    const began = Date.now();
    for (const part of parts().filter((one) => one.dataset.topic === topic)) {
      if (part.dataset.grown || isInUse(part)) {
        offer(part);
        continue;
      }
      const source = part.dataset.source; // the page of the list, if a form has made this page
      const url = new URL(source || location.href, location.href);
      url.searchParams.set("part", part.dataset.part);
      let answer;
      try {
        answer = await fetch(url, { headers: { "HX-Request": "true" }, credentials: "same-origin" });
      } catch {
        continue; // the connection is lost: the stream says so, and fetches again
      }
      if (answer.status === 401) return signedOut();
      if (answer.status === 429) {
        mayFetch.set(topic, Date.now() + pauseOf(answer));
        return refresh(topic);
      }
      if (!answer.ok) continue;
      const text = await answer.text();
      if (isInUse(part)) {
        offer(part); // somebody began to fill it in while it was fetched
        continue;
      }
      const open = new Map([...part.querySelectorAll("details[id]")].map((one) => [one.id, one.open]));
      await window.htmx.swap({ target: part, text, swap: "outerMorph" });
      const now = parts().find((one) => one.dataset.part === part.dataset.part);
      if (now && source) now.dataset.source = source;
      for (const one of now ? now.querySelectorAll("details[id]") : []) if (open.has(one.id)) one.open = open.get(one.id);
      drawSoon();
      countdown();
      watchEnd();
    }
    mayFetch.set(topic, Date.now() + Math.max(250, 10 * (Date.now() - began)));
  }

  // Whether somebody is filling in a form of the part, or is about to press a button of a decision.
  function isInUse(part) {
    if (part.matches("[data-hold]:hover, [data-hold]:focus-within")) return true;
    const inputs = [...part.querySelectorAll("input:not([type=hidden]), textarea")];
    return inputs.some((one) => one.value !== one.defaultValue || one.checked !== one.defaultChecked);
  }

  // A list with added pages, or with a form in use, stays as it is; the user decides when to see it from its beginning.
  function offer(part) {
    if (part.querySelector("[data-offer]")) return;
    const line = document.createElement("p");
    line.dataset.offer = "";
    line.className = "flag busy";
    const link = document.createElement("a");
    link.href = part.dataset.source || location.href;
    link.textContent = "Show it from its beginning";
    line.append("This list changed while you were reading. ", link);
    part.prepend(line);
  }

  // The next page of a list is added to it.
  async function more(link) {
    const part = link.closest("[data-part]");
    const rows = part.querySelector("tbody");
    if (link.dataset.busy || !rows) return;
    link.dataset.busy = "1";
    const url = new URL(link.href);
    url.searchParams.set("part", part.dataset.part);
    const answer = await fetch(url, { headers: { "HX-Request": "true" }, credentials: "same-origin" }).catch(() => null);
    if (answer && answer.status === 401) return signedOut();
    if (!answer || !answer.ok) return location.assign(link.href);
    const box = document.createElement("div");
    box.hidden = true;
    part.append(box);
    await window.htmx.swap({ target: box, text: await answer.text(), swap: "innerHTML" });
    part.dataset.grown = "1";
    const first = rows.rows.length;
    const hadFocus = document.activeElement === link;
    rows.append(...box.querySelectorAll("tbody > tr"));
    const next = box.querySelector("[data-pages]");
    if (next) link.closest("[data-pages]").replaceWith(next);
    else link.remove();
    box.remove();
    if (hadFocus) rows.rows[first]?.querySelector("a")?.focus();
    watchEnd();
  }
  const end = new IntersectionObserver((seen) => {
    for (const one of seen) if (one.isIntersecting) more(one.target);
  });
  function watchEnd() {
    end.disconnect();
    for (const link of document.querySelectorAll("[data-part] a[data-more]")) {
      if (link.closest("[data-part]").querySelectorAll("tbody > tr").length >= MAX_ROWS) continue;
      link.textContent = "Load more";
      end.observe(link);
    }
  }

  // Texts, rows and points of a training, as they come.
  function show(data) {
    const part = parts().find((one) => one.dataset.topic === data.topic);
    if (!part) return;
    const cycle = part.querySelector("[data-field=cycle]");
    if (!cycle || cycle.textContent !== data.fields.cycle) return refresh(data.topic);
    if (data.now) part.dataset.now = data.now;
    clock();
    for (const [name, text] of Object.entries(data.fields)) {
      for (const one of part.querySelectorAll(`[data-field="${CSS.escape(name)}"]`)) one.textContent = text;
    }
    for (const [name, text] of Object.entries(data.summaries)) {
      for (const one of part.querySelectorAll(`[data-summary="${CSS.escape(name)}"]`)) one.textContent = text;
    }
    for (const [name, value] of Object.entries(data.meters)) {
      for (const one of part.querySelectorAll(`[data-meter="${CSS.escape(name)}"]`)) one.value = value;
    }
    for (const [name, rows] of Object.entries(data.rows)) {
      const body = part.querySelector(`[data-rows="${CSS.escape(name)}"]`);
      if (!body && rows.length) return refresh(data.topic);
      if (body) body.replaceChildren(...rows.map((cells) => tableRow(cells, body)));
    }
    for (const box of part.querySelectorAll("[data-chart]")) {
      const point = data.points[box.dataset.chart];
      if (data.charts[box.dataset.chart]) box.dataset.series = data.charts[box.dataset.chart];
      else if (point) addPoint(box, point);
    }
    if (Object.keys(data.points).some((name) => !part.querySelector(`[data-chart="${CSS.escape(name)}"]`))) {
      refresh(data.topic); // the first value of a metric: its chart is new
    }
    drawSoon();
  }

  function tableRow(cells, body) {
    const labels = [...body.closest("table").querySelectorAll("th")].map((one) => one.textContent);
    const row = document.createElement("tr");
    cells.forEach((text, at) => {
      const cell = row.insertCell();
      cell.dataset.label = labels[at] || "";
      cell.textContent = text;
    });
    return row;
  }

  function signedOut() {
    stop();
    const link = document.createElement("a");
    link.href = `/admin/login?next=${encodeURIComponent(location.pathname + location.search)}`;
    link.textContent = "sign in again";
    status.replaceChildren("Signed out: ", link, ".");
  }

  function stop() {
    if (source) source.close();
    if (release) release();
    clearTimeout(timer);
    source = release = null;
  }

  async function start() {
    if (!topics().length || document.hidden || source || release) return;
    for (let slot = 1; slot <= MAX_STREAMS && navigator.locks; slot += 1) {
      const taken = await new Promise((answer) => {
        navigator.locks.request(`pygrid-live-${slot}-${location.port}`, { ifAvailable: true }, (lock) => {
          if (!lock) return answer(false);
          return new Promise((free) => {
            release = free;
            answer(true);
          });
        });
      });
      if (taken) return stream();
    }
    poll();
  }

  const streamPath = () => `/admin/live?topics=${encodeURIComponent(topics().join(","))}`;

  function stream() {
    source = new EventSource(streamPath());
    source.onopen = () => {
      retryMs = 1000;
      say("Live");
      topics().forEach(refresh);
    };
    source.addEventListener("changed", (event) => refresh(JSON.parse(event.data).topic));
    source.addEventListener("data", (event) => show(JSON.parse(event.data)));
    source.onerror = async () => {
      const isRefused = source.readyState === EventSource.CLOSED; // else the connection is lost
      source.close();
      source = null;
      let wait = retryMs * (0.5 + Math.random());
      retryMs = Math.min(30000, 2 * retryMs);
      const refusal = isRefused ? await findRefusal() : null;
      if (refusal && refusal.status === 401) return signedOut();
      if (refusal && (await refusal.text()).includes("too_many_streams")) {
        say("This page does not update itself: too many others of your session do. Close one, or reload to see changes.");
        wait = pauseOf(refusal);
      } else say("Reconnecting");
      timer = setTimeout(() => {
        if (release && !document.hidden) stream();
      }, wait);
    };
  }

  // An event stream does not tell why it was refused, so the same address is fetched; null: it is not refused any more.
  async function findRefusal() {
    const enough = new AbortController();
    const answer = await fetch(streamPath(), { headers: { "HX-Request": "true" }, signal: enough.signal }).catch(() => null);
    if (answer && answer.status >= 400) return answer;
    enough.abort();
    return null;
  }
  const pauseOf = (answer) => 1000 * (Number(answer.headers.get("Retry-After")) || 1);

  function poll() {
    say("Live, every 2 seconds");
    topics().forEach(refresh);
    timer = setTimeout(() => {
      if (!document.hidden) poll();
    }, POLL_MS);
  }

  let ahead = 0; // milliseconds that the clock of this browser is ahead of the server's
  function clock() {
    const part = document.querySelector("[data-now]");
    if (part && part.dataset.now !== clock.seen) {
      clock.seen = part.dataset.now;
      ahead = Date.now() - Date.parse(part.dataset.now);
    }
  }
  function countdown() {
    clock();
    for (const one of document.querySelectorAll("[data-countdown]")) {
      const left = Math.round((Date.parse(one.dataset.countdown) - Date.now() + ahead) / 1000);
      const words = left < 120 ? `${left} seconds` : left < 7200 ? `${Math.round(left / 60)} minutes` : `${Math.round(left / 3600)} hours`;
      one.textContent = left > 0 ? `in ${words}` : "now";
    }
  }

  let reached = null; // the link of a list that had the focus last
  let awaitsSection = false;
  const keysAreOff = () => localStorage.getItem("pygrid-keys") === "off";
  function nameKeys() {
    document.querySelector("[data-keys-switch]").textContent = keysAreOff() ? "Switch these keys on" : "Switch these keys off";
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || keysAreOff()) return;
    if (event.target.closest("input, textarea, select, [contenteditable]")) return;
    const cells = [...document.querySelectorAll("[data-list] tbody tr")].map((line) => line.cells[0]);
    const links = cells.map((cell) => cell && cell.querySelector("a")).filter(Boolean);
    if (awaitsSection) {
      awaitsSection = false;
      const entry = document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
      if (entry) entry.click();
    } else if (event.key === "?") {
      document.getElementById("keys").showModal();
    } else if (event.key === "/") {
      event.preventDefault();
      const box = document.querySelector("input[type=search]");
      if (box) box.focus();
      else document.querySelector("[data-key][href='/admin/search']")?.click();
    } else if (event.key === "g") {
      awaitsSection = true;
    } else if ((event.key === "j" || event.key === "k") && links.length) {
      const focused = document.activeElement.closest("tr");
      let at = links.findIndex((link) => focused && focused.contains(link));
      if (at < 0) at = links.indexOf(reached);
      reached = links[Math.min(links.length - 1, Math.max(0, at + (event.key === "j" ? 1 : -1)))];
      reached.focus();
    }
  });

  document.addEventListener("click", (event) => {
    const following = event.target.closest("[data-part] a[data-more]");
    if (following && following.textContent === "Load more") {
      event.preventDefault();
      more(following);
    }
    const opener = event.target.closest("[data-dialog]");
    if (opener) document.getElementById(opener.dataset.dialog).showModal();
    if (event.target.closest("[data-theme-switch]")) {
      const root = document.documentElement;
      const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
      root.dataset.theme = dark ? "light" : "dark";
      localStorage.setItem("pygrid-theme", root.dataset.theme);
      redraw();
    }
    if (event.target.closest("[data-keys-switch]")) {
      localStorage.setItem("pygrid-keys", keysAreOff() ? "on" : "off");
      nameKeys();
    }
    const asks = event.target.closest("[data-confirm]");
    if (asks && !window.confirm(asks.dataset.confirm)) event.preventDefault();
  });

  document.addEventListener("visibilitychange", () => {
    clearTimeout(timer);
    if (document.hidden) timer = setTimeout(stop, 1000);
    else start();
  });
  addEventListener("pagehide", stop);
  addEventListener("pageshow", (event) => {
    if (event.persisted) start();
  });

  // Code, and what is shown once, with a button that copies it. Browsers copy on https and on this machine.
  function offerCopies() {
    for (const text of document.querySelectorAll(".shown-once pre, .snippet pre")) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = "Copy";
      button.addEventListener("click", async () => {
        getSelection().selectAllChildren(text);
        const copied = navigator.clipboard && navigator.clipboard.writeText(text.textContent).then(() => true, () => false);
        button.textContent = (await copied) ? "Copied" : "Selected: press Ctrl+C";
      });
      text.after(button);
    }
  }

  // What is wrong also stands at its field, which is announced with it.
  function markField() {
    const alert = document.querySelector(".alert[data-field]");
    const field = alert && document.querySelector(`main [name="${CSS.escape(alert.dataset.field)}"]:not([type=hidden])`);
    if (!field) return;
    const note = document.createElement("small");
    note.id = "field-error";
    note.className = "bad";
    note.textContent = alert.querySelector("strong").textContent;
    field.after(note);
    field.setAttribute("aria-invalid", "true");
    field.setAttribute("aria-describedby", `${note.id} ${field.getAttribute("aria-describedby") || ""}`.trim());
    const folded = field.closest("details:not([open])");
    if (folded) folded.open = true;
  }

  // The price of a form, while it is filled in.
  let pricing = 0;
  document.addEventListener("input", (event) => {
    const form = event.target.closest("[data-price]");
    if (!form) return;
    clearTimeout(pricing);
    pricing = setTimeout(async () => {
      const url = new URL(form.dataset.price, location.href);
      for (const [name, text] of new FormData(form)) if (typeof text === "string") url.searchParams.append(name, text);
      url.searchParams.set("part", "price");
      const answer = await fetch(url, { headers: { "HX-Request": "true" }, credentials: "same-origin" });
      if (answer.ok) await window.htmx.swap({ target: form.querySelector("#price"), text: await answer.text(), swap: "outerMorph" });
    }, 500);
  });

  addEventListener("DOMContentLoaded", () => {
    const focus = document.querySelector("[data-focus]");
    if (focus) focus.focus();
    redraw();
    countdown();
    watchEnd();
    offerCopies();
    markField();
    nameKeys();
    setInterval(countdown, 1000);
    start();
  });
})();
