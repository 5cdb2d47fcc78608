/* The Room panel: rounds, agreement, biases, the reveal, the talk. What others may see is decided by the server. */
(() => {
  const Lab = (window.Lab = window.Lab || {});
  const WORDS = { free: "no round yet", open: "judging", paused: "paused", revealed: "revealed", talk: "talking", closed: "between rounds" };
  const SIDES = { 2: "A much better", 1: "A better", 0: "tie", "-1": "B better", "-2": "B much better" };
  const key = () => [...crypto.getRandomValues(new Uint8Array(12))].map((n) => n.toString(16).padStart(2, "0")).join("");
  const plural = (n, one, many = `${one}s`) => `${n} ${n === 1 ? one : many}`;

  Lab.room = ({ element, server }) => {
    const root = element.querySelector("[data-panel]");
    const { el } = Lab;
    const state = { s: null, picked: null, pickedRound: 0, job: "", asked: 0 };
    const message = el("div", { "aria-live": "polite" });
    const top = el("section", { class: "card", "aria-label": "The round" });
    const waiting = el("div", {}), again = el("div", {}), left = el("div", { class: "stack" }), right = el("div", { class: "stack" });
    const board = el("div", { class: "board" }, left, right), making = el("div", {});
    root.classList.add("stack");
    root.append(top, message, waiting, again, board, making);
    top.append(el("div", { class: "skeleton", style: { height: "3rem" } }));
    Lab.keys(root, [["P", "pause or go on (host)"], ["Esc", "close a pair"]]);
    root.ownerDocument.addEventListener("keydown", (event) => {
      if (event.key !== "p" || !Lab.keyMeant(root, event) || !state.s || !state.s.host) return;
      if (state.s.phase === "open") act({ kind: "pause" }); else if (state.s.phase === "paused") act({ kind: "resume" });
    });

    const tell = (level, text) => { Lab.fill(message, [level, text, Date.now()], () => (text ? Lab.note(level, text) : null)); };
    async function ask(name, body) {
      let got;
      try { got = await server[name](body); } catch { got = { error: "The Studio does not answer; try again in a moment." }; }
      if (got.error) tell("bad", got.error); else tell();
      return got;
    }
    async function act(body) { const got = await ask("turn", body); if (!got.error) tick(); }

    const tick = Lab.loop(root, async () => {
      let s;
      try { s = await server.poll({}); } catch { stale(); return; }
      if (s.error) { Lab.fill(message, ["poll", s.error], () => Lab.note("bad", s.error)); return; }
      if (message.dataset.key?.startsWith('["stale"')) tell();
      state.s = s;
      draw(s);
    }, () => 2000);
    const stale = () => Lab.fill(message, ["stale"], () => Lab.note("warn", state.s ? "The Studio does not answer; what you see is the last that was heard." : "The Studio does not answer; is it still running in its terminal?"));

    function draw(s) {
      const round = s.round, number = round ? round.number : 0;
      if (state.pickedRound !== number) { state.picked = null; state.pickedRound = number; }
      Lab.fill(top, [s.phase, round, s.here, s.votes, s.round_votes, s.pairs, s.ms, s.predictions, s.host, s.people?.map((p) => p.name), [...(state.picked || [])], s.figures?.disputes.length], () => drawTop(s, round));
      const blind = !s.host && !s.figures;
      const seen = s.host || ["revealed", "talk", "closed"].includes(s.phase);
      waiting.hidden = seen;
      Lab.fill(waiting, [s.phase, seen, s.predictions], () => (seen ? null : el("div", { class: "card stack rests" }, el("h2", { text: s.phase === "free" ? "No round yet" : s.phase === "paused" ? "A pause" : "Everybody judges, blind" }),
        el("p", { class: "muted", text: "What the others said, and which models spoke, is shown here after the reveal: nothing should sway you before." }),
        el("div", { class: "row", style: { justifyContent: "center" } }, el("a", { class: "button main", href: "?tab=label", text: "Judge pairs" }), el("a", { class: "button", href: "?tab=guide", text: "Predict who wins" })))));
      board.hidden = blind;
      if (blind) { again.replaceChildren(); again.dataset.key = ""; making.replaceChildren(); making.dataset.key = ""; return; }
      drawAgain(s);
      const f = s.figures;
      board.classList.toggle("alone", Boolean(f && !f.votes));
      if (!f) { Lab.fill(left, ["wait"], () => el("div", { class: "skeleton", style: { height: "12rem" } })); right.replaceChildren(); right.dataset.key = ""; }
      else if (!f.votes) { Lab.fill(left, ["none", s.pairs], () => emptyCard(s)); right.replaceChildren(); right.dataset.key = ""; }
      else {
        Lab.fill(left, ["left", f.agreement, f.disputes, f.talk, f.items, f.predictions, s.phase, [...(state.picked || [])]], () => [agreementCard(f), disputesCard(s, f), f.predictions ? predictionsCard(f.predictions) : null, s.phase === "open" || s.phase === "free" || s.phase === "paused" ? null : itemsCard(f)].filter(Boolean));
        Lab.fill(right, ["right", f.bias, f.models, f.heat, s.head, s.host, s.phase], () => [biasCard(f.bias), f.models.length ? modelsCard(f, s) : null, heatCard(f.heat), headCard(s)].filter(Boolean));
      }
      if (s.host) drawMaking(); else { making.replaceChildren(); making.dataset.key = ""; }
    }

    // ── the round ──────────────────────────────────────────────────────────────────────────────────────────────────
    function drawTop(s, round) {
      const title = el("h2", { text: round ? `Round ${round.number}${round.title ? ` · ${round.title}` : ""}` : "The room" });
      const fact = (name, value) => el("div", {}, el("dt", { text: name }), el("dd", { text: value }));
      const facts = el("dl", { class: "numbers" }, fact("here", s.here), fact("votes", round ? `${s.round_votes} of ${s.votes}` : s.votes), fact("pairs", s.pairs), s.ms !== null ? fact("median", `${(s.ms / 1000).toFixed(1)} s`) : null, s.predictions ? fact("predictions", s.predictions) : null);
      const dot = { open: "running", paused: "paused", talk: "busy", closed: "finished", revealed: "finished" }[s.phase] || "";
      const head = el("div", { class: "roomtop" }, title, el("span", { class: "phase", role: "status" }, el("i", { class: `dot ${dot}` }), WORDS[s.phase]), facts);
      if (!s.host) return [head];
      const name = el("input", { type: "text", maxlength: 80, placeholder: "what this round is about", "aria-label": "Title of the round", style: { flex: "1 1 12rem" } });
      const overlap = el("input", { type: "number", min: 1, max: 1000, step: 1, value: s.overlap, id: "room-overlap", style: { width: "6rem" } });
      const open = (text) => [name, el("label", { class: "row small muted", for: "room-overlap" }, el("span", { text: "votes for each pair" }), overlap), Lab.button(text, "play", () => act({ kind: "open", title: name.value, overlap: Math.max(1, Math.round(Number(overlap.value)) || s.overlap) }), { class: "button main" })];
      const picked = state.picked ? state.picked.size : Math.min(5, s.figures?.disputes.length || 0);
      const actions = {
        free: () => open("Open a round"), closed: () => open("Next round"),
        open: () => [Lab.button("Pause", "pause", () => act({ kind: "pause" })), revealer()],
        paused: () => [Lab.button("Go on", "play", () => act({ kind: "resume" })), revealer()],
        revealed: () => [picked ? Lab.button(`Talk about ${plural(picked, "pair")}, and vote again`, null, talk, { class: "button main" }) : null, Lab.button("Close the round", null, () => act({ kind: "close" }))],
        talk: () => [Lab.button("Close the round", null, () => act({ kind: "close" }), { class: "button main" })],
      }[s.phase]().filter(Boolean);
      const people = (s.people || []).length > 1 ? el("div", { class: "people", "aria-label": "Who is here" }, s.people.map((p) => el("span", { text: p.name, title: `heard of ${Math.round(p.ago)} s ago` }))) : null;
      return [head, el("div", { class: "row", style: { marginTop: ".9rem" } }, actions, el("span", { class: "grow" }), Lab.button("Export events", null, () => keep({ kind: "events" })), Lab.button("Export pairs", null, () => keep({ kind: "preferences", part: "training" }))), people].filter(Boolean);
    }
    /** What was revealed cannot be made blind again, so a first click only asks. */
    function revealer() {
      const button = Lab.button("Reveal", null, () => {
        if (Date.now() - state.asked < 4000) { state.asked = 0; act({ kind: "reveal" }); return; }
        state.asked = Date.now();
        button.replaceChildren(el("span", { text: "Reveal to everybody now?" }));
        setTimeout(() => { if (Date.now() - state.asked >= 4000) button.replaceChildren(el("span", { text: "Reveal" })); }, 4100);
      }, { class: "button main" });
      if (Date.now() - state.asked < 4000) button.replaceChildren(el("span", { text: "Reveal to everybody now?" }));
      return button;
    }
    const talk = () => act({ kind: "talk", items: [...(state.picked || new Set(state.s.figures.disputes.slice(0, 5).map((d) => d.item)))] });
    async function keep(body) {
      const got = await ask("export", body);
      if (got.error) return;
      const url = URL.createObjectURL(new Blob([got.text], { type: "application/jsonl" }));
      el("a", { href: url, download: got.name }).click();
      setTimeout(() => URL.revokeObjectURL(url), 10000);
      tell("good", `${plural(got.rows, "line")} in ${got.name}`);
    }

    // ── the talk: judge again ──────────────────────────────────────────────────────────────────────────────────────
    const texts = new Map();
    async function drawAgain(s) {
      const items = s.phase === "talk" && s.round ? s.round.talk : [];
      for (const item of items) if (!texts.has(item)) { try { const p = await server.pair({ item }); if (!p.error) texts.set(item, p); } catch { return; } }
      Lab.fill(again, [items, s.mine, items.map((i) => texts.has(i))], () => (items.length ? el("section", { class: "card stack", "aria-label": "Judge again" },
        el("div", {}, el("h2", { text: "Talk about these, then judge again" }), el("p", { class: "muted", text: "Say why. A second vote takes the place of your first; those who had not judged a pair listen and argue." })),
        items.filter((i) => texts.has(i)).map((item) => againCard(item, texts.get(item), s.mine[item]))) : null));
    }
    function againCard(item, p, mine) {
      const voted = mine !== undefined, began = performance.now();
      const say = async (more) => { const got = await ask("revote", { item, key: key(), ms: Math.min(86400000, Math.round(performance.now() - began)), ...more }); if (!got.error) { tell("good", "Your second vote is saved."); tick(); } };
      const buttons = [2, 1, 0, -1, -2].map((strength) => el("button", { type: "button", class: `vote ${strength > 0 ? "a" : strength < 0 ? "b" : ""} ${Math.abs(strength) === 2 ? "much" : ""}`, "aria-pressed": String(voted && mine === strength), "aria-label": SIDES[strength],
        on: { click: () => say({ strength }) } },
      el("span", { class: "long", text: SIDES[strength] }), el("span", { class: "short", text: { 2: "A ≫", 1: "A >", 0: "=", "-1": "< B", "-2": "≪ B" }[strength] })));
      return el("div", { class: "again" }, el("div", { class: "text" }, Lab.turns(p.prompt)), both(p), voted ? [el("div", { class: "votes", role: "group", "aria-label": "Judge again" }, buttons), el("div", { class: "row" }, Lab.button("Both bad", null, () => say({ strength: 0, both_bad: true })))] : el("p", { class: "small muted", text: "You did not judge this pair in the round." }));
    }
    const both = (p) => el("div", { class: "versus" }, [["A", p.a, 0], ["B", p.b, 1]].map(([letter, said, i]) => el("section", { class: `card reply ${letter.toLowerCase()}`, "aria-label": `Answer ${letter}` },
      el("h3", {}, el("span", { class: "letter", text: letter, "aria-hidden": "true" }), el("span", { class: "wide", text: p.models ? p.models[i] : `Answer ${letter}` })), el("div", { class: "body", tabindex: 0 }, Lab.turns(said, p.cut[i])))));

    // ── agreement ──────────────────────────────────────────────────────────────────────────────────────────────────
    const two = (x) => x.toFixed(2).replace("-", "−");
    const value = (e) => (e.mean === null ? el("span", { class: "value words", text: e.why }) : el("span", { class: "value", text: two(e.mean) }));
    const words = (a) => (a === null ? "" : a < 0 ? "less than chance would give" : a < 0.2 ? "hardly more than chance" : a < 0.4 ? "fair" : a < 0.67 ? "moderate" : a < 0.8 ? "good enough for cautious conclusions" : "high");
    function agreementCard(f) {
      const a = f.agreement.alpha, t = f.talk;
      const moved = t && t.changed ? [el("div", {}, el("div", { class: "small muted", text: "blind" }), value(t.before.alpha)), el("span", { class: "then", text: "→", "aria-label": "then" }), el("div", {}, el("div", { class: "small muted", text: "after the talk" }), value(t.after.alpha))] : [value(a)];
      const line = (name, e, how) => [el("span", { text: name }), el("span", { class: "num", text: e.mean === null ? "–" : how.show(e.mean) }), Lab.measure(e, name, how)];
      const span = { least: -0.5, most: 1, show: two };
      return el("section", { class: "card stack", "aria-label": "Agreement" }, el("div", {}, el("h2", { text: "How far you agree" }), el("p", { class: "small muted", text: "Krippendorff's α of sides: 1 is perfect, 0 is what chance would give." })),
        el("div", { class: "alpha" }, moved, el("span", { class: "muted", text: words((t && t.changed ? t.after.alpha : a).mean) })),
        t && t.talked_after && t.changed ? el("p", { class: "small", text: `${plural(t.changed, "vote")} changed. On the pairs that were talked about, raw agreement went from ${Lab.percent(t.talked_before.raw.mean)} to ${Lab.percent(t.talked_after.raw.mean)}.` }) : null,
        el("div", { class: "lines" }, line("α, sides", a, span), line("α, strengths", f.agreement.strengths, span), line("raw agreement", f.agreement.raw, { show: Lab.percent })),
        el("p", { class: "small muted", text: `${plural(f.votes, "vote")} by ${plural(f.people, "person", "people")}; bars are 95 % intervals that draw whole prompts.` }));
    }
    const bar = (d) => { const n = d.a + d.b + d.tie + d.both_bad; const part = (kind, x) => el("i", { class: kind, style: { width: `${(100 * x) / n}%` } }); return el("span", { class: "splitbar", role: "img", "aria-label": `A ${d.a}, B ${d.b}, ties ${d.tie}, both bad ${d.both_bad}` }, part("a", d.a), part("t", d.tie + d.both_bad), part("b", d.b)); };
    const counted = (d) => `${d.a}:${d.b}${d.tie ? ` ${d.tie}=` : ""}${d.both_bad ? ` ${d.both_bad}✗` : ""}`;
    function disputesCard(s, f) {
      if (!f.disputes.length) return el("section", { class: "card", "aria-label": "Most disputed pairs" }, el("h2", { text: "Most disputed pairs" }), el("p", { class: "muted", text: "No pair has two votes that differ." }));
      const choosing = s.host && s.phase === "revealed";
      const picked = () => (state.picked ||= new Set(f.disputes.slice(0, 5).map((d) => d.item)));
      return el("section", { class: "card", "aria-label": "Most disputed pairs" }, el("h2", { text: "Most disputed pairs" }), el("p", { class: "small muted", text: choosing ? "Choose those to talk about; click one to read it." : "Click one to read it." }),
        f.disputes.map((d) => {
          const box = choosing ? el("input", { type: "checkbox", "aria-label": `Talk about: ${d.prompt}`, on: { change: () => { const p = picked(); if (box.checked) p.add(d.item); else p.delete(d.item); draw(state.s); } } }) : null;
          if (choosing) box.checked = picked().has(d.item);
          return el("div", { class: choosing ? "dispute" : "dispute plain" }, box, el("button", { type: "button", class: "open", text: d.prompt || "(no text)", on: { click: () => openPair(d.item) } }), bar(d), el("span", { class: "num small", text: counted(d) }));
        }));
    }
    function itemsCard(f) {
      return el("details", { class: "card" }, el("summary", {}, `All ${plural(f.items.length, "pair")}, with who spoke`), f.items.map((d) => el("div", { class: "dispute plain" },
        el("button", { type: "button", class: "open", on: { click: () => openPair(d.item) } }, el("span", { text: d.prompt || "(no text)" }), d.models ? el("span", { class: "small muted wide", text: `  ${d.models[0]} · ${d.models[1]}` }) : null), bar(d), el("span", { class: "num small", text: counted(d) }))));
    }
    function biasCard(b) {
      const leans = (e) => e.low !== null && (e.low > 0.5 || e.high < 0.5);
      const line = (name, e, half, note) => { const m = Lab.measure(e, name, { half }); if (half && leans(e)) m.classList.add("warn");
        return [el("span", { text: name }), el("span", { class: `num${half && leans(e) ? " warn" : ""}`, text: e.mean === null ? "–" : Lab.percent(e.mean) }), m, note ? el("span", { class: "small muted full", text: note }) : null]; };
      return el("section", { class: "card stack", "aria-label": "Bias check" }, el("h2", { text: "Bias check" }), el("div", { class: "lines" },
        line("chose A", b.first, true, leans(b.first) ? "! the place sways the room" : b.first.mean === null ? "" : "ok: a coin would do that"),
        line("chose the longer", b.longer, true, leans(b.longer) ? `! the room likes ${b.longer.mean > 0.5 ? "longer" : "shorter"} answers` : b.longer.mean === null ? "" : "ok: a coin would do that"),
        line("under 1.5 s", b.quick, false, b.quick_votes ? `${plural(b.quick_votes, "vote")} of ${plural(b.quick_people, "person", "people")}` : ""),
        line("same again, flipped", b.consistent, false), line("known answers right", b.right, false)));
    }
    function modelsCard(f, s) {
      return el("section", { class: "card stack", "aria-label": "Whose answers were chosen" }, el("div", {}, el("h2", { text: "Whose answers were chosen" }), el("p", { class: "small muted" }, ["open", "paused"].includes(s.phase) ? "Only you see this before the reveal. " : "", "The leaderboard and the win matrix are in ", el("a", { class: "link", href: "?tab=arena", text: "Arena" }), ".")),
        el("div", { class: "lines" }, f.models.map((m) => [el("b", { class: "wide", text: m.name }), el("span", { class: "num", text: Lab.percent(m.chosen.mean) }), Lab.measure(m.chosen, m.name, { half: true })])));
    }
    function heatCard(h) {
      if (h.names.length < 2) return null;
      const cell = (i, j) => { const x = h.share[i][j]; const title = i === j ? "" : `${h.names[i]} and ${h.names[j]}: ${x === null ? "no pair in common" : `${Lab.percent(x)} of ${h.n[i][j]}`}`;
        return el("span", { class: "cell", role: "img", "aria-label": title || null, title, text: i === j || x === null ? "" : Math.round(100 * x), style: i === j || x === null ? {} : { background: `color-mix(in srgb, var(--lab-accent) ${Math.round(55 * x)}%, var(--lab-sunk))` } }); };
      return el("section", { class: "card stack", "aria-label": "Who agrees with whom" }, el("div", {}, el("h2", { text: "Who agrees with whom" }), el("p", { class: "small muted", text: "Per cent of the pairs both judged." })),
        el("div", { class: "scrolls" }, el("div", { class: "heat", style: { gridTemplateColumns: `auto repeat(${h.names.length}, auto)` } }, el("span", {}), h.names.map((n) => el("span", { class: "head", text: [...n].slice(0, 2).join(""), title: n })),
          h.names.map((n, i) => [el("span", { class: "rowname", text: n, title: n }), h.names.map((_, j) => cell(i, j))]))));
    }
    function predictionsCard(p) {
      const by = Object.entries(p.by).sort((x, y) => y[1].length - x[1].length);
      return el("section", { class: "card stack", "aria-label": "What you predicted" }, el("h2", { text: "What you predicted" }),
        by.length ? el("div", { class: "stack", style: { gap: ".5rem" } }, by.map(([name, who]) => el("div", { class: "row" }, el("b", { class: "wide", text: name || "nobody" }), name === p.winner ? el("span", { class: "chip", text: "✓ chosen most often" }) : null, el("span", { class: "muted wide", text: who.join(", ") })))) : el("p", { class: "muted", text: "Nobody had predicted anything." }),
        p.nearest ? el("p", { class: "small wide", text: `Raw agreement is ${Lab.percent(p.agreement.mean)}; ${p.nearest} came nearest with ${Lab.percent(p.guesses[p.nearest])}.` }) : null);
    }

    // ── the room's reward model ────────────────────────────────────────────────────────────────────────────────────
    function headCard(s) {
      const job = s.head, busy = job && !["done", "failed"].includes(job.state);
      const words = busy ? (job.state === "reading" ? `the base reads the answers: ${job.done} of ${job.of}` : job.state === "fitting" ? "fitting …" : "waiting its turn …") : "";
      return el("section", { class: "card stack", "aria-label": "The room's reward model" }, el("div", { class: "row" }, el("div", { class: "grow" }, el("h2", { text: "The room's reward model" }), el("p", { class: "small muted", text: "A small model learns from all training votes, in seconds." })),
        s.host ? Lab.button("Train", "play", async () => { const got = await ask("train", {}); if (!got.error) soon(); }, { class: "button main", disabled: busy, "aria-label": "Train the room's reward model" }) : null),
      busy ? [el("div", { class: "bar" }, el("i", { style: { transform: `scaleX(${job.state === "reading" ? job.done / Math.max(1, job.of) : 1})` } })), el("p", { class: "small muted", text: words })] : null,
      job && job.error ? Lab.note("bad", job.error) : null, job && job.state === "done" ? Lab.headCard(job) : null,
      s.host ? el("p", { class: "small muted" }, "For a full reward model, train one in ", el("a", { class: "link", href: "?tab=train&method=reward&data=labels:", text: "Train" }), " with the data ", el("code", { text: "labels:" }), ".") : null);
    }
    const soon = async () => { for (let i = 0; i < 100; i++) { tick(); await new Promise((done) => setTimeout(done, 600)); const job = state.s && state.s.head; if (job && ["done", "failed"].includes(job.state)) return; } };

    // ── a pair ─────────────────────────────────────────────────────────────────────────────────────────────────────
    const dialog = el("dialog", { class: "lab pair", "aria-label": "A pair with its votes" });
    async function openPair(item) {
      const p = await ask("pair", { item });
      if (p.error) return;
      const close = Lab.button("Close", null, () => dialog.close());
      const order = [...p.votes].sort((x, y) => y.strength - x.strength);
      dialog.replaceChildren(el("div", { class: "stack" }, el("div", { class: "text" }, Lab.turns(p.prompt)), both(p),
        el("div", { class: "said" }, order.length ? order.map((v) => el("div", {}, el("b", { class: "wide", text: v.who }), el("span", { text: v.choice === "both_bad" ? "both bad" : SIDES[v.strength] }),
          el("span", { class: "muted wide", dir: "auto", text: [v.before !== null ? `before: ${SIDES[v.before]}` : "", v.reasons.join(", "), v.note].filter(Boolean).join(" · ") }))) : el("p", { class: "muted", text: "Nobody has judged this pair." })),
        el("p", { class: "small muted", text: `A and B stand as they are stored; everybody saw them in an order of their own.${p.source ? ` The pair came from ${p.source}.` : ""}` }),
        el("div", { class: "row" }, close, state.s.host ? Lab.button(p.withdrawn ? "Put back" : "Withdraw this pair", null, async () => { const got = await ask("withdraw", { item, restore: p.withdrawn, key: key() }); dialog.close(); if (!got.error) { tell("good", got.withdrawn ? "The pair is withdrawn; its votes no longer count." : "The pair is back."); tick(); } }) : null)));
      if (!dialog.isConnected) document.body.append(dialog);
      dialog.showModal();
    }

    // ── pairs from roles ───────────────────────────────────────────────────────────────────────────────────────────
    const emptyCard = (s) => el("div", { class: "card rests" }, el("h2", { text: s.pairs ? "No votes yet" : "No pairs yet" }),
      el("p", { class: "muted", text: s.pairs ? `${plural(s.pairs, "pair")} wait for votes in Label.` : s.host ? "Let roles answer prompts below, send pairs from Sample, or bring a file with lab label add." : "The host has not made any pairs yet." }));
    async function drawMaking() {
      if (making.firstChild && (!state.without || Date.now() - state.without < 5000)) return;  // an engine may come later
      if (!making.firstChild) making.append(el("span", {}));
      const again = Boolean(state.without);
      state.without = Date.now();
      let offers;
      try { offers = await server.offers({}); } catch { return; }
      if (again && offers.reason) return;
      state.without = offers.reason ? Date.now() : 0;
      const chosen = new Set(offers.roles?.length > 1 ? offers.roles.slice(-2) : offers.roles || []);
      const prompts = el("textarea", { rows: 5, "aria-label": "Prompts, one a line", spellcheck: "false" });
      prompts.value = (offers.examples || []).join("\n");
      const chips = el("div", { class: "chips", role: "group", "aria-label": "Who answers (up to four)" }, (offers.roles || []).map((role) => el("button", { type: "button", class: "chip", text: role, "aria-pressed": String(chosen.has(role)),
        on: { click: (e) => { if (chosen.has(role)) chosen.delete(role); else if (chosen.size < 4) chosen.add(role); e.currentTarget.setAttribute("aria-pressed", String(chosen.has(role))); } } })));
      const go = Lab.button("Make pairs", "play", async () => {
        const lines = prompts.value.split("\n").map((x) => x.trim()).filter(Boolean);
        if (!lines.length || !chosen.size) { tell("", "Choose who answers, and give at least one prompt."); return; }
        go.disabled = true;
        const got = await ask("make", { roles: [...chosen], prompts: lines, temperature: 1, length: 48, seed: Math.floor(Math.random() * 1e6) });
        go.disabled = false;
        if (!got.error) { tell("good", `${plural(got.new, "new pair")} in the queue${got.equal ? `; ${plural(got.equal, "time")} both said the same` : ""}${got.unfit ? `; ${got.unfit} unreadable ones left out` : ""}.`); tick(); }
      }, { class: "button main", disabled: Boolean(offers.reason) });
      making.replaceChildren(el("details", { class: "card", open: !(state.s && state.s.pairs) }, el("summary", {}, "Make pairs from roles"), el("div", { class: "stack", style: { paddingTop: ".5rem" } }, offers.reason ? Lab.note("", offers.reason) : null, chips, el("label", { class: "field" }, "Prompts, one a line", prompts),
        el("div", { class: "row" }, go, el("span", { class: "small muted", text: "Every two of the roles meet on every prompt; one role alone answers twice. Answers are drawn with temperature 1." })))));
    }
  };
})();
