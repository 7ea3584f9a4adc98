// Runs before anything else: the theme, the menu, and what htmx may not do.
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
  // The menu is open where it has a line of its own, and folded on phones.
  const isWide = matchMedia("(min-width: 641px)");
  function fold() {
    for (const one of document.querySelectorAll(".menu, .menu details")) {
      one.open = isWide.matches || (one.parentElement.closest(".menu") !== null && one.querySelector("[aria-current]") !== null);
    }
  }
  isWide.addEventListener("change", fold);

  const observer = new MutationObserver(register);
  function register() {
    fold();
    if (!window.htmx) return;
    observer.disconnect();
    window.htmx.registerExtension("pygrid", {
      init: (api) => api.initSecurity(policy, refuse, refuse),
    });
  }
  observer.observe(document, { childList: true, subtree: true });
  document.addEventListener("DOMContentLoaded", register);
})();
