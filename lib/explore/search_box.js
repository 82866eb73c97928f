// A box to type a name in. Each message carries the whole text, so that none can be asked for half typed.
function render({ model, el }) {
  // JupyterLab takes arrow keys and Enter for its cells, wherever they are pressed, unless told not to.
  el.setAttribute("data-lm-suppress-shortcuts", "true");
  const form = el.appendChild(document.createElement("form"));
  form.className = "search-box";
  const box = form.appendChild(document.createElement("input"));
  box.type = "text";
  box.placeholder = model.get("placeholder");
  box.setAttribute("aria-label", model.get("placeholder"));
  box.autocomplete = "off";
  box.spellcheck = false;
  const button = form.appendChild(document.createElement("button"));
  button.textContent = "Look up";
  button.title = "show what was typed";

  box.addEventListener("keydown", (event) => event.stopPropagation());
  box.addEventListener("input", () => model.send({ typed: box.value }));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    model.send({ find: box.value });
  });
  const put = (content) => {
    if ("put" in content) box.value = content.put;
  };
  model.on("msg:custom", put);
  return () => model.off("msg:custom", put);
}

export default { render };
