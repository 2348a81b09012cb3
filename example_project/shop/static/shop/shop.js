"use strict";

// Keeps a part of the page up to date: asks each second, changes the page only when there is something new.
// Without this script the page says the same after a reload.
const PERIOD_MS = 1000;

function keepUpToDate(region) {
  const headline = document.querySelector("[data-live-headline]");
  const offline = document.querySelector("[data-live-offline]");

  function show(state) {
    if (state.version === region.dataset.version) return;
    const hadFocus = region.contains(document.activeElement);
    region.dataset.version = state.version;
    region.innerHTML = state.html;
    if (headline && headline.textContent !== state.headline) headline.textContent = state.headline;
    // A button that was focused is gone with the old content.
    if (hadFocus && headline) headline.focus();
  }

  async function ask() {
    let finished = false;
    try {
      const response = await fetch(region.dataset.live, { headers: { Accept: "application/json" } });
      if (!response.ok) throw new Error(response.statusText);
      const state = await response.json();
      show(state);
      finished = state.finished;
      offline.hidden = true;
    } catch {
      offline.hidden = false;
    }
    if (!finished) setTimeout(ask, PERIOD_MS);
  }

  if (!("finished" in region.dataset)) setTimeout(ask, PERIOD_MS);
}

function keepTotal(form) {
  const total = form.querySelector("[data-total]");
  const fields = [...form.querySelectorAll("input[data-price]")];

  function add() {
    const cents = fields.reduce((sum, field) => sum + Math.round(field.dataset.price * 100) * (parseInt(field.value, 10) || 0), 0);
    total.hidden = cents === 0;
    total.querySelector("output").textContent = `${(cents / 100).toFixed(2)} €`;
  }

  form.addEventListener("input", add);
  add();
}

document.querySelectorAll("[data-live]").forEach(keepUpToDate);
document.querySelectorAll("form.shelf").forEach(keepTotal);
document.querySelectorAll("form.say input[type=text]").forEach((field) => field.focus());
