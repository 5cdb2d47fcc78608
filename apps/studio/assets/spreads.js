/* Histograms of a run by step: rewards, lengths, margins, token KL; a slider over the steps, a grey outline to compare. */
(() => {
  const Lab = (window.Lab = window.Lab || {});

  /** `ask(wish)` gives the histograms of a step; `pick(step)` shows the answers of that step. */
  Lab.spreads = ({ plotly, ask, pick }) => {
    const { el } = Lab;
    const state = { run: null, newest: null, step: null, against: null, steps: [] };
    const plots = new Map();
    const slider = el("input", { type: "range", min: 0, max: 0, value: 0, step: 1, "aria-label": "Step of the histograms", style: { flex: "1 1 12rem", minWidth: "8rem" },
      on: { input: () => { state.step = Number(slider.value) === state.steps.length - 1 ? null : state.steps[Number(slider.value)]; draw(); }, change: () => pick(state.steps[Number(slider.value)]) } });
    const label = el("output", { class: "num" });
    const then = el("select", { "aria-label": "Step to compare the histograms with", on: { change: () => { state.against = Number(then.value); draw(); } } });
    const grid = el("div", { class: "plots" });
    const inside = el("div", { class: "stack" }, el("div", { class: "row" }, slider, label, el("label", { class: "row small muted" }, "beside", then)), grid);
    const node = el("details", { class: "card", open: true, hidden: true }, el("summary", { text: "Histograms" }), inside);
    node.addEventListener("toggle", () => { if (node.open) draw(); });
    let busy = false, again = false;

    async function draw() {
      if (!node.open || node.hidden) return;
      if (busy) { again = true; return; }
      busy = true;
      try { await drawOnce(); } finally { busy = false; }
      if (again) { again = false; draw(); }
    }
    async function drawOnce() {
      const reply = await ask({ step: state.step, against: state.against });
      if (reply.error || !reply.cards.length) { grid.replaceChildren(el("p", { class: "muted", text: reply.error || "Nothing is counted in this run yet." })); plots.clear(); return; }
      state.steps = reply.steps;
      slider.max = reply.steps.length - 1;
      slider.value = reply.steps.indexOf(reply.now);
      slider.setAttribute("aria-valuetext", `step ${reply.now}`);
      label.textContent = `step ${reply.now}`;
      Lab.fill(then, [reply.steps, reply.then], () => reply.steps.map((s) => el("option", { value: s, text: `step ${s}`, selected: s === reply.then })));
      const Plotly = await Lab.plotly(plotly);
      for (const [key, p] of plots) if (!reply.cards.some((c) => c.key === key)) { Plotly.purge(p.area); p.node.remove(); plots.delete(key); }
      if (!plots.size) grid.replaceChildren();
      for (const card of reply.cards) {
        const p = plots.get(card.key) || make(card);
        p.area.setAttribute("aria-label", `${card.title} at step ${reply.now}`);
        Plotly.react(p.area, card.figure.data, { ...card.figure.layout, autosize: true, height: undefined }, { ...Lab.PLOT, displayModeBar: false });
      }
    }
    function make(card) {
      const area = el("div", { class: "area", role: "group", style: { height: "190px" } });
      const p = { area, node: el("article", { class: "plot histogram", "data-card": card.key }, el("header", {}, el("div", {}, el("h3", { text: card.title }), el("div", { class: "small muted", text: card.hint }))), area) };
      plots.set(card.key, p);
      grid.append(p.node);
      return p;
    }
    /** Follows a run: `newest` is the last step that has histograms, null where there are none. */
    function follow(run, newest) {
      node.hidden = newest === null || newest === undefined;
      if (run === state.run && newest === state.newest) return;
      if (run !== state.run) { state.step = null; state.against = null; }
      state.run = run; state.newest = newest;
      draw();
    }
    Lab.onTheme(draw);
    return { node, follow };
  };
})();
