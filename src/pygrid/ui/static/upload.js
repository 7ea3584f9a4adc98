// Uploads with progress. Without this script, the form sends the file by itself.
"use strict";
(() => {
  const form = document.querySelector("[data-upload]");
  if (!form) return;
  const input = form.querySelector("input[type=file]");
  const state = form.querySelector("[data-upload-state]");
  const text = form.querySelector("[data-upload-text]");
  const bar = form.querySelector("progress");
  const cancel = form.querySelector("[data-upload-cancel]");
  const button = form.querySelector("button.primary");
  const action = form.action;
  let request = null;

  const UNITS = [[1e9, "GB", 2], [1e6, "MB", 1], [1e3, "kB", 0]];
  function size(bytes) {
    const [factor, unit, digits] = UNITS.find(([least]) => bytes >= least) || UNITS[2];
    return `${(bytes / factor).toFixed(digits)} ${unit}`;
  }
  const time = (seconds) => (seconds < 120 ? `${seconds} s` : `${Math.round(seconds / 60)} minutes`);

  function say(words, isBad = false) {
    text.textContent = words;
    text.classList.toggle("bad", isBad);
  }

  function fail(words) {
    request = null;
    say(words, true);
    cancel.hidden = bar.hidden = true;
    button.disabled = false;
    button.textContent = "Try again";
  }

  // A refusal before the first byte: a browser that is sending a file often cannot read the answer.
  async function findRefusal(file) {
    const url = `/admin/datasets/new?part=room&bytes=${file.size}`;
    const answer = await fetch(url, { headers: { "HX-Request": "true" } }).catch(() => null);
    if (!answer) return "The Domain does not answer.";
    if (answer.status === 401) return "Signed out: sign in again.";
    const box = document.createElement("div");
    await window.htmx.swap({ target: box, text: await answer.text(), swap: "innerHTML" });
    return box.textContent.trim();
  }

  async function send() {
    const file = input.files[0];
    if (!file || request) return;
    request = new XMLHttpRequest();
    state.hidden = bar.hidden = false;
    bar.value = 0;
    button.disabled = true;
    say("The Domain checks whether it has room for the file.");
    const refusal = await findRefusal(file);
    if (refusal) return fail(refusal);
    cancel.hidden = false;
    const begin = performance.now();
    request.upload.onprogress = (event) => {
      const seconds = (performance.now() - begin) / 1000;
      const speed = event.loaded / Math.max(0.1, seconds);
      const left = Math.ceil((event.total - event.loaded) / speed);
      if (event.loaded < event.total) {
        bar.value = event.loaded / event.total;
        say(`${size(event.loaded)} of ${size(event.total)}, ${size(speed)}/s, ${time(left)} left`);
      } else {
        bar.removeAttribute("value"); // nobody knows how long it takes to read the file
        say(`All ${size(event.total)} are sent. The Domain reads the file.`);
      }
    };
    request.onload = () => {
      const { responseURL, response, status } = request;
      const found = response && response.querySelector(".lead, .alert strong");
      if (responseURL === action) return fail(found ? found.textContent : `The Domain refused the file (${status}).`);
      // The page of the file; if it could not be read, the page says why and how to describe it.
      bar.value = 1;
      cancel.hidden = true;
      say(found ? found.textContent : "The file is sent.", status >= 400);
      request = null;
      location.assign(responseURL);
    };
    request.onerror = () => fail("The connection broke. The part that arrived was removed.");
    request.onabort = () => fail("Cancelled. Nothing was kept.");
    request.open("POST", action);
    request.responseType = "document";
    request.send(new FormData(form));
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  input.addEventListener("change", send);
  cancel.addEventListener("click", () => request && request.abort());
  addEventListener("beforeunload", (event) => {
    if (request) event.preventDefault(); // the browser asks whether to leave, which ends the upload
  });
  for (const kind of ["dragover", "dragleave", "drop"]) {
    form.addEventListener(kind, (event) => {
      event.preventDefault();
      form.classList.toggle("over", kind === "dragover");
      if (kind === "drop" && event.dataTransfer.files.length) {
        input.files = event.dataTransfer.files;
        send();
      }
    });
  }
})();
