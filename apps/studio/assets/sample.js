/* The Sample panel: one prompt, up to four roles side by side, streamed from one batched pass with the same noise. */
(() => {
  const Lab = (window.Lab = window.Lab || {});
  const LETTERS = "ABCD", VIEWS = ["text", "diff", "delta", "entropy", "reward"];
  const LEGENDS = {
    delta: ["less likely", "", "more likely", "than the reference; underlined beyond 2 nats"],
    entropy: ["sure", "one", "undecided", "at each word, in nats"],
    reward: ["lowers the reward", "", "raises it", "as it is read; it was trained on whole answers only"],
  };

  Lab.sample = ({ element, server, props, watch, trigger }) => {
    const root = element.querySelector("[data-panel]");
    const { el } = Lab;
    const state = { roles: null, pins: [], steps: {}, asked: null, sent: new Set(), view: VIEWS.includes(Lab.query("view")) ? Lab.query("view") : "text", busy: false, reply: null, known: [], chosen: false };

    const message = el("div", { "aria-live": "polite" });
    const prompt = el("textarea", { rows: 2, "aria-label": "Prompt", placeholder: "Ask something…", maxlength: 4000, spellcheck: "false",
      on: { keydown: (e) => { if (e.key === "Enter" && !e.shiftKey && !e.isComposing) { e.preventDefault(); generate(); } } } });
    const chips = el("div", { class: "chips", role: "group", "aria-label": "Example prompts" });
    const number = (label, attrs) => {
      const out = el("output", { text: attrs.value });
      const input = el("input", { type: "range", "aria-label": label, ...attrs, on: { input: () => { out.textContent = input.value; } } });
      return { input, node: el("label", { class: "field" }, el("span", {}, `${label}  `, out), input) };
    };
    const temperature = number("Temperature", { min: 0.1, max: 2, step: 0.1, value: 1 });
    const length = number("Longest answer, tokens", { min: 4, max: 128, step: 4, value: 32 });
    const seed = el("input", { type: "number", min: 0, max: 999999, step: 1, value: 0, style: { width: "6.5rem" } });
    const dice = Lab.button("", "dice", () => { seed.value = Math.floor(Math.random() * 1e6); if (prompt.value.trim()) generate(); },
      { class: "button icon", "aria-label": "Another seed", title: "Another seed" });
    const seeds = el("div", { class: "field" }, el("label", { for: "lab-seed", text: "Seed (the same noise for all)" }), el("div", { class: "row", style: { gap: ".4rem" } }, seed, dice));
    seed.id = "lab-seed";
    const start = Lab.button("Generate", "play", () => generate(), { class: "button main" });
    const halt = Lab.button("Stop", "stop", () => stop(), { hidden: true, title: "Esc" });
    const roles = el("div", { class: "chips", role: "group", "aria-label": "Who answers (up to four)" });
    const view = Lab.segments("View", [["text", "text"], ["diff", "diff"], ["delta", "Δ log p"], ["entropy", "entropy"], ["reward", "reward"]],
      VIEWS.includes(Lab.query("view")) ? Lab.query("view") : "text", (v) => { state.view = v; Lab.link({ tab: "sample", view: v === "text" ? null : v }); draw(); });
    const legend = el("span", { class: "scale", hidden: true });
    const more = el("select", { "aria-label": "Add a checkpoint", class: "more", on: { change: () => { const role = more.value; more.value = ""; if (role) choose([...(state.roles || []), role]); } } });
    const pin = Lab.button("Pin as probe", "pin", () => turnPin(), { title: "P: every run that is made here from now on answers it at intervals", "aria-pressed": "false" });
    const columns = el("div", { class: "columns" });

    root.classList.add("stack");
    document.addEventListener("keydown", (e) => {
      if (e.key === "Escape" && state.busy && Lab.visible(root)) { stop(); return; }
      if (!Lab.keyMeant(root, e)) return;
      if (e.key.toLowerCase() === "q") { e.preventDefault(); send(1); }
      if (e.key.toLowerCase() === "p") { e.preventDefault(); turnPin(); }
      if (e.key.toLowerCase() === "g") { e.preventDefault(); generate(); }
    });
    Lab.keys(root, [["Enter", "generate, in the prompt"], ["g", "generate"], ["Esc", "stop"], ["q", "A and B to the label queue"], ["p", "pin the prompt as a probe"]]);
    prompt.addEventListener("input", drawPin);
    root.append(
      el("div", { class: "card stack" }, prompt, chips,
        el("div", { class: "row", style: { alignItems: "flex-end", gap: ".8rem 1.6rem" } }, temperature.node, length.node, seeds, el("span", { class: "grow" }), pin, start, halt)),
      message,
      el("div", { class: "row" }, el("div", { class: "grow row" }, roles, more), legend, view),
      columns);

    const safely = async (name, value) => { try { return await server[name](value); } catch { return { error: "The Studio does not answer; is it still running in its terminal?" }; } };
    Lab.loop(root, async () => {
      let s;
      try { s = await server.roles({}); } catch { s = { reason: "The Studio does not answer; is it still running in its terminal?", roles: [], examples: [] }; }
      state.known = s.roles || [];
      state.steps = s.steps || {};
      state.pins = s.pins || state.pins;
      drawPin();
      if (!state.chosen && !state.reply && state.known.length) {  // until somebody chooses, runs that begin join in
        const asked = state.roles ? [] : (Lab.query("roles") || "").split(",").filter((r) => state.known.includes(r.split("@")[0]));
        state.chosen = asked.length > 0;
        state.roles = (state.chosen ? asked : s.preferred || state.known).slice(0, 4);
      }
      if (state.roles && state.known.length) state.roles = state.roles.filter((r) => state.known.includes(r.split("@")[0]));
      drawRoles();
      Lab.fill(chips, s.examples, () => (s.examples || []).map((text) => el("button", { type: "button", class: "chip", text, on: { click: () => { prompt.value = text; prompt.focus(); generate(); } } })));
      state.reason = s.reason || "";
      if (!state.busy) idle();
      if (!state.reply) draw();
    }, () => 3000);

    function idle() {
      start.disabled = Boolean(state.reason) || !(state.roles || []).length;
      start.title = state.reason;
      halt.hidden = true; start.hidden = false;
      if (state.reason) tell("", state.reason, "reason");
      else if (message.dataset.kind === "reason") tell();
    }
    function tell(level, text, kind = "", more = null) {
      message.dataset.kind = kind;
      Lab.fill(message, [level, text, kind], () => (text ? Lab.note(level, text, more) : null));
    }
    async function turnPin() {
      const text = prompt.value.trim();
      if (!text) { prompt.focus(); tell("", "Type the prompt that is to be pinned.", "hint"); return; }
      const reply = await safely("pin", { prompt: text });
      if (reply.pins) state.pins = reply.pins;
      tell(reply.error ? "bad" : "good", reply.error || reply.sentence, "act");
      drawPin();
    }
    function drawPin() {
      const pinned = state.pins.includes(prompt.value.trim());
      pin.setAttribute("aria-pressed", String(pinned));
      pin.lastChild.textContent = pinned ? "Pinned" : "Pin as probe";
    }
    async function send(i) {
      const shown = state.reply ? state.reply.columns : [];
      if (state.busy || !state.asked || !shown[i]) return;
      const reply = await safely("send", { prompt: state.asked.prompt, temperature: state.asked.temperature, seed: state.asked.seed, a: shown[0], b: shown[i] });
      if (!reply.error) state.sent.add(i);
      tell(reply.error ? "bad" : "good", reply.error || reply.sentence, "act");
      draw();
    }
    function choose(chosen) {
      state.chosen = true;
      state.roles = chosen.slice(0, 4);
      Lab.link({ tab: "sample", roles: state.roles.join(",") });
      drawRoles();
      if (!state.busy) { state.reply = null; idle(); draw(); }
    }
    function drawMore() {
      const full = (state.roles || []).length >= 4;
      more.hidden = !Object.keys(state.steps).length;
      more.disabled = full;
      Lab.fill(more, [state.steps, state.roles, full], () => [el("option", { value: "", text: full ? "four are chosen" : "a checkpoint …" }),
        ...Object.entries(state.steps).reverse().map(([run, steps]) => el("optgroup", { label: run }, steps.filter((n) => !(state.roles || []).includes(`${run}@${n}`))
          .reverse().map((n) => el("option", { value: `${run}@${n}`, text: `${run} at step ${n}` }))))]);
    }
    function drawRoles() {
      drawMore();
      const offered = [...state.known, ...(state.roles || []).filter((r) => !state.known.includes(r))];
      Lab.fill(roles, [offered, state.roles], () => offered.map((role) => {
        const at = (state.roles || []).indexOf(role);
        const full = at < 0 && (state.roles || []).length >= 4;
        return el("button", { type: "button", class: "chip", "aria-pressed": String(at >= 0), "data-role": role, disabled: full, title: full ? "Four at most; take one away first." : null,
          on: { click: () => {
            choose(at >= 0 ? state.roles.filter((r) => r !== role) : offered.filter((r) => r === role || state.roles.includes(r)));
            roles.querySelector(`[data-role="${CSS.escape(role)}"]`)?.focus();
          } } }, at >= 0 ? el("b", { text: LETTERS[at] }) : null, el("span", { text: role }));
      }));
    }

    function generate() {
      const text = prompt.value.trim();
      if (state.busy || start.disabled) return;
      if (!text) { prompt.focus(); tell("", "Type a prompt, or choose one above.", "hint"); return; }
      state.busy = true;
      state.reply = { columns: state.roles.map((role) => ({ role, text: "", tokens: [], deltas: [], diff: [], reasons: [] })) };
      tell();
      start.hidden = true; halt.hidden = false;
      draw();
      state.sent = new Set();
      state.asked = { prompt: text, temperature: Number(temperature.input.value), seed: Number(seed.value) || 0 };
      setTimeout(() => { if (state.busy && !state.reply.columns.some((c) => c.text)) tell("", "Waiting for the model: others are being answered first, or a run is in the middle of a step.", "wait"); }, 2000);
      props.value = { prompt: text, roles: state.roles, temperature: Number(temperature.input.value), length: Number(length.input.value),
        seed: Number(seed.value) || 0, ask: Date.now() };
      trigger("generate");
    }
    function stop() {
      trigger("halt");
      state.busy = false;
      tell("", "Stopped; this is what had been said.", "hint");
      idle();
      draw();
      start.focus();
    }
    watch("value", () => {
      const reply = props.value;
      if (!reply || !reply.state || !state.busy) return;
      state.reply = reply.columns && reply.columns.length ? reply : state.reply;
      if (message.dataset.kind === "wait") tell();
      if (reply.state !== "busy") {
        state.busy = false;
        idle();
        if (reply.state === "error") refuse(reply);
      }
      draw();
    });
    function refuse(reply) {
      state.reply = null;
      const offers = (reply.suggestions || []).map((text) => el("button", { type: "button", class: "chip", text, on: { click: () => { prompt.value = text; generate(); } } }));
      message.dataset.kind = "error"; message.dataset.key = "";
      const unknown = reply.unknown && reply.unknown.length;
      message.replaceChildren(el("div", { class: `note ${unknown ? "warn" : "bad"}`, role: "alert", style: { flexDirection: "column" } },
        el("span", { class: "wide", text: reply.error }), offers.length ? el("div", { class: "row small" }, el("span", { text: "Try" }), el("div", { class: "chips" }, offers)) : null));
    }

    function draw() {
      const scale = LEGENDS[state.view];
      legend.hidden = !scale;
      if (scale) Lab.fill(legend, scale, () => [el("span", { text: scale[0] }), el("i", { class: scale[1] }), el("span", { text: scale[2] }), el("span", { class: "optional", text: scale[3] })]);
      const shown = state.reply ? state.reply.columns : (state.roles || []).map((role) => ({ role, text: null }));
      if (columns.children.length !== shown.length || shown.some((c, i) => columns.children[i].dataset.role !== c.role)) {
        columns.replaceChildren(...shown.map((c, i) => el("article", { class: "card column", "data-role": c.role, "aria-label": `Answer ${LETTERS[i]}: ${c.role}` },
          el("header", {}, el("h3", {}, el("span", { class: "letter", text: LETTERS[i], "aria-hidden": "true" }), c.role), el("span", { class: "small muted", "data-split": "" })),
          el("div", { class: "said", "aria-live": "off" }), el("div", { "data-facts": "" }), el("div", { "data-send": "" }))));
      }
      shown.forEach((c, i) => column(columns.children[i], c, i));
    }
    function column(card, c, i) {
      const said = card.querySelector(".said");
      const going = state.busy && c.ended !== true && c.ended !== false;
      said.classList.toggle("caret", going);
      said.classList.toggle("muted", c.text === null);
      const split = card.querySelector("[data-split]");
      split.textContent = i === 0 ? "" : c.text && !going ? (c.split === null ? "same words as A" : c.split === undefined ? "" : `parts from A at word ${c.split + 1}`) : "";
      let parts;
      if (c.text === null) parts = [document.createTextNode("–")];
      else if (state.view === "diff" && i > 0 && c.diff && c.diff.length) parts = Lab.diff(c.diff);
      else if (state.view === "delta" && c.deltas && c.deltas.length) parts = Lab.heat(c.tokens, c.deltas);
      else if (state.view === "entropy" && c.entropy && c.entropy.length) parts = Lab.unsure(c.tokens, c.entropy);
      else if (state.view === "reward" && c.earned && c.earned.length) parts = Lab.earned(c.tokens, c.earned);
      else if (state.view === "reward" && c.text && !going) parts = [document.createTextNode(c.text), el("div", { class: "small muted", text: "No finished reward model on this base reads it; train one." })];
      else if (state.view === "delta" && c.text && !going) parts = [document.createTextNode(c.text), el("div", { class: "small muted", text: "No reference to compare with." })];
      else parts = [document.createTextNode(c.text || (going ? "" : "(nothing)"))];
      said.replaceChildren(...parts);
      const other = state.reply && state.reply.columns[0], same = i > 0 && other && other.text === c.text, sent = state.sent.has(i);
      Lab.fill(card.querySelector("[data-send]"), [i, c.text, going, same, sent, state.busy], () => (i === 0 || !c.text || going || state.busy ? null
        : Lab.button(sent ? "in the label queue" : same ? "same answer as A" : `label A against ${LETTERS[i]}`, "label", () => send(i), { class: "button quiet", disabled: same || sent, title: i === 1 ? "Q" : null })));
      Lab.fill(card.querySelector("[data-facts]"), c.text === null ? null : [c.reward, c.gold, c.reasons, c.length, c.ended, going], () => (c.text === null || (going && !c.length) ? null : Lab.facts(c)));
    }
  };
})();
