"use strict";
(() => {
  const { charts, points, suspects } = read("data");
  const pictures = read("pictures");

  // Pictures ------------------------------------------------------------------------------
  for (const image of all("img[data-row]")) {
    const uri = pictures[image.dataset.row];
    if (uri) image.src = uri;
    else image.replaceWith(make("span", "", { hidden: "" }));
  }

  // Tables --------------------------------------------------------------------------------
  const valueOf = (row, column, kind) => {
    const cell = row.cells[column];
    const value = cell.dataset.value ?? cell.textContent.trim();
    return kind === "number" ? (value === "" ? NaN : Number(value)) : value;
  };
  const sort = (button) => {
    const header = button.closest("th");
    const body = header.closest("table").tBodies[0];
    const kind = button.dataset.kind;
    const before = header.getAttribute("aria-sort");
    // numbers first from the top: the best is what one looks for
    const first = kind === "number" ? "descending" : "ascending";
    const second = kind === "number" ? "ascending" : "descending";
    const direction = before === first ? second : first;
    for (const other of header.parentNode.cells) {
      if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
    }
    header.setAttribute("aria-sort", direction);
    const sign = direction === "ascending" ? 1 : -1;
    const rows = [...body.rows].map((row) => [valueOf(row, header.cellIndex, kind), row]);
    rows.sort(([a], [b]) => {
      if (kind !== "number") return sign * a.localeCompare(b, undefined, { numeric: true });
      if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
      return sign * (a - b);
    });
    body.append(...rows.map(([, row]) => row));
  };
  for (const button of all("button.sort")) button.addEventListener("click", () => sort(button));

  const filter = document.getElementById("filter");
  filter.addEventListener("input", () => {
    const wanted = filter.value.trim().toLowerCase();
    const rows = [...document.getElementById("heads").tBodies[0].rows];
    for (const row of rows) row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
    const shown = rows.filter((row) => !row.hidden).length;
    document.getElementById("filtered").textContent = wanted ? `${shown} of ${rows.length} heads` : "";
  });

  chartsFrom(charts);

  // Confusion matrix ----------------------------------------------------------------------
  const matrix = charts.confusion;
  if (matrix) {
    const element = document.getElementById("confusion");
    const n = matrix.names.length;
    const counts = Array.from({ length: n }, () => new Array(n).fill(0));
    matrix.cells[0].forEach((row, place) => { counts[row][matrix.cells[1][place]] = matrix.cells[2][place]; });
    const shares = counts.map((row, place) => row.map((count) => count / Math.max(matrix.support[place], 1)));
    element.style.minWidth = `${matrix.min_width}px`;
    let chosen = null;
    const status = document.getElementById("cell");
    const strip = document.getElementById("cell-pictures");
    const say = (row, column) => {
      const share = Math.round(100 * shares[row][column]);
      const what = row === column ? "taken for what it is" : `taken for ${matrix.names[column]}`;
      status.textContent = `${matrix.names[row]}, ${what}: ${counts[row][column]} of ${matrix.support[row]} images (${share} %)`;
    };
    const outline = () => chosen ? [{
      type: "rect", x0: chosen[1] - .5, x1: chosen[1] + .5, y0: chosen[0] - .5, y1: chosen[0] + .5,
      line: { color: colour("--second"), width: 3 },
    }] : [];
    const choose = (row, column) => {
      chosen = [row, column];
      say(row, column);
      Plotly.relayout(element, { shapes: outline() });
      const found = points ? points.row.map((_, place) => place).filter((place) => !points.held_out[place] &&
        points.given[place] === row && points.predicted[place] === column && pictures[points.row[place]]) : [];
      strip.replaceChildren(...found.slice(0, 24).map((place) => make("img", undefined, {
        src: pictures[points.row[place]], alt: points.id[place], title: points.id[place], width: 80, height: 80,
      })));
    };
    const written = matrix.written ? counts.map((row) => row.map((count) => count || "")) : undefined;
    redraws.push(() => {
      const names = matrix.names.map(plain);
      draw(element, [{
        type: "heatmap", z: shares, zmin: 0, zmax: 1, xgap: n > 60 ? 0 : 1, ygap: n > 60 ? 0 : 1, showscale: false,
        colorscale: [[0, "var(--cell-0)"], [1, "var(--cell-1)"]],
        text: written, texttemplate: written ? "%{text}" : undefined,
        hovertext: n > 60 ? undefined : counts.map((row, i) => row.map((count, j) =>
          `${names[i]} taken for ${names[j]}: ${count} of ${matrix.support[i]}`)),
        hovertemplate: n > 60 ? "%{z:.0%} of the class<extra></extra>" : "%{hovertext}<extra></extra>",
      }], { ...matrix.layout, dragmode: n > 60 ? "zoom" : false, shapes: outline() }, n > 60);
    });
    requestAnimationFrame(() => {
      element.on("plotly_hover", ({ points: [at] }) => say(at.y, at.x));
      element.on("plotly_unhover", () => { if (chosen) say(...chosen); });
      element.on("plotly_click", ({ points: [at] }) => choose(at.y, at.x));
    });
    element.addEventListener("keydown", (event) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!step) return;
      event.preventDefault();
      const [row, column] = chosen ?? [0, -step[1]];
      const within = (value) => Math.min(Math.max(value, 0), n - 1);
      choose(within(row + (chosen ? step[0] : 0)), within(column + step[1]));
    });
  }

  // Map -----------------------------------------------------------------------------------
  if (points) {
    const element = document.getElementById("points");
    const card = document.getElementById("card");
    const only = document.getElementById("only");
    const everything = points.x.map((_, place) => place);
    // Okabe and Ito's colours; the shape changes when they are used up
    const COLOURS = ["#e69f00", "#56b4e9", "#009e73", "#d55e00", "#0072b2", "#cc79a7", "#b8a600", "#8a8f98"];
    const SHAPES = ["circle", "diamond", "square", "triangle-up", "star", "cross", "x", "pentagon"];
    let mode = all(".toggle [data-mode]").find((button) => button.getAttribute("aria-pressed") === "true").dataset.mode;
    let visible = everything;
    let chosen = null;

    const trace = (places, name, marker) => ({
      type: "scatter", mode: "markers", name, hoverinfo: "none", customdata: places,
      x: places.map((place) => points.x[place]), y: places.map((place) => points.y[place]),
      marker: {
        size: 8, opacity: .85, line: { width: 1.2, color: marker.color }, ...marker,
        symbol: places.map((place) => marker.symbol + (points.held_out[place] ? "-open" : "")),
      },
    });
    const traces = () => {
      if (mode === "class") {
        return points.classes.map((name, number) => trace(
          visible.filter((place) => points.given[place] === number), plain(name),
          { color: COLOURS[number % COLOURS.length], symbol: SHAPES[Math.floor(number / COLOURS.length) % SHAPES.length] },
        )).filter((one) => one.customdata.length);
      }
      if (mode === "right") {
        return [
          trace(visible.filter((place) => points.right[place]), "right", { color: "var(--accent)", symbol: "circle", opacity: .45 }),
          trace(visible.filter((place) => !points.right[place]), "wrong", { color: "var(--wrong)", symbol: "x", size: 8 }),
        ];
      }
      const values = visible.map((place) => points[mode][place]);
      const one = trace(visible, mode, { symbol: "circle" });
      Object.assign(one.marker, { color: values, colorscale: "Viridis", showscale: true, line: { width: 0 }, colorbar: { thickness: 12, outlinewidth: 0 } });
      return [one];
    };
    const ring = () => ({
      type: "scatter", mode: "markers", hoverinfo: "skip", showlegend: false,
      x: chosen === null ? [] : [points.x[chosen]], y: chosen === null ? [] : [points.y[chosen]],
      marker: { size: 20, symbol: "circle-open", color: "var(--ink)", line: { width: 3 } },
    });
    const narrow = matchMedia("(max-width: 760px)");
    const show = () => {
      const one = only ? only.value : "";
      visible = everything.filter((place) => one === "" ||
        (points.labels ? points.labels[place].includes(Number(one)) : points.given[place] === Number(one)));
      document.getElementById("shown").textContent = `${visible.length} images`;
      return draw(element, [...traces(), ring()], {
        height: narrow.matches ? 460 : 620, dragmode: narrow.matches ? false : "pan", hovermode: "closest",
        margin: { l: 8, r: 8, t: 36, b: 8 },
        xaxis: { showticklabels: false, zeroline: false, showgrid: false, mirror: true, showline: true },
        yaxis: { showticklabels: false, zeroline: false, showgrid: false, mirror: true, showline: true },
        legend: narrow.matches || points.classes.length < 4 ? { orientation: "h", y: -.02 } : {},
        showlegend: mode === "right" || (mode === "class" && points.classes.length <= 40),
      }, true);
    };
    const said = (list, place) => typeof list[place] === "number" ? points.classes[list[place]] : list[place];
    const describe = (place) => {
      const facts = make("dl");
      const add = (name, value) => facts.append(make("dt", name), make("dd", value));
      add(points.value ? "true" : "given", said(points.given, place));
      add("predicted", said(points.predicted, place));
      if (points.p) add("probability", points.p[place]);
      add("part", points.held_out[place] ? "held out" : "learnt from");
      const uri = pictures[points.row[place]];
      const image = uri ? [make("img", undefined, { src: uri, alt: points.id[place] })] : [];
      card.replaceChildren(...image, make("p", points.id[place], { class: "name" }), facts);
    };
    const choose = (place) => {
      chosen = place;
      describe(place);
      const { x, y } = ring();
      Plotly.restyle(element, { x: [x], y: [y] }, [element.data.length - 1]);
    };
    redraws.push(show);
    requestAnimationFrame(() => {
      element.on("plotly_hover", ({ points: [at] }) => describe(at.customdata));
      element.on("plotly_unhover", () => { if (chosen !== null) describe(chosen); });
      element.on("plotly_click", ({ points: [at] }) => choose(at.customdata));
    });
    const spans = [points.x, points.y].map((values) =>
      values.reduce((most, value) => Math.max(most, value), -Infinity) - values.reduce((least, value) => Math.min(least, value), Infinity) || 1);
    element.addEventListener("keydown", (event) => {
      const step = { ArrowUp: [0, 1], ArrowDown: [0, -1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[event.key];
      if (!step || !visible.length) return;
      event.preventDefault();
      if (chosen === null || !visible.includes(chosen)) return choose(visible[0]);
      let best = null, least = Infinity;
      for (const place of visible) {
        const dx = (points.x[place] - points.x[chosen]) / spans[0];
        const dy = (points.y[place] - points.y[chosen]) / spans[1];
        const along = dx * step[0] + dy * step[1];
        const aside = Math.abs(dx * step[1]) + Math.abs(dy * step[0]);
        // an image in this direction rather than beside it
        if (along > 1e-9 && along + 2 * aside < least) { best = place; least = along + 2 * aside; }
      }
      if (best !== null) choose(best);
    });
    if (only) only.addEventListener("change", () => { chosen = null; show(); });
    for (const button of all(".toggle [data-mode]")) {
      button.addEventListener("click", () => {
        mode = button.dataset.mode;
        for (const other of all(".toggle [data-mode]")) other.setAttribute("aria-pressed", String(other === button));
        show();
      });
    }
    narrow.addEventListener("change", show);
  }

  // The list of suspects ------------------------------------------------------------------
  const save = document.getElementById("save");
  if (save) {
    const columns = ["id", "part", "given", "suggested", "p_given", "p_suggested", "margin"];
    const quoted = (value) => /[",\r\n]/.test(value) ? `"${value.replace(/"/g, '""')}"` : value;
    const csv = () => [columns, ...suspects.map((one) => columns.map((name) => quoted(String(one[name]))))]
      .map((cells) => cells.join(",")).join("\r\n") + "\r\n";
    const done = document.getElementById("copied");
    save.addEventListener("click", () => {
      const address = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
      make("a", "", { href: address, download: "label_suspects.csv" }).click();
      setTimeout(() => URL.revokeObjectURL(address), 1000);
    });
    document.getElementById("copy").addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(csv());
      } catch {  // no permission, or an old browser
        const area = make("textarea", csv());
        document.body.append(area);
        area.select();
        document.execCommand("copy");
        area.remove();
      }
      done.textContent = `${suspects.length} rows copied`;
    });
  }

  drawAll();
})();
