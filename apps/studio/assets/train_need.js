/* What a run will need, beside its Start button: memory by role and phase against what is free, the cheapest change if it
   is too much, and the time with the reason. */
(() => {
  const Lab = (window.Lab = window.Lab || {});
  if (Lab.need) return;
  const { el } = Lab;

  Lab.bytes = (n) => {
    for (const [unit, name] of [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"]]) {
      if (Math.abs(n) >= unit) return `${(n / unit).toFixed(Math.abs(n) >= 99.95 * unit ? 0 : 1)} ${name}`;
    }
    return `${n} bytes`;
  };

  /** One segment for the base, for each role, and for what the worst phase needs for the moment. */
  function segments(m) {
    const owners = new Map();
    for (const p of m.standing) {
      if (!owners.has(p.owner)) owners.set(p.owner, { name: p.owner, size: 0, parts: [], kind: p.owner === "base" ? "base" : "role" });
      const own = owners.get(p.owner);
      own.size += p.size;
      own.parts.push(`${p.name} ${Lab.bytes(p.size)}`);
    }
    const peak = m.phases.find((p) => p.name === m.peak);
    const out = [...owners.values()];
    for (const p of peak?.parts || []) out.push({ name: p.name, size: p.size, parts: [`while ${m.peak}`], kind: "phase" });
    if (m.runtime) out.push({ name: "torch itself", size: m.runtime, parts: [], kind: "base" });
    let role = 0, phase = 0;
    for (const s of out) s.tone = s.kind === "base" ? "base" : s.kind === "role" ? `role${role++ % 4}` : `phase${phase++ % 3}`;
    return out.filter((s) => s.size > 0);
  }

  function bar(m) {
    const parts = segments(m), whole = Math.max(m.total, m.free || 0) || 1;
    const words = `${Lab.bytes(m.total)} at the worst moment, while ${m.peak}${m.free ? `; ${Lab.bytes(m.free)} can be had` : ""}`;
    return el("div", { class: "memory stack" },
      el("div", { class: "membar", role: "img", "aria-label": words },
        ...parts.map((p) => el("i", { class: p.tone, style: { width: `${(100 * p.size) / whole}%` }, title: `${p.name}: ${Lab.bytes(p.size)}${p.parts.length ? ` (${p.parts.join(", ")})` : ""}` })),
        m.free && m.free < whole ? el("b", { class: "edge", style: { left: `${(100 * m.free) / whole}%` }, title: `${Lab.bytes(m.free)} can be had` }) : null),
      el("ul", { class: "memkey", "aria-label": "What takes the memory" }, parts.filter((p) => p.size > 0.004 * m.total).map((p) =>
        el("li", {}, el("i", { class: p.tone, "aria-hidden": "true" }), `${p.name} `, el("b", { class: "num", text: Lab.bytes(p.size) })))));
  }

  const SETTINGS = { tokens_per_pass: "tokens per pass", max_new_tokens: "new tokens", max_length: "longest row" };
  const named = (change) => change.values.map(([name, value]) => `${SETTINGS[name] || name.replaceAll("_", " ")} ${value}`).join(", ");

  /** The verdict in words, and the changes: those of the form as buttons, those of another engine as words. */
  function verdict(m, take, may) {
    if (m.fits === null) return [Lab.note("", "How much memory is free is not known here.")];
    if (m.fits) return [Lab.note("good", `It fits: ${Lab.bytes(m.total)} of ${Lab.bytes(m.free)}, ${Lab.bytes(m.free - m.total)} to spare.`)];
    const enough = m.changes.filter((c) => c.fits && c.where !== "base"), rest = m.changes.filter((c) => c.where !== "base" && !c.fits);
    const engine = m.changes.filter((c) => c.where === "base" && c.fits);
    const offered = enough.length ? enough.slice(0, 3) : rest.slice(0, 2);
    const said = `It does not fit: ${Lab.bytes(m.total)} are needed and ${Lab.bytes(m.free)} can be had. ${enough.length === 1 ? "This is enough:" : enough.length ? "Any of these is enough:" : offered.length ? "No single change is enough; these help most:" : ""}`;
    return [Lab.note("bad", said), offered.length ? el("ul", { class: "changes" }, offered.map((c) => el("li", { class: "row" },
      Lab.button(`Set ${named(c)}`, null, () => take(c), { disabled: !may, "data-hold": `change-${named(c)}` }),
      el("span", { class: "small muted", text: `saves ${Lab.bytes(c.saves)}; ${c.costs}` })))) : null,
    ...engine.map((c) => el("p", { class: "small muted", text: `${named(c)} would fit too, with ${c.costs}.` }))];
  }

  /** Draws an estimate into `node`; `take(change)` sets what a button proposes. */
  Lab.need = (node, found, take, may) => Lab.fill(node, [found, may], () => {
    if (!found) return el("div", { "aria-busy": "true" }, el("div", { class: "skeleton", style: { height: "3.2rem" } }));
    if (found.waits) return el("p", { class: "small muted", text: "What it needs is known once the settings can be." });
    if (found.error) return Lab.note("", `What it needs is not known: ${found.error}`);
    const { memory: m, time: t, data: d } = found;
    const rows = d && !d.error && d.rows ? `${d.rows} rows${d.completion !== undefined ? `, about ${d.prompt}${d.completion ? ` + ${d.completion}` : ""} tokens each` : ""}` : "";
    return [
      m ? el("div", { class: "row between" }, el("h3", { text: `Memory on this ${m.device === "cpu" ? "computer" : "GPU"}` }), el("span", { class: "small muted num", text: m.phases.map((p) => `${p.name} ${Lab.bytes(p.size)}`).join(" · ") })) : null,
      m ? bar(m) : null, ...(m ? verdict(m, take, may) : []),
      t ? el("p", { class: "time" }, el("b", { class: "num", text: t.seconds === null ? "Time not known" : `About ${Lab.duration(t.seconds)}` }),
        t.steps ? el("span", { class: "num muted", text: ` · ${t.steps} steps` }) : null, el("span", { class: "small muted wide", text: ` ${t.words}` })) : null,
      rows ? el("p", { class: "small muted", text: `Data: ${rows}.` }) : null,
      d?.error && d.at === "data" ? Lab.note("warn", d.error) : null,
      ...(d?.left_out || []).map((text) => el("p", { class: "small muted wide", text: `Left out: ${text}` })),
    ];
  });
})();
