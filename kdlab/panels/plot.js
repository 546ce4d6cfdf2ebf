// Plots in widgets. plotly.js comes from the kernel once a page, compressed, when the first plot asks for
// it; it is no part of any widget's state, so a page that is loaded again has little to wait for.
//
// `plotArea` keeps one <div> as the JSON text that it is given says. It draws only while it can be seen,
// and the latest description wins.

const SHARED = Symbol.for("kdlab.plotly");
const ASK_AGAIN = 6000; // ms without plotly.js until another plot may ask for it

async function unpack(buffer) {
  const stream = new Blob([buffer]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).blob();
}

// plotly.js, from the page if a plot has it already, else from the kernel.
function plotly(model) {
  const shared = (globalThis[SHARED] ??= { ready: null, deliver: null, asked: -Infinity });
  shared.ready ??= new Promise((resolve) => (shared.deliver = resolve));
  if (!shared.lib && performance.now() - shared.asked > ASK_AGAIN) {
    shared.asked = performance.now();
    const hear = async (message, buffers) => {
      if (message?.do !== "plotly") return;
      model.off("msg:custom", hear);
      if (shared.lib) return;
      const url = URL.createObjectURL(new Blob([await unpack(buffers[0])], { type: "text/javascript" }));
      shared.lib = (await import(url)).default;
      URL.revokeObjectURL(url);
      shared.deliver(shared.lib);
    };
    model.on("msg:custom", hear);
    model.send({ do: "plotly" });
  }
  const late = setTimeout(() => { if (!shared.lib) plotly(model); }, ASK_AGAIN + 500);
  return shared.ready.then((lib) => { clearTimeout(late); return lib; });
}

// Cells of a map, which have a row and a column, are counted row by row.
const place = (p) => { const at = p.pointNumber ?? p.pointIndex; return Array.isArray(at) ? at[0] * p.fullData.z[at[0]].length + at[1] : at; };
const places = (event) => (event?.points ?? []).map((p) => [p.curveNumber, place(p)]);

// What the pointer does on the plot, told to the kernel. A figure that is drawn anew ends a selection by
// itself, and says so as if the user had; that is not told.
function listen(div, model, drawing) {
  const tell = (what, event) => drawing() || model.send({ do: what, points: event && places(event) });
  div.on("plotly_click", (event) => tell("click", event));
  div.on("plotly_selected", (event) => event && tell("select", event));
  div.on("plotly_deselect", () => tell("select", null));
}

function plotArea(model, tag = "kd-figure") {
  const div = document.createElement("div");
  div.className = tag;
  div.setAttribute("role", "img");
  let wanted = null, drawn = null, busy = false, gone = false, lib = null;
  const visible = () => div.isConnected && div.offsetWidth > 0;
  const draw = async () => {
    if (busy || gone || !visible()) return;
    busy = true;
    lib ??= await plotly(model);
    while (wanted !== drawn && !gone && visible()) {
      const text = wanted;
      const { data, layout, config, frames, alt } = JSON.parse(text);
      div.setAttribute("aria-label", alt ?? "");
      div.style.minHeight = `${layout.height ?? 0}px`;
      const first = !div.data;
      if (!first && div._transitionData?._frames?.length) await lib.deleteFrames(div);
      await lib.react(div, data, layout, { displaylogo: false, responsive: false, ...config });
      if (frames?.length) await lib.addFrames(div, frames);
      if (first) listen(div, model, () => busy);
      drawn = text;
    }
    busy = false;
  };
  let width = 0;
  const sized = new ResizeObserver(() => {
    if (!visible() || div.offsetWidth === width) return;
    width = div.offsetWidth;
    if (wanted !== drawn) draw();
    else if (div.data) lib?.Plots.resize(div);
  });
  sized.observe(div);
  return {
    element: div,
    update: (text) => { wanted = text || null; if (wanted) draw(); },
    picture: (format) => { // on paper of its own, which on the page shines through
      const paper = document.body.dataset.jpThemeLight === "false" ? "#171a1f" : "#ffffff";
      const figure = { data: div.data, layout: { ...div.layout, paper_bgcolor: paper } };
      return lib?.toImage(figure, { format, scale: format === "png" ? 2 : 1, width: div.offsetWidth, height: div.offsetHeight });
    },
    off: () => { gone = true; sized.disconnect(); if (div.data) lib?.purge(div); },
  };
}
