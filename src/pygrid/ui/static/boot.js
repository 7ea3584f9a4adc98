// Runs before anything else: the theme, and what htmx may not do.
"use strict";
(() => {
  const theme = localStorage.getItem("pygrid-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;

  // htmx asks this policy before it parses HTML, which comes from this server only.
  const policy = window.trustedTypes
    ? window.trustedTypes.createPolicy("htmx", { createHTML: (text) => text })
    : { createHTML: (text) => text };
  function refuse() {
    throw new Error("code in attributes is not run");
  }
  const observer = new MutationObserver(register);
  function register() {
    if (!window.htmx) return;
    observer.disconnect();
    window.htmx.registerExtension("pygrid", {
      init: (api) => api.initSecurity(policy, refuse, refuse),
    });
  }
  observer.observe(document, { childList: true, subtree: true });
  document.addEventListener("DOMContentLoaded", register);
})();
