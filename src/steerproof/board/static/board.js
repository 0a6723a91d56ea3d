// The board's script: live parts, arrow keys in the grid, filters that apply at once, the one-time
// link. Every page works without it.
"use strict";

(() => {
  const news = document.getElementById("news");

  // Live: the stream says only that something changed; the page is then loaded again in the
  // background and its live parts are exchanged.
  const feed = document.body.dataset.feed;
  let pulse = document.body.dataset.pulse || "";
  let source = null;
  let loading = false;
  let again = false;

  function busy(part) {
    // Never take away what somebody is typing or has opened.
    if (part.querySelector("details[open] textarea")) return true;
    if ([...part.querySelectorAll("textarea")].some((box) => box.value !== box.defaultValue)) return true;
    const active = document.activeElement;
    return part.contains(active) && active.matches("input, textarea, select");
  }

  function exchange(fresh) {
    // A part that this page does not have yet: the page has a new shape.
    const main = document.getElementById("main");
    const grown = [...fresh.querySelectorAll("[data-live]")].some((part) => !document.getElementById(part.id));
    if (grown && !busy(main)) {
      main.replaceChildren(...[...fresh.getElementById("main").childNodes].map((node) => document.importNode(node, true)));
    }
    for (const part of document.querySelectorAll("[data-live]")) {
      const next = fresh.getElementById(part.id);
      if (!next || next.isEqualNode(part) || busy(part)) continue;
      const active = part.contains(document.activeElement) ? document.activeElement : null;
      const address = active && active.getAttribute("href");
      const scrolls = [...part.querySelectorAll(".scroll")].map((box) => box.scrollLeft);
      const open = [...part.querySelectorAll("details")].map((one) => one.open);
      part.replaceChildren(...[...next.childNodes].map((node) => document.importNode(node, true)));
      part.className = next.className;
      part.querySelectorAll(".scroll").forEach((box, i) => { box.scrollLeft = scrolls[i] || 0; });
      part.querySelectorAll("details").forEach((one, i) => { one.open = one.open || Boolean(open[i]); });
      if (address) {
        const same = [...part.querySelectorAll("a[href]")].find((a) => a.getAttribute("href") === address);
        if (same) same.focus({ preventScroll: true });
      }
    }
    const status = fresh.getElementById("live-status");
    const units = fresh.querySelector("#live-units .progress span");
    const words = [status && status.innerText || status && status.textContent, units && units.textContent];
    const said = words.filter(Boolean).map((text) => text.replace(/\s+/g, " ").trim()).join(", ");
    if (news.textContent !== said) news.textContent = said || "The page was brought up to date.";
  }

  function reload() {
    if (loading) { again = true; return; }
    loading = true;
    const request = new XMLHttpRequest();
    request.open("GET", location.pathname + location.search);
    request.responseType = "document";
    request.onload = () => { if (request.status === 200 && request.response) exchange(request.response); };
    request.onloadend = () => {
      loading = false;
      if (again) { again = false; reload(); }
    };
    request.send();
  }

  function listen() {
    if (!feed || source) return;
    source = new EventSource(`${feed}?seen=${encodeURIComponent(pulse)}`);
    source.addEventListener("change", (event) => { pulse = event.data; reload(); });
    source.onerror = () => {
      // Open anew with what was seen last, so that nothing is missed or repeated.
      source.close();
      source = null;
      setTimeout(listen, 2000);
    };
  }

  function hush() {
    if (source) source.close();
    source = null;
  }

  if (feed) {
    listen();
    document.addEventListener("visibilitychange", () => (document.hidden ? hush() : listen()));
    addEventListener("pagehide", hush);
    addEventListener("pageshow", (event) => { if (event.persisted) { listen(); reload(); } });
  }

  // Filters apply when a choice is made.
  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-submit]")) event.target.form.requestSubmit();
  });

  // Keys: / to the filter, [ and ] to the neighbouring cell, arrows in the grid.
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

  function move(link, [down, right]) {
    const rows = [...link.closest("tbody").rows].map((row) => [...row.cells]);
    let row = rows.findIndex((cells) => cells.includes(link.parentElement));
    let column = rows[row].indexOf(link.parentElement);
    for (;;) {
      row += down;
      column += right;
      if (!rows[row] || !rows[row][column]) return;
      const target = rows[row][column].querySelector("a.cell");
      if (target) { target.focus(); return; }
    }
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const link = event.target.closest && event.target.closest("a.cell");
    if (link && steps[event.key]) {
      event.preventDefault();
      move(link, steps[event.key]);
      return;
    }
    if (event.target.matches && event.target.matches("input, textarea, select")) return;
    const target = [...document.querySelectorAll("[data-key]")].find((one) => one.dataset.key === event.key);
    if (!target) return;
    event.preventDefault();
    if (target.matches("a")) target.click(); else target.focus();
  });

  // The one-time link carries its code behind #, where no server log sees it.
  const form = document.getElementById("one-time");
  if (form && location.hash.length > 20) {
    form.elements.code.value = decodeURIComponent(location.hash.slice(1));
    history.replaceState(null, "", location.pathname + location.search);
    form.requestSubmit();
  }
})();
