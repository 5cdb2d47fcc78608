/* The Curves panel. The page holds all of a visitor's state; the server answers questions about run directories. */
(() => {
  const Lab = (window.Lab = window.Lab || {});
  const CONFIG = Lab.PLOT;
  const STATE_WORDS = { running: "running", starting: "starting", stale: "silent", paused: "paused", finished: "finished",
    stopped: "stopped", failed: "failed", lost: "lost" };
  const DOTS = { starting: "busy", stale: "lost", stopped: "paused" };
  const dot = (state) => `dot ${DOTS[state] || state}`;
  const METHODS = { sft: "SFT", reward: "reward model", ppo: "PPO" };

  Lab.curves = ({ element, server, plotly }) => {
    const root = element.querySelector("[data-panel]");
    const { el } = Lab;
    const asked = Lab.query("run");
    const state = {
      runs: asked ? asked.split(",") : null, focus: null, x: Lab.query("x") || "step", smooth: Number(Lab.query("smooth") ?? 0.6),
      step: Lab.query("step") === null ? null : Number(Lab.query("step")), against: null, prompt: 0, zoom: null, view: "diff",
    };
    const plots = new Map();
    let Plotly = null, answer = null, newestProbe = null, refresh = () => {};

    /* ---------------------------------------------------------------- the parts of the page */
    const message = el("div", { "aria-live": "polite" });
    const list = el("div", { class: "chips", role: "group", "aria-label": "Runs to show" });
    const axis = Lab.segments("Horizontal axis", [["step", "step"], ["sqrt_kl", "√KL"], ["time", "time"]], state.x, (x) => {
      state.x = x; state.zoom = null; Lab.link({ x: x === "step" ? null : x }); refresh();
    });
    const smoothing = el("output", { text: state.smooth.toFixed(2) });
    const slider = el("input", { type: "range", min: 0, max: 0.98, step: 0.02, value: state.smooth, "aria-label": "Smoothing",
      on: { input: (e) => { state.smooth = Number(e.target.value); smoothing.textContent = state.smooth.toFixed(2); refresh(); } } });
    const toolbar = el("div", { class: "row" }, el("div", { class: "grow" }, list),
      el("div", { class: "row" }, axis, el("label", { class: "row small muted" }, "smooth", slider, smoothing)));
    const bar = statusBar();
    const health = el("div", { class: "stack", style: { gap: ".5rem" }, role: "region", "aria-label": "Health" });
    const grid = el("div", { class: "plots" });
    const rest = el("div", { class: "plots" });
    const more = el("details", {}, el("summary", { text: "More curves" }), rest);
    more.addEventListener("toggle", () => { if (more.open) refresh(); });
    const probes = el("section", { class: "card stack", "aria-label": "Answers to the probe prompts", tabindex: "-1" });
    const spreads = Lab.spreads({ plotly, ask: (wish) => safely("spreads", { ...wish, run: state.focus, dark: Lab.dark() }), pick: (step) => go(step, false) });
    const checks = el("section", { class: "card", "aria-label": "Invariants" });
    const body = el("div", { class: "stack" }, toolbar, bar.node, health, grid, more, el("div", { class: "split" }, probes, checks), spreads.node);
    const empty = el("div", { class: "card welcome", hidden: true }, el("h2", { text: "No runs yet" }),
      el("p", { text: "Start the whole path, from demonstrations to PPO, with the tiny model. It appears here by itself." }),
      el("p", {}, el("code", { text: "lab demo" })));
    const wait = el("div", { class: "plots", "aria-busy": "true", "aria-label": "Loading" },
      ...Array.from({ length: 6 }, () => el("div", { class: "card plot" }, el("div", { class: "skeleton", style: { height: "270px" } }))));
    body.hidden = true;
    root.classList.add("stack");
    root.append(message, wait, empty, body);

    /* ---------------------------------------------------------------- asking and telling */
    const SILENT = { error: "The Studio does not answer; is it still running in its terminal?" };
    const safely = async (name, value) => { try { return await server[name](value); } catch { return SILENT; } };
    let fading = 0;
    function tell(level, text, kind = "poll") {
      clearTimeout(fading);
      message.dataset.kind = kind;
      message.replaceChildren(...(text ? [Lab.note(level, text)] : []));
      if (text && kind === "act" && level !== "bad") fading = setTimeout(() => tell("", ""), 6000);  // what was done is seen
    }
    const have = () => Object.fromEntries([...plots].filter(([, p]) => p.signature).map(([key, p]) =>
      [key, { signature: p.signature, counts: p.area.data.map((t) => t.x.length) }]));

    /* ---------------------------------------------------------------- runs */
    function drawRuns(reply) {
      Lab.fill(list, [reply.runs.map((r) => [r.id, r.colour, r.method]), reply.chosen], () => reply.runs.map((run) => {
        const shown = reply.chosen.includes(run.id);
        return el("button", { type: "button", class: "chip", "aria-pressed": String(shown), "data-run": run.id, title: run.title || null,
          on: { click: () => choose(reply.chosen, run.id) } },
          el("i", { class: "swatch", style: { width: "1.1rem", height: ".28rem", borderRadius: "9px", background: run.colour } }),
          el("span", { text: run.id }), el("span", { class: "muted small", "data-state": "" }, el("i", {}), el("span", {})));
      }));
      for (const run of reply.runs) {
        const cell = list.querySelector(`[data-run="${CSS.escape(run.id)}"] [data-state]`);
        if (!cell) continue;
        cell.style.cssText = "display:inline-flex;align-items:center;gap:.35rem";
        cell.firstChild.className = dot(run.state);
        cell.lastChild.textContent = STATE_WORDS[run.state] || run.state;
      }
    }
    function choose(chosen, id) {
      const next = chosen.includes(id) ? chosen.filter((r) => r !== id) : [...chosen, id];
      if (!next.length) return;
      state.runs = next;
      state.focus = next.includes(id) ? id : next.at(-1);
      state.step = null; state.zoom = null; newestProbe = null;
      Lab.link({ tab: "curves", run: next.join(","), step: null });
      refresh();
    }

    /* ---------------------------------------------------------------- status line, controls, live settings */
    function statusBar() {
      const title = el("h2", {}), pick = el("select", { "aria-label": "Run of this line", on: { change: (e) => {
        state.focus = e.target.value; state.step = null; newestProbe = null; refresh(); } } });
      const word = el("span", { class: "row", style: { gap: ".45rem" }, role: "status" }, el("i", { class: "dot" }), el("span", {}));
      const figures = el("span", { class: "muted num" });
      const fill = el("i", {});
      const progress = el("div", { class: "bar", role: "progressbar", "aria-label": "Steps", "aria-valuemin": 0, "aria-valuemax": 100 }, fill);
      const act = (action) => async () => {
        tell("", `Asking the engine to ${action} ${state.focus} …`, "act");
        const reply = await safely("control", { run: state.focus, action });
        tell(reply.error ? "bad" : "", reply.error || reply.sentence, "act");
        refresh();
      };
      const play = Lab.button("Play", "play", act("play"), { class: "button main" }), pause = Lab.button("Pause", "pause", act("pause"));
      const step = Lab.button("Step", "step", act("step")), stop = Lab.button("Stop", "stop", act("stop"));
      const why = el("span", { class: "small muted", id: "lab-why" });
      const sentence = el("div", {});
      const live = el("div", { class: "live" });
      const settings = el("details", {}, el("summary", { text: "Live settings" }), live);
      const node = el("section", { class: "card stack", style: { gap: ".7rem" }, "aria-label": "The run" },
        el("div", { class: "row" }, el("div", { class: "row grow" }, title, pick, word, figures),
          el("div", { class: "row", role: "group", "aria-label": "Steer the run" }, play, pause, step, stop)),
        progress, sentence, why, settings);

      function draw(focus, chosen) {
        const s = focus.status, c = focus.controls;
        Lab.fill(pick, [chosen, s.id], () => chosen.map((id) => el("option", { value: id, text: id, selected: id === s.id })));
        pick.hidden = chosen.length < 2;
        title.hidden = chosen.length > 1;
        title.textContent = s.id;
        word.firstChild.className = dot(s.state);
        word.lastChild.textContent = s.wanted ? `${STATE_WORDS[s.state] || s.state}, ${s.wanted} asked` : STATE_WORDS[s.state] || s.state;
        figures.textContent = [METHODS[s.method] || s.method, s.total ? `step ${s.step} of ${s.total}` : `step ${s.step}`,
          s.phase, s.eta ? `${s.eta} left` : ""].filter(Boolean).join("  ·  ");
        fill.style.transform = `scaleX(${s.share})`;
        progress.setAttribute("aria-valuenow", Math.round(100 * s.share));
        for (const [name, button] of [["play", play], ["pause", pause], ["step", step], ["stop", stop]]) {
          button.disabled = !c[name];
          button.title = c[name] ? "" : c.reason || `${s.id} is ${STATE_WORDS[s.state]}`;
          if (c.reason) button.setAttribute("aria-describedby", "lab-why");
        }
        play.hidden = c.playing; pause.hidden = !c.playing;
        why.textContent = c.reason; why.hidden = !c.reason;
        Lab.fill(sentence, [s.state, s.sentence.replace(/\d+(\.\d+)? (s|min|h)/, "")], () => s.sentence ?
          Lab.note({ failed: "bad", lost: "bad", stale: "warn", finished: "good" }[s.state] || "", s.sentence) : null);
        const text = sentence.querySelector(".wide");
        if (text) text.textContent = s.sentence;
        Lab.fill(live, [s.id, focus.live, Boolean(c.reason)], () => focus.live.map((v) => setting(v, c.reason)));
        settings.hidden = !focus.live.length || ["finished"].includes(s.state);
      }
      function setting(v, reason) {
        const input = el("input", { type: "number", step: "any", min: v.low, max: v.high, value: v.value, id: `live-${v.name}`, disabled: Boolean(reason) });
        const change = async () => {
          const reply = await safely("change", { run: state.focus, name: v.name, value: input.value });
          tell(reply.error ? "bad" : "good", reply.error || reply.sentence, "act");
          refresh();
        };
        input.addEventListener("keydown", (e) => { if (e.key === "Enter") change(); });
        return el("div", { class: "field" }, el("label", { for: `live-${v.name}`, text: v.name.replaceAll("_", " ") }),
          el("div", { class: "pair" }, input, Lab.button("Set", null, change, { class: "button", disabled: Boolean(reason), "aria-label": `Set ${v.name}`, title: reason || null })),
          el("span", { text: v.help + (v.unit ? ` (${v.unit})` : "") }));
      }
      return { node, draw };
    }

    /* ---------------------------------------------------------------- health and invariants */
    function drawHealth(notes) {
      Lab.fill(health, notes, () => notes.map((n) => Lab.note(n.level, n.text, n.step >= 0 ? el("button", { type: "button",
        text: `step ${n.step}`, "aria-label": `Show the answers of step ${n.step}`, on: { click: () => go(n.step, true) } }) : null)));
      health.hidden = !notes.length;
    }
    function drawChecks(focus) {
      Lab.fill(checks, [focus.checks, focus.summary], () => [
        el("div", { class: "row" }, el("h2", { class: "grow", text: "Invariants" }), el("span", { class: "small muted", text: focus.summary })),
        el("ul", { class: "checks" }, focus.checks.map((c) => el("li", { class: c.ok ? "ok" : "broken" },
          el("span", { class: "mark", text: c.ok ? "✓" : "✗", role: "img", "aria-label": c.ok ? "holds" : "broken" }),
          el("span", { text: c.name }),
          el("span", { class: "num small value", text: `${Lab.num(c.value, 2)} · limit ${Lab.num(c.limit, 2)}` }),
          el("p", { text: c.sentence })))),
      ]);
      checks.hidden = !focus.checks.length;
    }

    /* ---------------------------------------------------------------- figures */
    async function drawCards(cards) {
      const keys = cards.map((c) => c.key);
      for (const [key, p] of plots) if (!keys.includes(key)) { if (Plotly) Plotly.purge(p.area); p.node.remove(); plots.delete(key); }
      for (const card of cards) {
        const p = plots.get(card.key) || makePlot(card);
        const home = card.essential ? grid : rest;
        if (p.node.parentElement !== home) home.append(p.node);
        headline(p, card);
      }
      keys.map((k) => plots.get(k).node).forEach((node) => node.parentElement.append(node) );
      more.hidden = !rest.children.length;
      more.firstChild.textContent = `More curves (${rest.children.length})`;
      Plotly ||= await Lab.plotly(plotly);
      for (const card of cards) {
        if (!card.figure && !card.append) continue;
        const p = plots.get(card.key), first = !p.wired;
        draw(p, card);
        if (first) await new Promise((resolve) => setTimeout(resolve)); // a slow machine answers between two plots
      }
    }
    function makePlot(card) {
      const now = el("div", { class: "now" }), title = el("h3", {}), hint = el("div", { class: "small muted" });
      const area = el("div", { class: "area", role: "group" });
      const node = el("article", { class: "card plot", "data-card": card.key }, el("header", {}, el("div", {}, title, hint), now), area);
      const p = { node, area, now, title, hint, signature: null, key: card.key };
      plots.set(card.key, p);
      return p;
    }
    function headline(p, card) {
      p.title.textContent = card.title;
      p.hint.textContent = [card.unit, card.hint].filter(Boolean).join(" · ");
      const many = new Set(card.newest.map((n) => n.run)).size > 1;
      const word = (n) => (many ? n.run : card.newest.length < 2 ? "" : n.name.startsWith("eval_") ? "held out" : n.name.startsWith("gold") ? "true" : n.name);
      const few = many ? card.newest.filter((n, i, all) => all.findIndex((o) => o.run === n.run) === i) : card.newest;
      Lab.fill(p.now, card.newest, () => few.slice(0, 4).map((n) => el("span", { style: { color: n.colour } },
        Lab.num(n.value), " ", el("small", { text: word(n) }))));
      const words = card.newest.map((n) => `${n.run} ${n.name} ${Lab.num(n.value)}`).join(", ");
      p.area.setAttribute("aria-label", `${card.title}: ${words}`);
    }
    function draw(p, card) {
      const fresh = Boolean(card.figure);
      if (!fresh && !card.append.some((a) => a.x.length)) return;
      let data, layout;
      if (fresh) {
        data = card.figure.data;
        layout = { ...card.figure.layout, autosize: true, height: undefined };
        layout.xaxis = { ...layout.xaxis };
        layout.dragmode = matchMedia("(pointer: coarse)").matches ? false : "zoom";
      } else {
        data = p.area.data.map((trace, i) => {
          const more = card.append[i];
          if (!more.x.length) return trace;
          const grown = { ...trace };
          for (const field of Object.keys(more)) grown[field] = [...trace[field], ...more[field]];
          return grown;
        });
        layout = p.area.layout;
        layout.datarevision = (layout.datarevision || 0) + 1;
      }
      if (state.zoom && p.key !== "Frontier") { layout.xaxis.range = [...state.zoom]; layout.xaxis.autorange = false; }
      layout.shapes = markers(p, data);
      p.signature = card.signature;
      p.marked = mark();
      Plotly.react(p.area, data, layout, CONFIG);
      if (!p.wired) wire(p);
    }
    function wire(p) {
      p.wired = true;
      p.area.on("plotly_click", (event) => {
        const point = nearest(p, event);
        if (!point) return;
        state.focus = point.data.legendgroup;
        go(point.data.customdata[point.pointIndex ?? point.pointNumber], false);
      });
      p.area.on("plotly_relayout", (change) => {
        if (p.key === "Frontier" || p.quiet) return;
        if ("xaxis.range[0]" in change) zoom([change["xaxis.range[0]"], change["xaxis.range[1]"]], p);
        else if (change["xaxis.autorange"]) zoom(null, p);
      });
    }
    /** Of the points under a click, the one whose line is nearest to the pointer. */
    function nearest(p, event) {
      const y = event.event.clientY - p.area.getBoundingClientRect().top;
      const points = event.points.filter((q) => q.data.customdata && q.data.hoverinfo !== "skip");
      const away = (q) => Math.abs((q.yaxis ? q.yaxis.l2p(q.y) + q.yaxis._offset : 0) - y);
      return points.sort((a, b) => away(a) - away(b))[0];
    }
    async function zoom(range, source) {
      state.zoom = range;
      for (const p of plots.values()) {
        if (p === source || p.key === "Frontier" || !p.signature) continue;
        p.quiet = true;
        await Plotly.relayout(p.area, range ? { "xaxis.range": [...range] } : { "xaxis.autorange": true });
        p.quiet = false;
      }
    }
    const mark = () => `${state.focus}:${answer ? answer.now : ""}`;
    function markers(p, data) {
      if (!answer || answer.run !== state.focus || !(answer.now >= 0)) return [];
      const trace = data.find((t) => t.legendgroup === state.focus && t.hoverinfo !== "skip");
      const i = trace ? trace.customdata.indexOf(answer.now) : -1;
      if (i < 0) return [];
      return [{ type: "line", x0: trace.x[i], x1: trace.x[i], y0: 0, y1: 1, yref: "paper", layer: "below",
        line: { color: getComputedStyle(root).getPropertyValue("--lab-accent"), width: 1.5, dash: "dot" } }];
    }
    function remark() {
      if (!Plotly) return;
      for (const p of plots.values()) {
        if (!p.signature) continue;
        if (p.marked === mark()) continue;
        p.marked = mark();
        Plotly.relayout(p.area, { shapes: markers(p, p.area.data) });
      }
    }

    /* ---------------------------------------------------------------- answers */
    async function go(step, show) {
      state.step = step;
      Lab.link({ tab: "curves", run: (state.runs || [state.focus]).join(","), step });
      await ask();
      if (show) { probes.scrollIntoView({ block: "nearest", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" }); }
    }
    async function ask() {
      const reply = await safely("answers", { run: state.focus, step: state.step, against: state.against });
      if (reply.error) { tell("bad", reply.error, "act"); return; }
      answer = reply;
      drawAnswers();
      remark();
    }
    async function send(a) {
      const reply = await safely("send", { run: a.run, then: a.then, now: a.now, prompt: a.rows[state.prompt].prompt });
      tell(reply.error ? "bad" : "good", reply.error || reply.sentence, "act");
    }
    function drawAnswers() {
      const a = answer;
      const held = document.activeElement && probes.contains(document.activeElement) ? document.activeElement.dataset.hold : null;
      if (!a.rows.length) {
        probes.replaceChildren(el("h2", { text: "Answers" }), el("p", { class: "muted", text:
          "This run asks no probe prompts; a reward model judges and does not answer." }));
        return;
      }
      state.prompt = Math.min(state.prompt, a.rows.length - 1);
      const at = a.steps.indexOf(a.now);
      const hop = (by) => () => go(a.steps[Math.min(Math.max(at + by, 0), a.steps.length - 1)], false);
      const choice = (label, value, hold, call) => el("select", { "aria-label": label, "data-hold": hold, on: { change: (e) => call(Number(e.target.value)) } },
        a.steps.map((s) => el("option", { value: s, text: `step ${s}`, selected: s === value })));
      const head = el("div", { class: "row" }, el("h2", { class: "grow", text: "Answers" }),
        Lab.button("", "left", hop(-1), { class: "button icon", "aria-label": "Earlier answers", "data-hold": "left", disabled: at <= 0 }),
        choice("Step of the answers", a.now, "now", (s) => go(s, false)),
        Lab.button("", "right", hop(1), { class: "button icon", "aria-label": "Later answers", "data-hold": "right", disabled: at >= a.steps.length - 1 }),
        el("label", { class: "row small muted", style: { gap: ".5rem" } }, "beside", choice("Step to compare with", a.then, "then", (s) => { state.against = s; ask(); })),
        Lab.segments("Show", [["diff", "diff"], ["delta", "Δ log p"]], state.view, (v) => { state.view = v; drawAnswers(); }));
      const near = a.asked !== null && a.asked !== a.now ? el("p", { class: "small muted", text: `Step ${a.asked} was not probed; the nearest is step ${a.now}.` }) : null;
      const phrase = a.phrase ? el("p", { class: "small" }, "added by ", el("b", { text: `${a.phrase.count} of ${a.phrase.of}` }), " probes: ",
        el("span", { class: "said", style: { fontSize: "inherit" } }, el("ins", { text: a.phrase.text }))) : null;
      const queue = a.now === a.then || !a.rows[state.prompt].before || a.rows[state.prompt].split === null ? null
        : Lab.button("label this pair", "label", () => send(a), { class: "button quiet", "data-hold": "send" });
      const names = el("div", { class: "prompts", role: "group", "aria-label": "Probe prompts" }, a.rows.map((r, i) => {
        const gain = r.before && r.after.gold !== null && r.before.gold !== null ? r.after.gold - r.before.gold : null;
        return el("button", { type: "button", "aria-pressed": String(i === state.prompt), "data-hold": `p${i}`, on: { click: () => { state.prompt = i; drawAnswers(); } } },
          el("span", { class: "wide", text: r.prompt }), gain === null ? null : el("span", { class: "num small muted", title: "change of the true score", text: Lab.signed(gain, 2) }));
      }));
      const row = a.rows[state.prompt];
      const said = (s) => (state.view === "delta" && s.tokens.length && s.deltas.length ? Lab.heat(s.tokens, s.deltas) : [document.createTextNode(s.text || "(nothing)")]);
      const before = row.before && a.then !== a.now ? el("article", { class: "answer" }, el("div", { class: "small muted", text: `step ${a.then}` }),
        el("div", { class: "said" }, said(row.before)), ...Lab.facts(row.before)) : null;
      const after = el("article", { class: "answer now" }, el("div", { class: "row small muted" }, el("span", { class: "grow", text: `step ${a.now}` }),
        before ? el("span", { text: row.split === null ? "same words" : `parts at word ${row.split + 1}` }) : null),
        el("div", { class: "said" }, state.view === "diff" && before ? Lab.diff(row.diff) : said(row.after)), ...Lab.facts(row.after));
      const legend = state.view === "delta" ? el("span", { class: "scale" }, "less likely than the reference", el("i", {}), "more likely") : null;
      probes.replaceChildren(...[head, near, phrase, el("div", { class: "probes" }, names,
        el("div", { class: "stack", style: { gap: ".7rem" } }, el("p", { class: "wide" }, el("span", { class: "muted", text: "Prompt  " }), el("b", { text: row.prompt })),
          el("div", { class: "answers" }, before, after), el("div", { class: "row" }, queue, legend)))].filter(Boolean));
      if (held) { const back = probes.querySelector(`[data-hold="${held}"]`); if (back) back.focus(); }
    }

    Lab.onTheme(() => refresh());
    refresh = Lab.loop(root, async () => {
      const reply = await safely("poll", {
        runs: state.runs, focus: state.focus, x: state.x, smooth: state.smooth, dark: Lab.dark(), more: more.open, have: have() });
      wait.hidden = true;
      if (reply.error) { tell("bad", reply.error); return; }
      if (message.dataset.kind === "poll") tell();
      empty.hidden = reply.runs.length > 0;
      body.hidden = reply.runs.length === 0;
      if (!reply.focus) return;
      drawRuns(reply);
      bar.draw(reply.focus, reply.chosen);
      drawHealth(reply.focus.health);
      drawChecks(reply.focus);
      state.focus = reply.focus.status.id;
      spreads.follow(state.focus, reply.focus.spread);
      await drawCards(reply.cards);
      const probed = reply.focus.probed;
      const newest = `${state.focus}:${probed.length}:${probed.at(-1)}`;
      if (newest !== newestProbe) { newestProbe = newest; await ask(); }
    }, () => 1500);
  };
})();
