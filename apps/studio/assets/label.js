/* The Label panel: which of two answers is better, blind, one key a pair. A vote is kept until it is acknowledged. */
(() => {
  const Lab = (window.Lab = window.Lab || {});
  const GUARD_MS = 400, PATIENCE_MS = 8000, KEPT = "lab-vote-under-way";
  const VOTES = [[2, "a much", "A much better", "A ≫", "1"], [1, "a", "A better", "A >", "2"], [0, "", "Tie", "=", "3"], [-1, "b", "B better", "< B", "4"], [-2, "b much", "B much better", "≪ B", "5"]];
  const WORDS = { "with the room": "you and the room", "with the reward model": "you and the reward model", longer: "picked the longer one", first: "picked A" };

  Lab.label = ({ element, server }) => {
    const root = element.querySelector("[data-panel]");
    const { el } = Lab;
    const state = { shown: null, since: 0, busy: false, mine: 0, reasons: [], card: false, begun: false };

    // ── the network may go away for a minute: the same request, with the same key, until it is answered ────────────
    const wait = (ms) => new Promise((done) => setTimeout(done, ms));
    async function insist(name, body) {
      for (let pause = 500; ; pause = Math.min(2 * pause, 4000)) {
        try {
          const got = await Promise.race([server[name](body), wait(PATIENCE_MS).then(() => undefined)]);
          if (got && typeof got === "object") return got;
        } catch { /* away */ }
        say("Waiting for the network; nothing is lost.", "bad");
        await wait(pause);
      }
    }

    // ── the page ───────────────────────────────────────────────────────────────────────────────────────────────────
    const heading = el("h2", { text: "Which answer is better?" });
    const counts = el("span", { class: "num muted small", role: "status" });
    const bar = el("i", {}), track = el("span", { class: "bar track", role: "progressbar", "aria-label": "Votes of the whole room", "aria-valuemin": 0, "aria-valuemax": 100 }, bar);
    const top = el("div", { class: "row top" }, heading, el("span", { class: "blind", title: "Nothing here says which model spoke." }, el("i", {}), "blind"), el("span", { class: "grow" }), counts, track);
    const asked = el("section", { class: "card asked", "aria-label": "Prompt", tabindex: 0 });
    const side = (letter) => {
      const body = el("div", { class: "body", tabindex: 0, role: "group", "aria-label": `Text of answer ${letter}` });
      return { body, node: el("section", { class: `card reply ${letter.toLowerCase()}`, "aria-label": `Answer ${letter}` }, el("h3", {}, el("span", { class: "letter", text: letter, "aria-hidden": "true" }), `Answer ${letter}`), body) };
    };
    const A = side("A"), B = side("B");
    const why = el("div", { class: "row why", role: "group", "aria-label": "Why? Optional, before you choose" });
    const note = el("input", { type: "text", maxlength: 2000, placeholder: "a note", "aria-label": "A note, optional", autocomplete: "off" });
    const chips = () => [...why.querySelectorAll(".chip")];
    const votes = el("div", { class: "votes", role: "group", "aria-label": "Which answer is better" }, VOTES.map(([strength, kind, long, short, key]) =>
      el("button", { type: "button", class: `vote ${kind}`, "aria-label": long, "aria-keyshortcuts": key, on: { click: () => vote(strength) } },
        el("span", { class: "long", text: long }), el("span", { class: "short", text: short }), el("kbd", { text: key }))));
    const small = (text, key, call) => el("button", { type: "button", class: "button", "aria-keyshortcuts": key, on: { click: call } }, el("span", { text }), el("kbd", { text: key }));
    const told = el("span", { class: "tell", role: "status", "aria-live": "polite" });
    const back = small("Undo", "U", () => undo());
    const low = el("div", { class: "row low" }, small("Both bad", "B", () => bothBad()), small("Skip", "S", () => skip()), back, el("span", { class: "grow" }), told);
    const deck = el("div", { class: "deck" }, why, votes, low);
    const pair = el("div", { class: "stack judging", hidden: true }, asked, el("div", { class: "versus" }, A.node, B.node), deck);
    const rests = el("div", { class: "stack" });
    const own = el("div", { class: "stack" });
    root.classList.add("stack", "judging");
    root.append(top, rests, pair, own);
    Lab.keys(root, [["1", "A is much better"], ["2", "A is better"], ["3", "a tie"], ["4", "B is better"], ["5", "B is much better"], ["B", "both are bad"], ["S", "skip this pair"],
      ["U", "undo, as often as you like"], ["⇧ 1 … 5", "why, before you choose"], ["↵", "go on after a card"]]);

    const say = (text, kind = "") => { told.textContent = text; told.className = `tell ${kind}`; if (pair.hidden && rests.firstChild && kind === "bad") tellResting(text); };
    const tellResting = (text) => { let line = rests.querySelector(".tell.away"); if (!line) rests.append(line = el("p", { class: "tell bad away", role: "status" })); line.textContent = text; };

    function count(s) {
      if (s.mine === undefined) return;
      state.mine = s.mine;
      const round = s.round ? `Round ${s.round}${s.title ? ` · ${s.title}` : ""} · ` : "";
      counts.textContent = `${round}you ${s.mine} · room ${s.room}${s.wanted ? ` of ${s.wanted}` : ""}`;
      const share = s.wanted ? Math.min(1, s.room / s.wanted) : 0;
      bar.style.transform = `scaleX(${share})`;
      track.setAttribute("aria-valuenow", Math.round(100 * share));
      state.waits = s.waits || "";
      own.hidden = s.mine < s.least;
    }

    function show(next) {
      state.shown = next;
      A.node.classList.remove("chosen"); B.node.classList.remove("chosen");
      note.value = "";
      for (const chip of chips()) chip.setAttribute("aria-pressed", "false");
      if (document.activeElement && pair.contains(document.activeElement) && document.activeElement.matches(".vote, .button, .chip")) document.activeElement.blur();
      if (state.card) { pair.hidden = true; return; }
      pair.hidden = !next;
      if (!next) { resting(); return; }
      rests.replaceChildren(); rests.dataset.key = "";
      asked.replaceChildren(...Lab.turns(next.prompt));
      A.body.replaceChildren(...Lab.turns(next.first, next.cut[0]));
      B.body.replaceChildren(...Lab.turns(next.second, next.cut[1]));
      for (const box of [asked, A.body, B.body]) box.scrollTop = 0;
      if (window.innerWidth <= 640 && Lab.visible(root)) top.scrollIntoView({ block: "start" });
      state.since = performance.now();
    }

    function resting() {
      const why = state.waits;
      Lab.fill(rests, ["rest", why, state.mine, state.wanted], () => el("div", { class: "card stack rests", "aria-live": "polite" },
        el("h2", { text: why ? "A pause" : state.wanted ? "Nothing left to judge" : "No pairs yet" }),
        el("p", { class: "muted", text: why || (state.wanted ? "Every pair has the votes it needs, or is with somebody else just now. Thank you."
          : "Nobody has sent a pair here. Compare models in Sample and send a pair with Q, let the host make some in Room, or bring a file:") }),
        why || state.wanted ? null : el("p", {}, el("code", { text: "lab label add comparisons.jsonl" })),
        el("div", { class: "row", style: { justifyContent: "center" } },
          why ? el("a", { class: "button main", href: "?tab=room", text: "Open Room" }) : Lab.button("Look again", null, begin, { class: "button main" }),
          state.mine && !why ? Lab.button("Undo my last answer", null, () => undo()) : null)));
    }

    // ── what is said ───────────────────────────────────────────────────────────────────────────────────────────────
    const tooSoon = () => state.busy || performance.now() - state.since < GUARD_MS;
    async function turn(work) {
      state.busy = true;
      for (const b of deck.querySelectorAll("button")) b.disabled = true;
      try { await work(); } finally { state.busy = false; for (const b of deck.querySelectorAll("button")) b.disabled = false; }
    }

    function answer(name, body, chosen) {
      if (!state.shown || state.card || tooSoon()) return;
      const ms = Math.min(86400000, Math.round(performance.now() - state.since));
      const reasons = chips().filter((c) => c.getAttribute("aria-pressed") === "true").map((c) => c.dataset.name);
      chosen?.classList.add("chosen");
      return send(name, { item: state.shown.item, key: state.shown.key, ms, reasons, note: note.value, ...body });
    }
    function send(name, body) {
      return turn(async () => {
        Lab.keep(KEPT, JSON.stringify([name, body]));
        const got = await insist(name, body);
        Lab.keep(KEPT, null);
        took(name, body, got);
      });
    }
    function took(name, body, got) {
      count(got);
      if (got.error && got.next === undefined) { say(got.error, "bad"); A.node.classList.remove("chosen"); B.node.classList.remove("chosen"); return; }
      if (got.error) say(got.error, "bad");
      else say(name === "skip" ? "skipped" : `saved ✓ ${(body.ms / 1000).toFixed(1)} s`, "good");
      if (got.about) reveal(got.about);
      state.wanted = got.wanted;
      show(got.next);
    }
    const vote = (strength) => answer("vote", { strength }, strength > 0 ? A.node : strength < 0 ? B.node : null);
    const bothBad = () => answer("vote", { strength: 0, both_bad: true });
    const skip = () => answer("skip", {});
    const fresh = () => [...crypto.getRandomValues(new Uint8Array(12))].map((n) => n.toString(16).padStart(2, "0")).join("");
    function undo() {
      if (tooSoon()) return;
      const key = fresh();
      return turn(async () => {
        const got = await insist("undo", { key });
        count(got);
        if (got.error) { say(got.error, "bad"); return; }
        go(false);
        show(got.next);
        say("taken back", "good");
      });
    }
    root.ownerDocument.addEventListener("keydown", (event) => {
      if (!Lab.keyMeant(root, event)) return;
      const digit = /^(?:Digit|Numpad)([1-5])$/.exec(event.code);
      if (event.key === "Enter" && state.card && !(event.target instanceof Element && event.target.closest("button, a, summary"))) { event.preventDefault(); go(); }
      else if (digit && event.shiftKey) { const chip = chips()[digit[1] - 1]; if (chip && !pair.hidden) { event.preventDefault(); press(chip); } }
      else if (digit) vote(VOTES[digit[1] - 1][0]);
      else if (event.shiftKey) return;
      else if (event.key === "b") bothBad();
      else if (event.key === "s") skip();
      else if (event.key === "u") undo();
    });
    const press = (chip) => chip.setAttribute("aria-pressed", String(chip.getAttribute("aria-pressed") !== "true"));

    // ── after a block: about oneself ───────────────────────────────────────────────────────────────────────────────
    function figure(f) {
      const last = f.of ? [`${f.hits}`, el("small", { text: ` of ${f.of}` })] : ["–"];
      const lines = el("div", {}, el("div", { class: "small muted", text: WORDS[f.name] || f.name }), el("div", { class: "big" }, last), f.rate.mean === null ? null : Lab.measure(f.rate, WORDS[f.name] || f.name, { half: f.coin }),
        el("p", { class: "small muted", text: `${f.words}${f.all_of > f.of ? ` · ${f.all_hits} of ${f.all_of} in all` : ""}` }));
      return lines;
    }
    function aboutCard(about, more) {
      const speed = about.ms === null ? null : el("div", {}, el("div", { class: "small muted", text: "time for a pair" }), el("div", { class: "big" }, `${(about.ms / 1000).toFixed(1)}`, el("small", { text: " s" })),
        el("p", { class: "small muted", text: about.quick ? `${about.quick} of them in less than 1.5 s: too quick to have read both` : "the median; nothing was too quick to be read" }));
      return el("section", { class: "card stack oneself", "aria-label": "About your votes" },
        el("div", {}, el("h2", { text: about.blocks > 1 ? `Your last ten, and all ${about.votes}` : "Your first ten" }), el("p", { class: "muted", text: "Only you see this. The line under each number is the 95 % interval over everything you judged." })),
        el("div", { class: "figures" }, about.figures.map(figure), speed), more);
    }
    function remember(about) {
      state.about = about || state.about;
      Lab.fill(before, [state.about], () => (state.about ? aboutCard(state.about) : null));
      past.hidden = !state.about;
    }
    function reveal(about) {
      state.card = true;
      remember(about);
      pair.hidden = true;
      const draw = (a) => { rests.dataset.key = ""; rests.replaceChildren(aboutCard(a, el("div", { class: "row" }, Lab.button("Go on ↵", null, () => go(), { class: "button main" }), Lab.button("Undo my last vote", null, () => undo())))); };
      draw(about);
      state.since = performance.now();
      server.about({}).then((more) => { if (!more || !more.about) return; remember(more.about); if (state.card) draw(more.about); }).catch(() => {});
    }
    function go(next = true) {
      if (!state.card) return;
      state.card = false;
      rests.replaceChildren(); rests.dataset.key = "";
      if (next) show(state.shown);
    }

    // ── a reward model of one's own ────────────────────────────────────────────────────────────────────────────────
    const trainer = Lab.button("Train my reward model", "play", () => train(), { class: "button main" });
    const result = el("div", { class: "stack", "aria-live": "polite" });
    own.append(el("section", { class: "card stack", "aria-label": "Your own reward model" },
      el("div", { class: "row" }, el("div", { class: "grow" }, el("h2", { text: "Your own reward model" }),
        el("p", { class: "muted", text: "A small model learns from your votes alone, in seconds, and says which policy you would have shipped." })), trainer), result));
    const before = el("div", {}), past = el("details", { class: "past", hidden: true, open: Lab.query("about") !== null }, el("summary", {}, "About your votes so far"), before);
    own.append(past);
    own.hidden = true;
    async function train() {
      trainer.disabled = true;
      try { for (let job = await server.train({}); drawJob(job); job = await server.trained({})) await wait(500); }
      catch { result.replaceChildren(Lab.note("bad", "The Studio does not answer; try again in a moment.")); }
      trainer.disabled = false;
    }
    function drawJob(job) {
      if (job.error) { result.dataset.key = ""; result.replaceChildren(Lab.note("bad", job.error)); return false; }
      if (job.state === "done") { result.dataset.key = ""; result.replaceChildren(...Lab.headCard(job)); return false; }
      if (!job.state) return false;
      const words = job.state === "reading" ? `the base reads the answers: ${job.done} of ${job.of}` : job.state === "fitting" ? "fitting …" : "waiting its turn …";
      const share = job.state === "reading" ? job.done / Math.max(1, job.of) : job.state === "fitting" ? 1 : 0;
      result.dataset.key = "";
      result.replaceChildren(el("div", { class: "bar" }, el("i", { style: { transform: `scaleX(${share})` } })), el("p", { class: "small muted", text: words }));
      return true;
    }

    // ── beginning, and waiting ─────────────────────────────────────────────────────────────────────────────────────
    async function begin() {
      const got = await insist("place", {});
      state.begun = true;
      if (got.error) { rests.replaceChildren(Lab.note("bad", got.error, Lab.button("Try again", null, begin, { class: "" }))); return; }
      if (!state.reasons.length) {
        state.reasons = got.reasons;
        why.append(el("span", { class: "muted small", text: "Why?" }), ...got.reasons.map((name, i) => {
          const chip = el("button", { type: "button", class: "chip", "data-name": name, "aria-pressed": "false", "aria-keyshortcuts": `Shift+${i + 1}`, on: { click: () => press(chip) } }, el("span", { text: name }), el("kbd", { text: `⇧${i + 1}` }));
          return chip;
        }), note);
      }
      state.wanted = got.wanted;
      remember(got.about);
      count(got);
      go(false);
      show(got.next);
      const job = await server.trained({}).catch(() => ({}));
      if (job.state === "done") drawJob(job);
    }
    rests.append(el("div", { class: "skeleton", style: { height: "16rem" } }));
    Lab.loop(root, async () => {
      if (!state.begun) {
        const kept = Lab.kept(KEPT);
        await begin();
        if (kept) { try { const [name, body] = JSON.parse(kept); await send(name, body); } catch { Lab.keep(KEPT, null); } }
        return;
      }
      if (state.busy || state.card) return;
      let s;
      try { s = await server.look({}); } catch { return; }
      if (s.error || state.busy || state.card) return;
      const had = state.waits, before = state.wanted;
      state.wanted = s.wanted;
      count(s);
      if (state.waits && !pair.hidden && state.waits !== had) { state.shown = null; pair.hidden = true; resting(); }
      else if (pair.hidden && (had !== state.waits || (!state.waits && (before !== s.wanted || s.room < s.wanted)))) { state.shown = null; await begin(); }
    }, () => 2000);
  };
})();
