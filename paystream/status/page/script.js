// Keeps the page up to date. Each part is replaced only when it has changed, so that focus, selection and what a screen
// reader says stay where they are.
"use strict";
(() => {
  const EVERY_MS = 3000;
  const state = document.getElementById("state");
  const stale = document.getElementById("stale");
  const pause = document.getElementById("pause");
  const shown = {};
  let paused = false;
  let failures = 0;

  function show(parts) {
    for (const [id, html] of Object.entries(parts)) {
      if (shown[id] === html) continue;
      shown[id] = html;
      if (id === "word") {
        state.dataset.word = html;
        document.title = `Paystream: ${html}`;
      } else {
        const place = document.getElementById(id);
        if (place) place.innerHTML = html; // escaped by the server
      }
    }
  }

  // A table that is wider than the screen can be scrolled with the arrow keys.
  function scrollable() {
    for (const one of document.querySelectorAll(".scroll")) {
      if (one.scrollWidth > one.clientWidth) one.tabIndex = 0;
      else if (one !== document.activeElement) one.removeAttribute("tabindex");
    }
  }

  async function update() {
    if (!paused && !document.hidden) {
      try {
        const answer = await fetch("/parts.json", { signal: AbortSignal.timeout(20000) });
        if (!answer.ok) throw new Error(answer.status);
        show(await answer.json());
        scrollable();
        failures = 0;
        stale.textContent = "";
        document.body.classList.remove("stale");
      } catch {
        failures += 1;
        if (failures === 2) {
          stale.textContent = "The dashboard's server does not answer. What is shown is old.";
          document.body.classList.add("stale");
        }
      }
    }
    setTimeout(update, EVERY_MS);
  }

  addEventListener("resize", scrollable);
  scrollable();
  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
  });
  update();
})();
