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
  let request = null;

  const size = (bytes) => (bytes < 1e6 ? `${(bytes / 1e3).toFixed(0)} kB` : `${(bytes / 1e6).toFixed(1)} MB`);

  function fail(words) {
    request = null;
    text.textContent = words;
    cancel.hidden = true;
    form.querySelector("button.primary").disabled = false;
    form.querySelector("button.primary").textContent = "Try again";
  }

  function send() {
    const file = input.files[0];
    if (!file || request) return;
    state.hidden = cancel.hidden = false;
    if (file.size > Number(form.dataset.max)) return fail(`${file.name} is larger than the limit of this Domain.`);
    const begin = performance.now();
    const body = new FormData(form);
    request = new XMLHttpRequest();
    request.upload.onprogress = (event) => {
      const seconds = (performance.now() - begin) / 1000;
      const speed = event.loaded / Math.max(0.1, seconds);
      bar.value = event.total ? event.loaded / event.total : 0;
      const left = Math.ceil((event.total - event.loaded) / speed);
      text.textContent =
        event.loaded < event.total
          ? `${size(event.loaded)} of ${size(event.total)}, ${size(speed)}/s, ${left} s left`
          : "The Domain reads the file.";
    };
    request.onload = () => {
      if (request.status < 400) return location.assign(request.responseURL);
      const problem = request.response && request.response.querySelector(".alert strong");
      fail(problem ? problem.textContent : `The Domain refused the file (${request.status}).`);
    };
    request.onerror = () => fail("The connection broke. The part that arrived was removed.");
    request.onabort = () => fail("Cancelled. Nothing was kept.");
    form.querySelector("button.primary").disabled = true;
    request.open("POST", form.action);
    request.responseType = "document";
    request.send(body);
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  input.addEventListener("change", send);
  cancel.addEventListener("click", () => request && request.abort());
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
