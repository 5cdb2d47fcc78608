/* The Guide panel: rules, practice with answers, ten pairs, one's biases, a prediction. Where one is, the server knows. */
(() => {
  const Lab = (window.Lab = window.Lab || {});
  const NAMES = { rules: "Rules", practice: "Practice", label: "Label ten", biases: "Your biases", predict: "Predict" };
  const VOTES = [[2, "a much", "A much better", "A ≫"], [1, "a", "A better", "A >"], [0, "", "Tie", "="], [-1, "b", "B better", "< B"], [-2, "b much", "B much better", "≪ B"]];

  Lab.guide = ({ element, server }) => {
    const root = element.querySelector("[data-panel]");
    const { el } = Lab;
    const state = { s: null, at: null, answered: null, since: 0, busy: false };
    const steps = el("div", { class: "steps", role: "group", "aria-label": "Steps of the guide" });
    const message = el("div", { "aria-live": "polite" }), card = el("div", {}), host = el("div", {});
    root.classList.add("stack");
    root.append(steps, message, card, host);
    card.append(el("div", { class: "skeleton", style: { height: "14rem" } }));
    Lab.keys(root, [["1 … 5", "judge a practice pair"], ["↵", "the next one"]]);
    root.ownerDocument.addEventListener("keydown", (event) => {
      if (!Lab.keyMeant(root, event)) return;
      const digit = /^(?:Digit|Numpad)([1-5])$/.exec(event.code);
      if (digit && !event.shiftKey && state.at === "practice" && !state.answered && performance.now() - state.since > 400) choose(VOTES[digit[1] - 1][0]);
      else if (event.key === "Enter" && !(event.target instanceof Element && event.target.closest("button, a, summary"))) card.querySelector("[data-next]")?.click();
    });

    const tell = (level, text) => Lab.fill(message, [level, text], () => (text ? Lab.note(level, text) : null));
    async function ask(name, body) {
      if (state.busy) return { error: "" };
      state.busy = true;
      let got;
      try { got = await server[name](body); } catch { got = { error: "The Studio does not answer; try again in a moment." }; }
      state.busy = false;
      tell("bad", got.error || "");
      return got;
    }
    async function load(follow) {
      let s;
      try { s = await server.place({}); } catch { s = { error: "The Studio does not answer; is it still running in its terminal?" }; }
      if (s.error) { tell("bad", s.error); return; }
      if (message.querySelector(".bad")) tell();
      state.s = s;
      if (follow || state.at === null) state.at = s.now;
      draw();
    }
    Lab.loop(root, () => (state.answered || state.busy ? undefined : load(false)), () => 3000);

    function draw() {
      const s = state.s;
      Lab.fill(steps, [s.steps, state.at], () => s.steps.map((step, i) => el("button", { type: "button", class: step.done ? "done" : "", "aria-current": step.name === state.at ? "step" : null, "aria-label": `Step ${i + 1}: ${NAMES[step.name]}${step.done ? ", done" : step.skipped ? ", skipped by the host" : ""}`,
        on: { click: () => { state.at = step.name; state.answered = null; draw(); } } }, el("span", { class: "mark", "aria-hidden": "true", text: step.done ? "✓" : i + 1 }), el("span", {}, el("b", { class: "name", text: NAMES[step.name] }), step.skipped ? el("span", { class: "small muted name", text: " skipped" }) : null))));
      const make = { rules, practice, label, biases, predict, done }[state.at];
      const key = { rules: [s.rules], practice: [s.practice.n, s.practice.of, s.practice.right, Boolean(state.answered)], label: [s.mine], biases: [s.mine], predict: [s.policies, s.prediction, s.blind], done: [s.prediction, s.practice.right] }[state.at];
      if (Lab.fill(card, [state.at, ...key], () => make(s)) && state.at === "practice") state.since = performance.now();
      Lab.fill(host, [s.host, s.steps.map((x) => x.skipped)], () => (s.host ? skipping(s) : null));
    }
    const next = (text, call) => Lab.button(text, null, call, { class: "button main", "data-next": true });

    function rules(s) {
      return el("section", { class: "card stack", "aria-label": "The rules" }, el("div", {}, el("h2", { text: "The rules, in a minute" }), el("p", { class: "muted", text: "You will see two answers at a time, and say which one is better, and by how much." })),
        el("ul", { class: "rules" }, s.rules.map(([rule, more]) => el("li", {}, el("b", { text: rule }), el("span", { class: "muted", text: more })))),
        el("div", { class: "row" }, next("I have read them ↵", async () => { const got = await ask("step", { step: "rules" }); if (!got.error) load(true); })));
    }
    function practice(s) {
      const p = s.practice;
      if (state.answered) return answered(state.answered);
      if (p.n === null) return el("section", { class: "card stack rests" }, el("h2", { text: `${p.right} of ${p.of} right` }), el("p", { class: "muted", text: "Now the real ones: there, nobody knows the answer." }), el("div", { class: "row", style: { justifyContent: "center" } }, next("Go on ↵", () => { state.at = "label"; draw(); })));
      return pair(p, el("div", { class: "votes", role: "group", "aria-label": "Which answer is better" }, VOTES.map(([strength, kind, long, short], i) => el("button", { type: "button", class: `vote ${kind}`, "aria-label": long, "aria-keyshortcuts": String(i + 1), on: { click: () => choose(strength) } }, el("span", { class: "long", text: long }), el("span", { class: "short", text: short }), el("kbd", { class: "optional", text: i + 1 })))), null);
    }
    const pair = (p, below, told) => el("div", { class: "stack judging" }, el("div", { class: "row" }, el("h2", { text: `Practice ${p.n + 1} of ${p.of}` }), el("span", { class: "grow" })), el("section", { class: "card asked", "aria-label": "Prompt" }, el("div", { class: "text", dir: "auto", text: p.prompt })),
      el("div", { class: "versus" }, [["A", p.a], ["B", p.b]].map(([letter, said], i) => el("section", { class: `card reply ${letter.toLowerCase()}${told && told.answer === letter.toLowerCase() ? " better" : ""}`, "aria-label": `Answer ${letter}` }, el("h3", {}, el("span", { class: "letter", text: letter, "aria-hidden": "true" }), `Answer ${letter}`),
        el("div", { class: "body" }, el("div", { class: "text", dir: "auto", text: said })), told && told.points[i].length ? el("ul", { class: "points", "aria-label": `Why answer ${letter} gets its true score` }, told.points[i].map(([name, x]) => el("li", { class: x < 0 ? "minus" : "plus" }, `${name} `, el("b", { class: "num", text: Lab.signed(x, 2) })))) : null))), below);
    async function choose(strength) {
      const p = state.s.practice, ms = Math.min(86400000, Math.round(performance.now() - state.since));
      if (p.n === null || state.answered) return;
      const got = await ask("answer", { n: p.n, strength, ms });
      if (got.error !== undefined) return;
      state.answered = { p, got, ms };
      draw();
    }
    function answered({ p, got, ms }) {
      const side = { a: "A is better", b: "B is better", tie: "It is a tie" }[got.answer];
      return pair(p, el("div", { class: "card stack", "aria-live": "polite" }, el("p", { class: "verdict" }, el("b", { text: got.right ? `✓ Right. ${side}. ` : `✗ ${side}. ` }), el("span", { dir: "auto", text: got.why })),
        el("p", { class: "small muted", text: `You took ${(ms / 1000).toFixed(1)} s.${got.others[1] > 1 ? ` ${got.others[0]} of ${got.others[1]} who tried it got it right.` : ""}` }),
        el("div", { class: "row" }, next("Next ↵", () => { state.answered = null; load(false); }))), got);
    }
    function label(s) {
      const left = s.wanted - s.mine;
      return el("section", { class: "card stack rests" }, el("h2", { text: left > 0 ? `Judge ${s.wanted} pairs` : `${s.wanted} pairs judged` }), el("p", { class: "muted", text: left > 0 ? "Blind, one key a pair: 1 to 5. After the tenth you see something about yourself." : "Go on as long as you like; every vote counts." }),
        el("div", { class: "bar", role: "progressbar", "aria-label": "Pairs judged", "aria-valuenow": s.mine, "aria-valuemin": 0, "aria-valuemax": s.wanted }, el("i", { style: { transform: `scaleX(${s.mine / s.wanted})` } })), el("p", { class: "small muted num", text: `${s.mine} of ${s.wanted}` }),
        el("div", { class: "row", style: { justifyContent: "center" } }, el("a", { class: "button main", href: "?tab=label", text: left > 0 ? "Open Label" : "Judge more" }), left > 0 ? null : next("Go on ↵", () => { state.at = "biases"; draw(); })));
    }
    function biases(s) {
      const ready = s.mine >= s.wanted;
      return el("section", { class: "card stack rests" }, el("h2", { text: "See your biases" }), el("p", { class: "muted", text: ready ? "Label has a card about you after each block of ten: how often you picked what stood first, and what was longer, how far you agree with the others. There you can also train a reward model of your own." : `This opens after ${s.wanted} pairs: before, it would sway your votes.` }),
        el("div", { class: "row", style: { justifyContent: "center" } }, el("a", { class: "button main", href: ready ? "?tab=label&about=1" : "?tab=label", text: ready ? "See my biases" : "Judge more" }), ready ? next("I have seen them ↵", async () => { const got = await ask("step", { step: "biases" }); if (!got.error) load(true); }) : null));
    }
    function predict(s) {
      const had = s.prediction, chosen = { name: had.winner || "" };
      const chips = el("div", { class: "chips", role: "group", "aria-label": "Which policy will win?" });
      const press = () => { for (const b of chips.children) b.setAttribute("aria-pressed", String(b.dataset.name === chosen.name)); };
      chips.append(...s.policies.map((name) => el("button", { type: "button", class: "chip", "data-name": name, text: name, disabled: !s.blind, on: { click: () => { chosen.name = name; press(); } } })));
      press();
      const out = el("output", { for: "guide-agreement" }), slider = el("input", { type: "range", id: "guide-agreement", min: 0, max: 100, step: 1, value: Math.round(100 * (had.agreement ?? 0.7)), disabled: !s.blind, "aria-label": "How far will all agree, per cent", on: { input: () => { out.textContent = `${slider.value} %`; } } });
      out.textContent = `${slider.value} %`;
      return el("section", { class: "card stack foresee", "aria-label": "Your prediction" }, el("div", {}, el("h2", { text: "Which policy will win, and how far will all agree?" }), el("p", { class: "muted", text: s.blind ? "Say it before the reveal; then the reveal will surprise you, or not." : "The round was revealed; the next one takes predictions again." })),
        s.policies.length ? chips : el("p", { class: "muted", text: "Nobody has named the policies yet; come back when there are pairs." }),
        el("label", { class: "field", for: "guide-agreement" }, el("span", {}, "of two votes on the same pair, how many say the same  ", out), slider),
        el("div", { class: "row" }, s.blind && s.policies.length ? next(had.winner ? "Change my prediction" : "Predict ↵", async () => {
          if (!chosen.name) { tell("", "Choose a policy first."); return; }
          const got = await ask("predict", { winner: chosen.name, agreement: Number(slider.value) / 100 });
          if (!got.error) { await load(true); tell("good", "Your prediction is kept until the reveal."); }
        }) : null));
    }
    function done(s) {
      return el("section", { class: "card stack rests" }, el("h2", { text: "You are ready" }), el("p", { class: "muted wide", text: s.prediction.winner ? `Your prediction: ${s.prediction.winner}, with ${Lab.percent(s.prediction.agreement)} agreement. The reveal is in Room.` : "The reveal is in Room." }),
        el("div", { class: "row", style: { justifyContent: "center" } }, el("a", { class: "button main", href: "?tab=label", text: "Judge more" }), el("a", { class: "button", href: "?tab=room", text: "Open Room" })));
    }
    function skipping(s) {
      return el("details", { class: "card" }, el("summary", {}, "For the host: steps that nobody needs to take"), el("div", { class: "chips", role: "group", "aria-label": "Steps to skip for all", style: { paddingTop: ".5rem" } }, s.steps.map((step) => el("button", { type: "button", class: "chip", "aria-pressed": String(step.skipped), text: NAMES[step.name],
        on: { click: async () => { const got = await ask("skip", { steps: s.steps.filter((x) => (x.name === step.name ? !x.skipped : x.skipped)).map((x) => x.name) }); if (!got.error) load(false); } } }))));
    }
  };
})();
