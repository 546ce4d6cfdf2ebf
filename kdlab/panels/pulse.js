// An invisible widget that tells when the page has drawn. Behind parts.js in one module.

function render({ model, el }) {
  el.style.display = "none";
  return keepPace(model);
}

export default { render };
