// The panel's own widgets: a search box with suggestions, and a table of rows. Python decides what they show.

// A redraw that waits while a pointer is pressed on the element, so that a click takes what was pressed.
function steady(element, draw) {
  let pressed = false;
  let waiting = false;
  const redraw = () => {
    waiting = pressed;
    if (!pressed) draw();
  };
  const release = () =>
    setTimeout(() => { // after the click that follows the release
      pressed = false;
      if (waiting) redraw();
    });
  element.addEventListener("pointerdown", () => {
    pressed = true;
    for (const end of ["pointerup", "pointercancel"]) {
      window.addEventListener(end, release, { once: true, capture: true });
    }
  });
  return redraw;
}

// One child per key, in this order. Children already there are kept, and nothing moves where the keys are the same.
function arrange(parent, keys, make) {
  const present = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  if (keys.length === present.size && keys.every((key, i) => parent.children[i].dataset.key === key)) return;
  const child = (key) => {
    const made = make();
    made.dataset.key = key;
    return made;
  };
  parent.replaceChildren(...keys.map((key) => present.get(key) ?? child(key)));
}

function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Each message carries the whole text, and Python answers it with the names to offer. Only the answer to the
// last message counts: `aria-busy` is true until it is there.
function renderSearch({ model, el }) {
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
  const list = el.appendChild(document.createElement("div"));
  list.className = "suggestions";

  let asked = 0;
  let names = [];
  const draw = steady(list, () => {
    arrange(list, names, () => document.createElement("button"));
    [...list.children].forEach((entry) => put(entry, entry.dataset.key));
  });
  const offer = (offered) => {
    names = offered;
    draw();
  };
  const ask = (what) => {
    asked = Math.random(); // not a counter: another view of this box must not take the answer for its own
    list.setAttribute("aria-busy", "true");
    model.send({ [what]: box.value, question: asked });
  };
  const find = () => {
    offer([]);
    ask("find");
  };
  const answered = (content) => {
    if (content.question !== asked) return;
    offer(content.suggestions);
    list.setAttribute("aria-busy", "false");
  };
  box.addEventListener("input", () => ask("typed"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    find();
  });
  list.addEventListener("click", (event) => {
    const entry = event.target.closest("button");
    if (!entry) return;
    box.value = entry.dataset.key;
    find();
  });
  model.on("msg:custom", answered);
  return () => model.off("msg:custom", answered);
}

// Rows are chosen with the mouse or the keys, headings sort.
function renderTable({ model, el }) {
  const heading = el.appendChild(document.createElement("div"));
  heading.className = "heading";
  const frame = el.appendChild(document.createElement("div"));
  frame.className = "correlates";
  frame.tabIndex = 0;
  const table = frame.appendChild(document.createElement("table"));
  table.setAttribute("role", "grid");
  const names = table.createTHead().insertRow();
  const body = table.createTBody();

  for (const { key, label, tip, align, sortable } of model.get("columns")) {
    const cell = names.appendChild(document.createElement("th"));
    cell.className = align;
    cell.title = tip;
    cell.dataset.key = key;
    const words = sortable ? cell.appendChild(document.createElement("button")) : cell;
    words.textContent = label;
    if (sortable) words.onclick = () => model.send({ sort: key });
  }

  function drawHeadings() {
    const [by, reverse] = [model.get("by"), model.get("reverse")];
    model.get("columns").forEach(({ key, label, sortable }, i) => {
      const cell = names.cells[i];
      if (sortable) put(cell.firstChild, label + (key === by ? (reverse ? " ▲" : " ▼") : ""));
      if (key === by) cell.setAttribute("aria-sort", reverse ? "ascending" : "descending");
      else cell.removeAttribute("aria-sort");
    });
  }

  function drawRows() {
    const columns = model.get("columns");
    arrange(body, model.get("ids"), () => {
      const row = document.createElement("tr");
      for (const { align } of columns) row.insertCell().className = align;
      return row;
    });
    model.get("rows").forEach((words, i) => words.forEach((word, k) => put(body.rows[i].cells[k], word)));
  }

  function mark(jump) {
    const at = model.get("ids").indexOf(model.get("chosen"));
    [...body.rows].forEach((row, i) => row.setAttribute("aria-selected", i === at));
    if (at < 0) return;
    const row = body.rows[at];
    const above = row.offsetTop - table.tHead.offsetHeight - frame.scrollTop;
    const below = row.offsetTop + row.offsetHeight - frame.scrollTop - frame.clientHeight;
    if (above < 0 || below > 0) {
      frame.scrollTop += above < 0 ? above : below + (jump ? frame.clientHeight / 2 : 0);
    }
  }

  let drawn = [];
  const draw = steady(table, () => {
    const state = ["heading", "ids", "rows", "by", "reverse"].map((name) => model.get(name));
    const changed = state.some((value, i) => value !== drawn[i]);
    if (changed) {
      drawn = state;
      put(heading, model.get("heading"));
      drawHeadings();
      drawRows();
    }
    mark(changed);
  });
  const choose = (id) => {
    model.set("chosen", id);
    model.save_changes();
  };
  body.addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (row) choose(row.dataset.key);
  });
  frame.addEventListener("keydown", (event) => {
    const ids = model.get("ids");
    const at = ids.indexOf(model.get("chosen"));
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + 12, PageUp: at - 12, Home: 0, End: 1e9 };
    if (event.key in to && ids.length) {
      event.preventDefault();
      choose(ids[Math.max(0, Math.min(ids.length - 1, to[event.key]))]);
    }
  });
  model.on("change", draw);
  draw();
  return () => model.off("change", draw);
}

function render({ model, el }) {
  // JupyterLab takes arrow keys and Enter for its cells, wherever they are pressed, unless told not to.
  el.setAttribute("data-lm-suppress-shortcuts", "true");
  el.addEventListener("keydown", (event) => event.stopPropagation());
  return { search: renderSearch, table: renderTable }[model.get("kind")]({ model, el });
}

export default { render };
