// A table whose rows are chosen with mouse or keys and whose headings sort. All state is the Python side's.
function render({ model, el }) {
  // JupyterLab takes arrow keys and Enter for its cells, wherever they are pressed, unless told not to.
  el.setAttribute("data-lm-suppress-shortcuts", "true");
  const frame = document.createElement("div");
  frame.className = "correlates";
  frame.tabIndex = 0;
  const table = frame.appendChild(document.createElement("table"));
  table.setAttribute("role", "grid");
  el.appendChild(frame);

  function draw() {
    const columns = model.get("columns");
    const head = document.createElement("thead");
    const names = head.insertRow();
    for (const column of columns) {
      const cell = names.appendChild(document.createElement("th"));
      cell.className = column.align;
      cell.title = column.tip;
      const sorts = column.key === model.get("by");
      if (column.sortable) {
        const button = cell.appendChild(document.createElement("button"));
        button.textContent = column.label + (sorts ? (model.get("reverse") ? " ▲" : " ▼") : "");
        button.onclick = () => model.send({ sort: column.key });
        if (sorts) cell.setAttribute("aria-sort", model.get("reverse") ? "ascending" : "descending");
      } else {
        cell.textContent = column.label;
      }
    }
    const body = document.createElement("tbody");
    model.get("rows").forEach((words, i) => {
      const row = body.insertRow();
      row.onclick = () => choose(i);
      words.forEach((word, k) => {
        const cell = row.insertCell();
        cell.className = columns[k].align;
        cell.textContent = word;
      });
    });
    table.replaceChildren(head, body);
    mark(true);
  }

  function mark(jump) {
    const at = model.get("ids").indexOf(model.get("chosen"));
    [...table.tBodies[0].rows].forEach((row, i) => row.setAttribute("aria-selected", i === at));
    if (at < 0) return;
    const row = table.tBodies[0].rows[at];
    const above = row.offsetTop - table.tHead.offsetHeight - frame.scrollTop;
    const below = row.offsetTop + row.offsetHeight - frame.scrollTop - frame.clientHeight;
    if (above < 0 || below > 0) {
      frame.scrollTop += above < 0 ? above : below + (jump ? frame.clientHeight / 2 : 0);
    }
  }

  function choose(i) {
    const ids = model.get("ids");
    model.set("chosen", ids[Math.max(0, Math.min(ids.length - 1, i))]);
    model.save_changes();
  }

  frame.addEventListener("keydown", (event) => {
    event.stopPropagation();
    const at = model.get("ids").indexOf(model.get("chosen"));
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + 12, PageUp: at - 12, Home: 0, End: 1e9 };
    if (event.key in to) {
      event.preventDefault();
      choose(to[event.key]);
    }
  });
  model.on("change:rows", draw);
  model.on("change:by", draw);
  model.on("change:reverse", draw);
  model.on("change:chosen", () => mark(false));
  draw();
}

export default { render };
