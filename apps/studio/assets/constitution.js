/* The Constitution panel: principles in words, what they do to an answer, and whether they judge as people did. */
(() => {
  const Lab = (window.Lab = window.Lab || {});
  const percent = (x) => (x === null || x === undefined ? "–" : `${Math.round(100 * x)} %`);
  const copy = (value) => JSON.parse(JSON.stringify(value));
  const named = (ref) => (ref.preset ? `${ref.preset} (preset)` : `${ref.name} v${ref.version}`);
  const NAMES = { text: "what is asked", critique: "request for a critique", revision: "request for a revision", critic: "program", weight: "weight", on: "on or off" };

  Lab.constitution = ({ element, server }) => {
    const root = element.querySelector("[data-panel]");
    const { el } = Lab;
    const state = { ref: null, form: null, saved: "", yaml: "", mode: "form", against: null, chosen: false, judge: "rules", host: false,
      books: {}, presets: [], engine: { roles: [] }, critics: [], weighed: null, problems: [] };
    let refresh = () => {}, asked = 0, timer = 0, newest = null;

    /* ---------------------------------------------------------------- the parts of the page */
    const message = el("div", { "aria-live": "polite" });
    const why = el("div", {});
    const pick = el("select", { id: "constitution-pick", on: { change: () => open(refs()[pick.selectedIndex]) } });
    const mode = Lab.segments("Show the principles as", [["form", "form"], ["yaml", "YAML"]], "form", (m) => turn(m));
    const dirty = el("span", { class: "small muted" });
    const name = el("input", { type: "text", id: "constitution-name", maxlength: 40, spellcheck: "false", autocomplete: "off", placeholder: "our-room" });
    const keep = Lab.button("Save as a new version", null, () => save(), { class: "button main" });
    const bar = el("section", { class: "card", "aria-label": "Which constitution" }, el("div", { class: "row ends" },
      el("div", { class: "field" }, el("label", { for: "constitution-pick", text: "Constitution" }), pick), mode, el("span", { class: "grow" }, dirty),
      el("div", { class: "row ends", "data-host": "" }, el("div", { class: "field" }, el("label", { for: "constitution-name", text: "Name" }), name), keep)));
    const list = el("div", { class: "stack principles" });
    const add = Lab.button("Add a principle", null, () => insert());
    const yaml = el("textarea", { rows: 24, spellcheck: "false", class: "code", "aria-label": "The constitution as YAML", on: { input: () => { state.yaml = yaml.value; later(); } } });
    const wrong = el("div", { class: "stack", style: { gap: ".5rem" }, "aria-live": "polite" });
    const principles = el("section", { class: "card stack", "aria-label": "Principles" }, el("h2", { text: "Principles" }), wrong, list, yaml, el("div", { "data-host": "" }, add));
    const beside = el("select", { id: "constitution-beside", on: { change: () => { state.against = beside.selectedIndex ? refs()[beside.selectedIndex - 1] : null; state.chosen = true; weigh(); } } });
    const judge = el("select", { id: "constitution-judge", on: { change: () => { state.judge = judge.value; weigh(); } } });
    const verdict = el("div", { class: "stack" });
    const test = el("section", { class: "card stack", "aria-label": "Does it judge as people did?" }, el("h2", { text: "Does it judge as people did?" }),
      el("div", { class: "row" }, field("Beside", beside), field("Applied by", judge)), verdict);
    const diff = el("section", { class: "card stack", "aria-label": "What changed", hidden: true });
    const chain = chainCard(), round = roundCard();
    const right = el("div", { class: "stack" }, test, diff, chain.node, round.node);
    const wait = el("div", { class: "card stack", "aria-busy": "true", "aria-label": "Loading" }, ...[1, 2, 3].map(() => el("div", { class: "skeleton", style: { height: "3.2rem" } })));
    const body = el("div", { class: "stack", hidden: true }, bar, el("div", { class: "constitution-grid" }, el("div", { class: "stack" }, principles), right));
    root.classList.add("stack");
    root.append(message, why, wait, body);
    Lab.keys(root, [["Enter", "in the prompt: write and revise"], ["Shift Enter", "in the prompt: a new line"]]);

    function field(text, input) { return el("div", { class: "field" }, el("label", { for: input.id, text }), input); }
    const SILENT = { error: "The Studio does not answer; is it still running in its terminal?" };
    const safely = async (call, value) => { try { return await server[call](value); } catch { return SILENT; } };
    const tell = (level, text, kind = "act") => {
      message.dataset.kind = kind;
      Lab.fill(message, [level, text], () => (text ? Lab.note(level, text) : null));
    };
    const refs = () => [...state.presets.map((preset) => ({ preset })), ...Object.entries(state.books).flatMap(([n, versions]) => [...versions].reverse().map((version) => ({ name: n, version })))];
    const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
    const written = () => (state.mode === "yaml" ? { yaml: state.yaml } : state.form);
    const touched = () => JSON.stringify(state.mode === "yaml" ? state.yaml : state.form) !== (state.mode === "yaml" ? JSON.stringify(state.savedYaml) : state.saved);

    /* ---------------------------------------------------------------- opening, keeping */
    const DRAFT = "lab-constitution-draft";
    /** A draft that was not saved when another version was opened, or the page was left: to be had back. */
    const aside = () => { try { return JSON.parse(Lab.kept(DRAFT)); } catch { return null; } };
    async function open(ref, back = null) {
      const reply = await safely("open", ref);
      if (reply.error) { tell("bad", reply.error); drawPick(); return; }
      tell();
      state.ref = ref;
      load(reply);
      state.saved = JSON.stringify(state.form);
      state.savedYaml = state.yaml;
      state.problems = [];
      state.chosen = false;
      state.against = ref.version > 1 && state.books[ref.name]?.includes(ref.version - 1) ? { name: ref.name, version: ref.version - 1 } : null;
      if (ref.name) name.value = ref.name;
      Lab.link({ tab: "constitution", constitution: ref.preset || ref.name, version: ref.version || null });
      if (back) {
        state.mode = "form";
        state.form = back;
        drawPrinciples();
        later();
      }
      draw();
      if (!back) offer();
      weigh();
    }
    function offer() {
      const left = state.host ? aside() : null;
      if (!left || !left.form || !refs().some((r) => same(r, left.ref))) return;
      const button = (text, call) => el("button", { type: "button", text, on: { click: call } });
      message.dataset.kind = "draft";
      message.dataset.key = "";
      message.replaceChildren(Lab.note("", `A draft made from ${named(left.ref)} was not saved.`, el("span", { class: "row" },
        button("Bring it back", () => open(left.ref, left.form)), button("Forget it", () => { Lab.keep(DRAFT, null); tell(); }))));
    }
    function load(reply) {
      state.form = { about: reply.about || "", principles: copy(reply.principles) };
      state.yaml = reply.yaml;
      yaml.value = reply.yaml;
      drawPrinciples();
    }
    async function turn(to) {
      if (to === state.mode) return;
      const reply = state.host ? await safely("read", written()) : { yaml: state.yaml, problems: [], ...state.form };
      if (to === "form" && (reply.error || reply.problems.length)) {
        mode.press("yaml");
        tell("bad", reply.error || "This is no constitution yet; mend what is marked, then the form can show it.");
        return;
      }
      tell();
      const was = touched();
      state.mode = to;
      if (to === "yaml") { state.yaml = reply.yaml; yaml.value = reply.yaml; if (!was) state.savedYaml = reply.yaml; }
      else { load(reply); if (!was) state.saved = JSON.stringify(state.form); }
      draw();
    }
    async function save() {
      const reply = await safely("save", { ...written(), name: name.value.trim() });
      if (reply.error) { tell("bad", reply.error); return; }
      if (reply.problems.length) { state.problems = reply.problems; drawProblems(); tell("bad", "Nothing was saved; mend what is marked first."); return; }
      state.books[reply.name] = [...(state.books[reply.name] || []), reply.version];
      Lab.keep(DRAFT, null);
      drawPick();
      await open({ name: reply.name, version: reply.version });
      tell("good", `Saved as ${reply.name} v${reply.version}.`);
    }

    /* ---------------------------------------------------------------- the principles */
    function insert() {
      const ids = state.form.principles.map((p) => p.id);
      let n = ids.length + 1;
      while (ids.includes(`principle-${n}`)) n += 1;
      state.form.principles.push({ id: `principle-${n}`, text: "", critique: "", revision: "", weight: 1, on: true, critic: "" });
      drawPrinciples();
      list.lastElementChild.querySelector("textarea").focus();
      list.lastElementChild.querySelector("details").open = true;
      later();
    }
    function drawPrinciples() {
      list.replaceChildren(...state.form.principles.map((p, i) => principle(p, i)));
    }
    function principle(p, i) {
      const off = !state.host;
      const text = (key, label, rows, attrs = {}) => {
        const input = el(rows ? "textarea" : "input", { type: rows ? null : "text", rows, maxlength: 4000, spellcheck: "true", disabled: off, "aria-label": `${label} of ${p.id}`, ...attrs,
          on: { input: () => { p[key] = input.value; later(); } } });
        input.value = p[key];
        return input;
      };
      const on = el("input", { type: "checkbox", checked: p.on, disabled: off, "aria-label": `${p.id} is on`, on: { change: () => { p.on = on.checked; card.classList.toggle("off", !p.on); later(); } } });
      on.checked = p.on;
      const weight = el("input", { type: "number", min: 0, step: "any", value: p.weight, disabled: off, class: "weight", "aria-label": `Weight of ${p.id}`,
        on: { input: () => { p.weight = weight.value === "" ? "" : Number(weight.value); later(); } } });
      const critic = el("select", { disabled: off, "aria-label": `Program that checks ${p.id}`, on: { change: () => { p.critic = critic.value; later(); } } },
        ["", ...state.critics, ...(p.critic && !state.critics.includes(p.critic) ? [p.critic] : [])].map((c) => el("option", { value: c, text: c || "none: a model is asked", selected: c === p.critic })));
      const move = (by) => () => {
        const rows = state.form.principles, to = i + by;
        if (to < 0 || to >= rows.length) return;
        [rows[i], rows[to]] = [rows[to], rows[i]];
        drawPrinciples();
        list.children[to].querySelector(by < 0 ? "[data-up]" : "[data-down]").focus();
        later();
      };
      const remove = () => { state.form.principles.splice(i, 1); drawPrinciples(); later(); (list.children[Math.max(0, i - 1)] || add).querySelector?.("summary")?.focus(); };
      const inside = (label, input) => el("label", { class: "field" }, el("span", { text: label }), input);
      const card = el("article", { class: p.on ? "principle" : "principle off", "data-id": p.id },
        el("div", { class: "row line" }, on, el("b", { class: "grow wide", text: `${i + 1}  ${p.id}` }), el("label", { class: "row small muted", style: { gap: ".4rem" } }, "weight", weight)),
        text("text", "What is asked", 2), el("div", { class: "stack", "data-problem": i, style: { gap: ".3rem" } }),
        el("details", {}, el("summary", { text: "How it is applied" }), el("div", { class: "stack", style: { gap: ".7rem", paddingTop: ".3rem" } },
          inside("A model is asked about its answer", text("critique", "Request for a critique", 2)), inside("and then", text("revision", "Request for a revision", 2)),
          el("div", { class: "row ends" }, inside("Program of the tiny world", critic), inside("Id", text("id", "Id", null, { maxlength: 40 })), el("span", { class: "grow" }),
            el("div", { class: "row", style: { gap: ".4rem" }, "data-host": "", hidden: off }, Lab.button("↑", null, move(-1), { class: "button icon", "data-up": "", "aria-label": `Move ${p.id} up` }), Lab.button("↓", null, move(1), { class: "button icon", "data-down": "", "aria-label": `Move ${p.id} down` }),
              Lab.button("Remove", null, remove, { "aria-label": `Remove ${p.id}` }))))));
      return card;
    }
    function drawProblems() {
      const lost = state.problems.filter((p) => state.mode === "yaml" || p.principle === null || !list.children[p.principle]);
      Lab.fill(wrong, [lost, state.mode], () => lost.map((p) => Lab.note("bad", p.line !== null && state.mode === "yaml" ? `Line ${p.line}: ${p.sentence}` : p.sentence,
        p.line !== null && state.mode === "yaml" ? el("button", { type: "button", text: "show", "aria-label": `Show line ${p.line}`, on: { click: () => show(p.line) } }) : null)));
      for (const slot of list.querySelectorAll("[data-problem]")) {
        const mine = state.mode === "form" ? state.problems.filter((p) => p.principle === Number(slot.dataset.problem)) : [];
        Lab.fill(slot, mine, () => mine.map((p) => el("p", { class: "wrong", text: p.sentence })));
        slot.parentElement.classList.toggle("broken", mine.length > 0);
      }
    }
    function show(line) {
      const lines = yaml.value.split("\n"), start = lines.slice(0, line - 1).join("\n").length + (line > 1 ? 1 : 0);
      yaml.focus();
      yaml.setSelectionRange(start, start + (lines[line - 1] || "").length);
      yaml.scrollTop = Math.max(0, (line - 4) * (yaml.scrollHeight / Math.max(1, lines.length)));
    }

    /* ---------------------------------------------------------------- the test */
    function later() {
      if (!state.chosen && touched() && !same(state.against, state.ref)) { state.against = state.ref; drawBeside(); }
      drawDirty();
      if (state.mode === "form") Lab.keep(DRAFT, touched() ? JSON.stringify({ ref: state.ref, form: state.form }) : null);
      clearTimeout(timer);
      timer = setTimeout(weigh, 350);
    }
    async function weigh() {
      const mine = ++asked;
      const reply = await safely("weigh", { ...(touched() && state.host ? written() : { of: state.ref }), against: state.against, judge: state.judge });
      if (mine !== asked) return;  // something newer was asked meanwhile
      state.weighed = reply;
      state.problems = reply.problems || [];
      drawProblems();
      drawTest();
      drawChanges();
    }
    const gauge = (label, a) => el("div", { class: "gauge" }, el("span", { class: "wide", text: label }),
      el("div", { class: "track", role: "img", "aria-label": `${label}: ${percent(a.mean)}, 95 % interval ${percent(a.low)} to ${percent(a.high)}` },
        el("i", { class: "band", style: { left: `${100 * a.low}%`, width: `${Math.max(0.5, 100 * (a.high - a.low))}%` } }), el("i", { class: "half" }), el("i", { class: "point", style: { left: `${100 * a.mean}%` } })),
      el("span", { class: "num" }, el("b", { text: percent(a.mean) }), el("span", { class: "muted small", text: ` ${percent(a.low)} … ${percent(a.high)}` })));
    function drawTest() {
      const w = state.weighed;
      Lab.fill(verdict, [w, state.host, touched()], () => {
        if (w.error) return [Lab.note("warn", w.error)];
        if (w.problems.length) return [el("p", { class: "muted", text: "This is no constitution yet; mend what is marked on the left." })];
        if (w.hidden) return [el("p", { class: "muted", text: w.hidden })];
        if (!w.judged) return [el("p", { text: "No votes of people to hold it against yet." }), el("p", { class: "muted small", text: "Judge pairs in Label: a constitution is then tested on every pair on which people take a side." })];
        if (w.missing) return [el("p", { text: `${state.judge} has not judged ${w.missing} of these questions yet, each in both orders.` }), state.host ? Lab.button(`Ask ${state.judge}`, "play", () => act("ask_role", { ...written(), against: state.against, judge: state.judge }), { class: "button main" }) : el("p", { class: "muted small", text: "The host can ask." })];
        return w.tested ? tested(w.tested) : [];
      });
    }
    function tested(t) {
      const label = touched() && state.host ? "this draft" : named(state.ref);
      const parts = [gauge(label, t.version.agreement), t.against ? gauge(named(state.against), t.against.agreement) : null];
      const facts = [`${t.judgements} judgements on ${t.prompts} prompts`, `takes no side in ${percent(t.version.ties)}`];
      if (t.version.unstable !== null) facts.push(`unstable under swap ${percent(t.version.unstable)}`);
      if (t.version.unjudged) facts.push(`${t.version.unjudged} without an answer`);
      parts.push(el("p", { class: "small muted num", text: `${facts.join(" · ")}. Share of the people's judgements it makes too, a tie being half; 95 % intervals over prompts.` }));
      if (t.gain) {
        const sure = t.gain.low > 0 ? "better" : t.gain.high < 0 ? "worse" : "";
        parts.push(Lab.note(sure === "better" ? "good" : sure === "worse" ? "bad" : "", `${t.flipped} ${t.flipped === 1 ? "judgement flips" : "judgements flip"}. Gain ${Lab.signed(Math.round(1000 * t.gain.mean) / 10, 3)} points, 95 % interval ${Lab.signed(Math.round(1000 * t.gain.low) / 10, 3)} to ${Lab.signed(Math.round(1000 * t.gain.high) / 10, 3)}${sure ? `: surely ${sure}` : ""}.`));
      }
      parts.push(el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "What each principle does" }, el("table", { class: "habits" },
        el("thead", {}, el("tr", {}, ["principle", "takes a side", "alone agrees", "decides", "same in both orders"].map((text) => el("th", { scope: "col", text })))),
        el("tbody", {}, t.version.habits.map((h) => el("tr", {}, el("th", { scope: "row", class: "wide", text: h.principle }),
          [h.fires, h.agreement, h.decides, h.stability].map((x) => el("td", { class: "num", text: percent(x) }))))))));
      if (t.flips.length) parts.push(flips(t));
      return parts;
    }
    function flips(t) {
      const words = { 1: "agrees", 0: "no side", "-1": "disagrees" };
      return el("details", { open: t.flips.length <= 3 }, el("summary", { text: `The judgements that flip (${t.flipped})` }), el("div", { class: "stack flips", tabindex: "0", role: "region", "aria-label": "The judgements that flip" },
        t.flips.map((f) => el("article", { class: "flip" }, el("p", { class: "wide" }, el("span", { class: "muted", text: "Prompt  " }), el("b", { text: f.prompt })),
          el("p", { class: "wide" }, el("span", { class: "mark good", text: "people  " }), f.chosen), el("p", { class: "wide" }, el("span", { class: "mark", text: "over  " }), f.rejected),
          el("p", { class: "small" }, el("span", { class: f.after > f.before ? "up" : "down", text: `${words[f.before]} → ${words[f.after]}` }), el("span", { class: "muted", text: f.principles.length ? `  by ${f.principles.join(", ")}` : "" })))),
        t.flipped > t.flips.length ? el("p", { class: "small muted", text: `and ${t.flipped - t.flips.length} more` }) : null));
    }
    function drawChanges() {
      const changes = (state.weighed && state.weighed.changes) || [];
      diff.hidden = !changes.length;
      Lab.fill(diff, [changes, state.against], () => [el("h2", { text: `What changed from ${state.against ? named(state.against) : ""}` }),
        ...changes.map((c) => el("article", { class: "change" }, el("p", {}, el("b", { class: "wide", text: c.id }), el("span", { class: "muted", text: `  ${c.what}` })),
          c.parts.filter((p) => c.what === "changed" || p.name === "text").map((p) => el("p", { class: "said small" }, el("span", { class: "muted", text: `${NAMES[p.name]}: ` }), ...Lab.diff(p.diff)))))]);
    }

    /* ---------------------------------------------------------------- draft → critique → revision */
    function chainCard() {
      const prompt = el("textarea", { rows: 2, maxlength: 4000, id: "chain-prompt", spellcheck: "false", placeholder: "Ask something…", on: { keydown: (e) => { if (e.key === "Enter" && !e.shiftKey && !e.isComposing) { e.preventDefault(); begin(); } } } });
      const chips = el("div", { class: "chips", role: "group", "aria-label": "Example prompts" });
      const who = el("select", { id: "chain-who" }), critic = el("select", { id: "chain-critic" });
      const rounds = el("select", { id: "chain-rounds" }, [1, 2, 3, 4].map((n) => el("option", { value: n, text: n, selected: n === 2 })));
      const seed = el("input", { type: "number", id: "chain-seed", min: 0, max: 999999, value: 0 });
      const start = Lab.button("Write and revise", "play", () => begin(), { class: "button main", disabled: true });
      const stop = Lab.button("Stop", "stop", () => act("stop", { what: "chain" }));
      const form = el("div", { class: "stack", "data-host": "" }, prompt, chips, el("div", { class: "row ends" }, field("Who drafts", who), field("Critic", critic), field("Rounds", rounds), field("Seed", seed), el("span", { class: "grow" }), start, stop));
      const out = el("ol", { class: "chain" });
      const node = el("section", { class: "card stack", "aria-label": "Draft, critique, revision" }, el("h2", { text: "Draft → critique → revision" }), form, out);
      prompt.setAttribute("aria-label", "Prompt of the chain");
      async function begin() {
        if (start.disabled) return;
        await act("revise", { ...written(), prompt: prompt.value, role: who.value, critic: critic.value, rounds: rounds.value, seed: seed.value });
      }
      function draw(r) {
        const roles = r.engine.roles, critics = [...(r.engine.tiny ? ["rules"] : []), ...roles];
        Lab.fill(who, roles, () => roles.map((x) => el("option", { value: x, text: x })));
        Lab.fill(critic, critics, () => critics.map((x) => el("option", { value: x, text: x === "rules" ? "the world's programs" : x })));
        Lab.fill(chips, r.examples, () => r.examples.map((text) => el("button", { type: "button", class: "chip", text, on: { click: () => { prompt.value = text; begin(); } } })));
        const c = r.chain, running = c.job.state === "running";
        start.disabled = Boolean(r.engine.reason) || running || !roles.length;
        start.title = r.engine.reason;
        stop.hidden = !running;
        node.hidden = !r.host && !c.prompt;
        Lab.fill(out, c, () => {
          const failed = c.job.state === "failed" ? el("li", {}, Lab.note("bad", c.job.sentence)) : null;
          if (!c.prompt) return failed || el("li", { class: "muted", text: r.engine.reason || "Type a prompt: a role answers, and principle by principle the answer is criticised and written again." });
          const caret = (on) => (on ? "said caret" : "said");
          const rows = [el("li", {}, el("div", { class: "small muted" }, el("span", { text: `draft by ${c.role}` }), el("span", { class: "wide", text: ` · ${c.prompt}` })), el("div", { class: caret(running && !c.rounds.length), text: c.draft }))];
          c.rounds.forEach((x, i) => rows.push(el("li", {}, el("div", { class: "small" }, el("b", { class: "wide", text: x.principle }), el("span", { class: "muted wide", text: x.says ? `  ${x.says}` : "" })),
            el("p", { class: "critique wide" }, el("span", { class: "muted", text: "critique  " }), x.critique || ""),
            x.diff ? (x.changed ? el("div", { class: "said" }, Lab.diff(x.diff)) : el("p", { class: "muted small", text: "The answer stays as it is." })) : el("div", { class: caret(running && i === c.rounds.length - 1), text: x.revision || "" }))));
          if (c.end) rows.push(el("li", { class: "last" }, el("div", { class: "small muted", text: "draft → last answer" }), el("div", { class: "said" }, Lab.diff(c.end.diff)), ...worth(c.end.worth)));
          return [...rows, failed];
        });
      }
      const worth = (w) => (w ? [el("div", { class: "row" }, el("span", { class: "muted small", text: "true score" }), el("b", { class: "num", text: Lab.signed(w[0].score) }), el("span", { text: "→" }), el("b", { class: "num", text: Lab.signed(w[1].score) }),
        el("ul", { class: "reasons", "aria-label": "Why the last answer has this true score" }, w[1].reasons.map(([reason, value]) => el("li", { class: value < 0 ? "minus" : "plus" }, `${reason} `, el("b", { class: "num", text: Lab.signed(value, 2) })))))] : []);
      return { node, draw };
    }

    /* ---------------------------------------------------------------- a version votes on the round */
    function roundCard() {
      const run = Lab.button("Let it vote", "play", () => act("vote", { ...state.ref, judge: state.judge }), { class: "button main" });
      const stop = Lab.button("Stop", "stop", () => act("stop", { what: "job" }));
      const say = el("p", { class: "small muted" }), fill = el("i", {});
      const bar2 = el("div", { class: "bar", role: "progressbar", "aria-label": "Progress", "aria-valuemin": 0, "aria-valuemax": 100 }, fill);
      const going = el("p", { class: "wide", "aria-live": "polite" }), done = el("ul", { class: "voted" });
      const node = el("section", { class: "card stack", "aria-label": "Run it on the round" }, el("h2", { text: "Run it on the round" }), say, el("div", { class: "row", "data-host": "" }, run, stop), bar2, going, done);
      function draw(r) {
        const kept = state.ref && !state.ref.preset && !touched(), running = r.job.state === "running";
        say.textContent = kept ? `${named(state.ref)} votes on every pair of the queue it has not judged, as an annotator of its own; runs can then learn from its votes.` : "Save the draft first: what votes is a version that stays as it is.";
        run.disabled = !kept || running || (state.judge !== "rules" && Boolean(r.engine.reason));
        run.title = running ? `${r.job.title} is going on.` : "";
        stop.hidden = bar2.hidden = !running;
        fill.style.transform = `scaleX(${r.job.of ? r.job.done / r.job.of : 0})`;
        bar2.setAttribute("aria-valuenow", Math.round(r.job.of ? 100 * r.job.done / r.job.of : 0));
        const words = { running: `${r.job.title}: ${r.job.done} of ${r.job.of}`, done: `${r.job.title}: done`, stopped: `${r.job.title}: stopped`, failed: `${r.job.title} failed` };
        going.textContent = r.job.state === "idle" ? "" : [words[r.job.state], r.job.sentence].filter(Boolean).join(" · ");
        going.classList.toggle("failed", r.job.state === "failed");
        going.hidden = r.job.state === "idle";
        const named2 = Object.entries(r.votes);
        node.hidden = !r.host && !named2.length && !running;
        say.hidden = !r.host;
        done.hidden = !named2.length;
        Lab.fill(done, [named2, r.host], () => named2.map(([who, n]) => el("li", { class: "row" }, el("b", { class: "wide grow", text: who }), el("span", { class: "num muted small", text: `${n} votes` }),
          r.host ? el("a", { class: "link", text: "Train on them", href: `?${new URLSearchParams({ tab: "train", method: "dpo", data: `labels:${r.labels}?${new URLSearchParams({ by: who, made_by: "constitution" })}` })}` }) : null,
          el("a", { class: "link", text: "Arena", href: `?${new URLSearchParams({ tab: "arena", who })}` }))));
      }
      return { node, draw };
    }
    async function act(call, value) {
      const reply = await safely(call, value);
      if (reply.problems && reply.problems.length) { state.problems = reply.problems; drawProblems(); tell("bad", "Mend what is marked first."); }
      else tell(reply.error ? "bad" : "", reply.error || "");
      refresh();
    }

    /* ---------------------------------------------------------------- all of it */
    function drawPick() {
      const every = refs();
      const options = (first) => () => {
        const groups = [];
        if (first) groups.push(el("option", { text: "nothing" }));
        groups.push(el("optgroup", { label: "presets" }, state.presets.map((p) => el("option", { text: p }))));
        for (const [n, versions] of Object.entries(state.books)) groups.push(el("optgroup", { label: n }, [...versions].reverse().map((v) => el("option", { text: `${n} v${v}` }))));
        return groups;
      };
      Lab.fill(pick, every, options(false));
      Lab.fill(beside, every, options(true));
      pick.selectedIndex = every.findIndex((r) => same(r, state.ref));
      drawBeside();
    }
    function drawBeside() { beside.selectedIndex = state.against ? refs().findIndex((r) => same(r, state.against)) + 1 : 0; }
    function drawDirty() { dirty.textContent = touched() ? "not saved" : ""; }
    function draw() {
      drawPick();
      drawDirty();
      mode.press(state.mode);
      list.hidden = state.mode === "yaml";
      yaml.hidden = state.mode !== "yaml";
      yaml.readOnly = !state.host;
      add.hidden = state.mode === "yaml";
      for (const node of root.querySelectorAll("[data-host]")) node.hidden = !state.host;
      Lab.fill(why, state.host, () => (state.host ? null : Lab.note("", "You can read every version and its test; the host writes them and lets them vote.")));
      drawProblems();
    }
    refresh = Lab.loop(root, async () => {
      const r = await safely("look", {});
      wait.hidden = true;
      if (r.error) { tell("bad", r.error, "poll"); return; }
      if (message.dataset.kind === "poll") tell();
      const first = state.ref === null;
      Object.assign(state, { host: r.host, books: r.books, presets: r.presets, engine: r.engine, critics: r.critics });
      Lab.fill(judge, [r.engine.roles], () => ["rules", ...r.engine.roles].map((x) => el("option", { value: x, selected: x === state.judge, text: x === "rules" ? "the tiny world's programs" : x })));
      if (first) {
        const wanted = Lab.query("constitution"), version = Number(Lab.query("version"));
        const found = refs().find((x) => x.preset === wanted || (x.name === wanted && (!version || x.version === version)));
        const latest = Object.entries(r.books).map(([n, v]) => ({ name: n, version: v.at(-1) }))[0];
        await open(found || latest || refs().find((x) => x.preset === "tiny") || refs()[0]);
      } else drawPick();
      if (!state.ref) return;
      const stamp = `${r.newest}:${r.job.number}:${r.job.state}`;
      if (newest !== null && stamp !== newest) weigh();
      newest = stamp;
      chain.draw(r);
      round.draw(r);
      body.hidden = false;
      state.busy = r.chain.job.state === "running" || r.job.state === "running";
    }, () => (state.busy ? 350 : 2500));
  };
})();
