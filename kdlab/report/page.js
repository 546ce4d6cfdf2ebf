"use strict";
(function () {
  const pairs = JSON.parse(document.getElementById("colour-pairs").textContent);
  const media = window.matchMedia("(prefers-color-scheme: dark)");
  const calm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  const figures = {};

  // exchange every paired colour; the figures are made for light paper
  function recolour(value, dark) {
    if (!dark) return value;
    if (typeof value === "string") return value[0] === "#" ? pairs[value.toLowerCase()] || value : value;
    if (Array.isArray(value)) return value.map((v) => recolour(v, dark));
    if (value && typeof value === "object") {
      const out = {};
      for (const key of Object.keys(value)) out[key] = recolour(value[key], dark);
      return out;
    }
    return value;
  }

  function draw(key, dark) {
    const own = figures[key];
    const json = recolour(own.json, dark);
    const copy = JSON.parse(JSON.stringify({ data: json.data, layout: json.layout, frames: json.frames || [] }));
    const node = document.getElementById(key);
    const options = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
      toImageButtonOptions: { filename: key, scale: 2 } };
    own.dark = dark;
    return Plotly.newPlot(node, copy.data, copy.layout, options)
      .then(() => (copy.frames.length ? Plotly.addFrames(node, copy.frames) : null))
      .then(() => (own.moved ? show(key, own.place) : null));
  }

  function show(key, place) {
    const own = figures[key];
    own.place = place;
    own.moved = true;
    const move = own.redraw || calm ? 0 : 300;
    return Plotly.animate(key, [own.labels[place]], {
      mode: "immediate", transition: { duration: move }, frame: { duration: move, redraw: own.redraw },
    }).catch(() => null); // a newer position has taken over
  }

  function connect(control) {
    const key = control.dataset.slider;
    const input = control.querySelector("input");
    const output = control.querySelector("output");
    const button = control.querySelector("button");
    const own = figures[key];
    own.labels = JSON.parse(control.dataset.labels);
    own.redraw = control.dataset.redraw === "true";
    own.place = Number(input.value);
    let timer = null;
    function go(place) {
      input.value = place;
      output.textContent = own.labels[place];
      input.setAttribute("aria-valuetext", own.labels[place]);
      show(key, place);
    }
    function stop() {
      clearInterval(timer);
      timer = null;
      button.textContent = "▶";
    }
    input.addEventListener("input", () => { stop(); go(Number(input.value)); });
    button.addEventListener("click", () => {
      if (timer !== null) return stop();
      button.textContent = "❚❚";
      go(own.place >= own.labels.length - 1 ? 0 : own.place + 1);
      timer = setInterval(() => (own.place >= own.labels.length - 1 ? stop() : go(own.place + 1)), 900);
    });
  }

  for (const node of document.querySelectorAll("script[data-figure]"))
    figures[node.dataset.figure] = { json: JSON.parse(node.textContent), moved: false };
  for (const control of document.querySelectorAll("[data-slider]")) connect(control);
  const drawn = Object.keys(figures).map((key) => draw(key, media.matches));
  Promise.all(drawn).then(() => document.documentElement.setAttribute("data-ready", "true"));
  media.addEventListener("change", () => { for (const key of Object.keys(figures)) draw(key, media.matches); });
  window.addEventListener("beforeprint", () => { for (const key of Object.keys(figures)) if (figures[key].dark) draw(key, false); });
  window.addEventListener("afterprint", () => { for (const key of Object.keys(figures)) if (media.matches) draw(key, true); });
})();
