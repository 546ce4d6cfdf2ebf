// Figures of notebooks: each is drawn when it comes into view, with the plotly.js of the book.
let asked;
function plotly(base) {
  asked ??= new Promise((resolve, fail) => {
    const script = document.createElement("script");
    script.src = new URL("plotly.min.js", base);
    script.onload = () => resolve(window.Plotly);
    script.onerror = fail;
    document.head.append(script);
  });
  return asked;
}
const base = document.currentScript.src;
const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    seen.unobserve(target);
    const figure = JSON.parse(target.querySelector("script").textContent);
    plotly(base).then((lib) => lib.newPlot(target, { ...figure, config: { displaylogo: false, responsive: true } }));
  }
}, { rootMargin: "400px" });
document.querySelectorAll(".kd-figure").forEach((figure) => seen.observe(figure));
