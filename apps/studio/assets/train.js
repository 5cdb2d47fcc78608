/* The Train panel: a form drawn from the settings that the engine offers. What was typed stays in this browser tab. */
(() => {
  const Lab = (window.Lab = window.Lab || {});
  const KEPT = "lab-train";
  const SILENT = { error: "The Studio does not answer; is it still running in its terminal?" };

  Lab.train = ({ element, server }) => {
    const root = element.querySelector("[data-panel]");
    const { el } = Lab;
    const kept = { method: "", forms: {}, ...read() };
    const fields = new Map();
    let offers = null, stamp = "", now = { runs: [], list: [], busy: [], reason: "", pins: [], labels: {}, queue: { waiting: [], held: "" }, host: true };
    let found = { errors: {}, own: {} }, asked = 0, typing = 0, starting = false, pressed = "", needs = null, weighed = "", weighing = 0;

    function read() { try { return JSON.parse(sessionStorage.getItem(KEPT)) || {}; } catch { return {}; } }
    function save() { try { sessionStorage.setItem(KEPT, JSON.stringify(kept)); } catch { /* a browser that keeps nothing */ } }
    const safely = async (name, value) => { try { return await server[name](value); } catch { return SILENT; } };

    /* ---------------------------------------------------------------- what is chosen, and what stands where nobody chose */
    const method = () => offers.methods[kept.method];
    const form = () => (kept.forms[kept.method] ||= { settings: {}, adapter: {} });
    const setting = (name) => method().settings.find((s) => s.name === name);
    const picked = () => form().settings[method().pick] ?? setting(method().pick)?.default;
    const speaks = (run) => ["sft", "policy"].includes(offers.methods[run.method]?.part);
    const judges = () => now.runs.filter((r) => r.steps.length && offers.methods[r.method]?.part === "reward");
    const starts = () => now.runs.filter((r) => r.steps.length && (speaks(r) || offers.methods[r.method]?.part === method().part));
    const feeds = () => now.runs.filter((r) => r.data && method().feeds.includes(offers.methods[r.method]?.kind));
    const sources = () => offers.sources.filter((s) => s.kind === method().kind);
    const labelled_ = () => (["preference", "rating", "prompt"].includes(method().kind) && now.labels.rounds?.[""] ? now.labels : null);
    const ways = () => [sources().length ? ["world", "tiny world"] : null, feeds().length ? ["run", "of a run"] : null, labelled_() ? ["labels", "labels"] : null, ["file", "file"]].filter(Boolean);
    function init() {
      const all = starts(), { start, step } = form();
      if (start === "" || (start && all.some((r) => r.id === start))) return { run: start, step: start ? step || "" : "" };
      const first = kept.method === "sft" ? null : all.find((r) => r.method === "sft");
      return { run: first ? first.id : "", step: "" };
    }
    function data() {
      const from = ways().some(([way]) => way === form().from) ? form().from : ways()[0][0];
      const run = feeds().some((r) => r.id === form().run) ? form().run : feeds()[0]?.id || "";
      const round = labelled_()?.rounds[form().round] ? form().round : "";
      const labels = labelled_() ? `labels:${now.labels.where}${round ? `?round=${encodeURIComponent(round)}` : ""}` : "";
      return { from, run, round, labels, world: form().world ?? sources()[0]?.text ?? "", file: form().file || "" };
    }
    const pinned = () => now.pins.length > 0 && form().probes !== "own";
    const rewards = () => form().rewards || judges().slice(0, 1).map((r) => ({ what: r.id, weight: "", options: {} }));
    function request() {
      const from = init(), d = data();
      return {
        method: kept.method, settings: form().settings, adapter: form().adapter, name: form().name || "",
        init: from.run + (from.step ? `@${from.step}` : ""), rewards: method().earns ? rewards() : [],
        data: d.from === "run" ? (d.run ? `run:${d.run}` : "") : d[d.from], probes: pinned() ? now.pins : [],
      };
    }

    /* ---------------------------------------------------------------- the parts of the page */
    const message = el("div", { "aria-live": "polite" });
    const wait = el("div", { class: "stack", "aria-busy": "true", "aria-label": "Loading" },
      ...["7rem", "22rem"].map((height) => el("div", { class: "card" }, el("div", { class: "skeleton", style: { height } }))));
    const empty = el("div", { class: "card welcome", hidden: true }, el("h2", { text: "Nothing can be trained yet" }), el("p", {}));
    const cards = el("div", { class: "methods", role: "group", "aria-label": "Method" });
    const choices = part("", "chips", { role: "group" }), from = part("Where it starts, and what it learns from", "pairs");
    const earned = part("What a completion earns"), numbers = part("Settings"), mixture = el("div", {}), begin = el("section", { class: "card stack", "aria-label": "Start" });
    const pages = el("aside", { class: "stack pages", "aria-label": "About the method" });
    const starters = el("div", { class: "row starters" });
    const ran = Lab.trainRuns({ ask: safely, load, again: () => again(), host: () => now.host && !now.reason });
    choices.node.classList.add("choice"); choices.node.append(mixture); begin.classList.add("begin");
    const body = el("div", { class: "stack", hidden: true }, cards, starters, el("div", { class: "split train" },
      el("div", { class: "stack" }, choices.node, from.node, earned.node, numbers.node), el("div", { class: "stack beside" }, begin, pages)));
    root.classList.add("stack");
    root.append(message, wait, empty, ran.node, body);
    // What hides its overflow is a box to scroll, and nothing inside it could stay in view; what clips looks the same.
    for (let n = root.parentElement; n; n = n.parentElement) if (getComputedStyle(n).overflowY === "hidden") n.style.overflow = "clip";

    function part(title, kind = "stack", attrs = {}) {
      const head = el("h2", { text: title }), inside = el("div", { class: kind, ...attrs });
      return { node: el("section", { class: "card stack", "aria-label": title || null }, head, inside), head, inside };
    }

    /* ---------------------------------------------------------------- a method, its objectives, their pages */
    function drawMethods() {
      const every = Object.entries(offers.methods), rows = Math.ceil(every.length / 8);
      cards.style.setProperty("--across", Math.ceil(every.length / rows));
      Lab.fill(cards, [stamp, kept.method], () => every.map(([name, m]) => el("button", { type: "button", class: "method",
        "aria-pressed": String(name === kept.method), "data-hold": name, on: { click: () => choose(name) } },
      el("code", { text: name }), el("b", { text: m.page.title.split(": ")[0] }))));
    }
    function choose(name) {
      kept.method = name; found = { errors: {}, own: {} };
      Lab.link({ tab: "train", method: name });
      save(); held(draw); check();
    }
    function pick(name) {
      put("settings", method().pick, name === setting(method().pick).default ? "" : name);
      held(draw); check();
    }
    /** Draws, and gives the focus back to what had it. */
    function held(call) {
      const hold = root.contains(document.activeElement) ? document.activeElement.dataset.hold : null;
      call();
      if (hold) root.querySelector(`[data-hold="${CSS.escape(hold)}"]`)?.focus();
    }
    function drawChoices() {
      const m = method();
      choices.node.hidden = !m.choices.length;
      const title = (m.pick || "").replace(/^./, (c) => c.toUpperCase());
      choices.head.textContent = title;
      choices.node.setAttribute("aria-label", title || "Choice");
      choices.inside.setAttribute("aria-label", title);
      Lab.fill(mixture, [stamp, kept.method], () => (m.mixes ? field(setting(m.pick), "settings", "or a mixture") : null));
      Lab.fill(choices.inside, [stamp, kept.method, picked()], () => m.choices.map((page) => el("button", { type: "button", class: "chip",
        "aria-pressed": String(page.name === picked()), "data-hold": `pick-${page.name}`, title: page.title, text: page.name, on: { click: () => pick(page.name) } })));
    }
    /** A few values to begin with, and those of any run. */
    function drawPresets() {
      const own = offers.presets?.[kept.method] || [], runs = now.list.filter((r) => r.method === kept.method);
      const same = (p) => JSON.stringify(Object.entries(form().settings).sort()) === JSON.stringify(Object.entries(p.settings).sort());
      Lab.fill(starters, [stamp, kept.method, own.map(same), runs.map((r) => r.id)], () => [el("span", { class: "muted", text: "Begin with" }),
        el("div", { class: "chips", role: "group", "aria-label": "Presets" }, own.map((p) => el("button", { type: "button", class: "chip", title: p.words, "aria-pressed": String(same(p)), "data-hold": `preset-${p.name}`, text: p.name,
          on: { click: () => { form().settings = same(p) ? {} : { ...p.settings }; save(); held(draw); check(); } } }))),
        runs.length ? el("select", { "aria-label": "Settings of a run", "data-hold": "preset-run", on: { change: async (e) => { const id = e.target.value; if (!id) return; const reply = await safely("again", { run: id });
          if (reply.error) ran.say(Lab.note("bad", reply.error)); else load(reply.form, `The settings of ${id} stand in the form.`); } } },
        option("", "settings of a run …", ""), runs.map((r) => option(r.id, `settings of ${r.id}`, ""))) : null]);
    }
    /** Puts a form, such as that of a run, in place of what was typed. */
    function load(given, words) {
      if (!offers?.methods[given.method]) return;
      const [start, step] = (given.init || "").split("@"), text = given.data || "";
      const way = text.startsWith("run:") ? "run" : text.startsWith("labels:") ? "labels" : text.startsWith("tiny:") ? "world" : "file";
      kept.method = given.method;
      kept.forms[given.method] = { settings: { ...given.settings }, adapter: { ...given.adapter }, start, step: step || "", from: way, rewards: given.rewards?.length ? given.rewards : undefined, name: given.name || "",
        ...{ run: { run: text.slice(4) }, labels: { round: new URLSearchParams(text.split("?")[1] || "").get("round") || "" }, world: { world: text }, file: { file: text } }[way] };
      found = { errors: {}, own: {} };
      if (root.contains(document.activeElement)) document.activeElement.blur();  // what is being typed is not overwritten
      Lab.link({ tab: "train", method: given.method });
      save(); held(draw); check();
      if (words) told.replaceChildren(Lab.note("good", words));
      begin.scrollIntoView({ block: "nearest", behavior: "smooth" });
    }
    /** Words with their `code`; nothing of it is HTML. */
    const words = (text) => text.split("`").map((t, i) => (i % 2 ? el("code", { text: t }) : document.createTextNode(t)));
    function about(page, kind) {
      const [when, trap] = page.when.split(/\s(?=Its trap)/);
      return el("article", { class: "card stack page" },
        el("div", {}, el("p", { class: "small muted" }, kind, " ", page.title === page.name ? null : el("code", { text: page.name })), el("h2", { text: page.title })),
        page.equation ? el("pre", { class: "equation", tabindex: "0", role: "group", "aria-label": `Equation of ${page.name}` },
          page.equation.split("\n").map((text) => el("span", { text: `${text}\n` }))) : null,
        when ? el("p", {}, el("b", { text: "When to use it  " }), ...words(when)) : null,
        trap ? el("p", { class: "trap" }, ...words(trap)) : null,
        page.numbers.length ? el("dl", { class: "numbers", "aria-label": "Its own numbers" }, page.numbers.map(([name, value]) =>
          el("div", {}, el("dt", { text: name.replaceAll("_", " ") }), el("dd", { text: value })))) : null,
        page.source ? el("p", { class: "small muted wide", text: page.source }) : null);
    }
    function drawPages() {
      const m = method(), named = (picked() || "").split(/[^\w]+/), chosen = m.choices.filter((p) => named.includes(p.name));
      Lab.fill(pages, [stamp, kept.method, chosen.map((p) => p.name)], () => (chosen.length ? [...chosen.map((p) => about(p, m.pick)),
        el("details", { class: "card about" }, el("summary", { text: `About ${kept.method}` }), about(m.page, "method"))] : [about(m.page, "method")]));
    }

    /* ---------------------------------------------------------------- start and data */
    const option = (value, text, chosen) => el("option", { value, text, selected: value === chosen });
    const labelled = (text, control, ...more) => el("div", { class: "field" }, el("label", { for: control.id, text }), control, ...more);
    const says = (what) => (e) => { form()[what] = e.target.value; save(); held(settle); };
    function drawFrom() {
      const start = init(), d = data(), m = method();
      const step = now.runs.find((r) => r.id === start.run)?.steps || [];
      Lab.fill(from.inside, [stamp, kept.method, start, d.from, d.run, starts().map((r) => [r.id, r.steps]), feeds().map((r) => r.id), now.labels, d.round, now.pins, pinned()], () => {
        const whose = el("select", { id: "train-init", "data-hold": "init", on: { change: (e) => { form().start = e.target.value; form().step = ""; save(); held(settle); } } },
          option("", "the base, with a new adapter", start.run), starts().map((r) => option(r.id, `${r.id} · ${r.state}`, start.run)));
        const when = start.run && step.length > 1 ? el("select", { id: "train-step", "data-hold": "step", "aria-label": "Step to start from", on: { change: (e) => { form().start = start.run; says("step")(e); } } },
          option("", `step ${step.at(-1)}, its last`, start.step), step.slice(0, -1).reverse().map((s) => option(String(s), `step ${s}`, start.step))) : null;
        const way = Lab.segments("Where the data are", ways(), d.from, (w) => { form().from = w; save(); held(settle); });
        for (const b of way.children) b.dataset.hold = `data-${b.dataset.value}`;
        const text = (what, hint) => el("input", { type: "text", id: "train-data", "data-hold": "data", value: d[what], placeholder: hint, spellcheck: "false",
          on: { input: (e) => { form()[what] = e.target.value; save(); drawCommand(); } } });
        const control = d.from === "run" ? el("select", { id: "train-data", "data-hold": "data", on: { change: says("run") } }, feeds().map((r) => option(r.id, `what ${r.id} learnt from`, d.run)))
          : d.from === "labels" ? el("select", { id: "train-data", "data-hold": "data", on: { change: says("round") } }, Object.entries(now.labels.rounds).map(([round, n]) => option(round, `${round ? `round ${round}` : "all rounds"}: ${n} pairs`, d.round)))
          : d.from === "world" ? text("world", "") : text("file", "pairs.jsonl, a folder, or a Hub id");
        const source = sources().find((s) => d.world.startsWith(s.text.split("?")[0]));
        const hint = d.from === "world" && source ? `options: ${source.options.join(", ")}, as in ${source.text.split("?")[0]}?n=200`
          : d.from === "labels" ? "what people said of training pairs; ties, and what is kept for evaluation, stay out" : d.from === "file" ? `one row has ${m.columns.map((c) => c.join(" + ")).join(", or ")}` : "";
        return [el("div", { class: "field" }, el("label", { for: "train-init", text: "Starts from" }), el("div", { class: "together" }, whose, when),
          el("span", { text: start.run ? "also the reference, where the method has one" : "the raw base is the reference, where the method has one" })),
        el("div", { class: "field" }, el("label", { for: "train-data", text: "Learns from" }), el("div", { class: "together" }, way, control), hint ? el("span", { class: "wide", text: hint }) : null),
        now.pins.length ? el("div", { class: "field" }, el("span", { class: "label", id: "train-probes", text: "Asked at intervals" }),
          Lab.segments("Probe prompts", [["pins", `${now.pins.length} pinned prompt${now.pins.length === 1 ? "" : "s"}`], ["own", "its own"]], pinned() ? "pins" : "own", (w) => { form().probes = w; save(); held(settle); }),
          el("span", { class: "wide", text: pinned() ? now.pins.slice(0, 3).join(" · ") + (now.pins.length > 3 ? " …" : "") : "those of the run it starts from, or of the data" })) : null];
      });
    }

    /* ---------------------------------------------------------------- rewards */
    function change(next) { form().rewards = next; save(); held(settle); check(); }
    function drawRewards() {
      earned.node.hidden = !method().earns;
      if (!method().earns) return;
      const rows = rewards();
      Lab.fill(earned.inside, [stamp, kept.method, rows.map((r) => r.what), judges().map((r) => r.id)], () => [
        ...rows.map(rewardRow),
        rows.length ? null : el("p", { class: "muted", text: "Nothing yet: a reward model that was trained here, or a program that checks the completion." }),
        el("div", {}, Lab.button("Add a reward", null, () => change([...rewards(), { what: judges()[0]?.id || offers.verifiers[0].name, weight: "", options: {} }]), { "data-hold": "add" })),
      ]);
      rows.forEach((_, i) => mark(earned.inside.querySelector(`[data-error="reward.${i}"]`), found.errors[`reward.${i}`]));
    }
    function rewardRow(row, i) {
      const verifier = offers.verifiers.find((v) => v.name === row.what);
      const put_ = (next) => { form().rewards = rewards().map((r, j) => (j === i ? { ...r, ...next } : r)); save(); soon(); drawCommand(); };
      const weight = el("input", { type: "text", inputmode: "decimal", class: "weight", "aria-label": `Weight of reward ${i + 1}`, placeholder: "1", value: row.weight || "",
        "data-hold": `weight-${i}`, on: { input: (e) => put_({ weight: e.target.value }) } });
      const what = el("select", { "aria-label": `Reward ${i + 1}`, "data-hold": `what-${i}`, on: { change: (e) => change(rewards().map((r, j) => (j === i ? { ...r, what: e.target.value, options: {} } : r))) } },
        judges().length ? el("optgroup", { label: "reward models" }, judges().map((r) => option(r.id, r.id, row.what))) : null,
        el("optgroup", { label: "verifiers" }, offers.verifiers.map((v) => option(v.name, v.name, row.what))));
      if (!verifier && !judges().some((r) => r.id === row.what)) what.prepend(option(row.what, `${row.what} (not here)`, row.what));
      const away = Lab.button("Remove", null, () => change(rewards().filter((_, j) => j !== i)), { "aria-label": `Remove reward ${i + 1}`, "data-hold": `away-${i}` });
      const options = (verifier?.options || []).map((o) => labelled(o.name, el("input", { type: "text", id: `train-reward-${i}-${o.name}`, value: row.options[o.name] || "",
        placeholder: o.default === null ? "" : String(o.default), title: o.type, "data-hold": `option-${i}-${o.name}`, spellcheck: "false",
        on: { input: (e) => put_({ options: { ...rewards()[i].options, [o.name]: e.target.value } }) } }), el("span", {}, ...words(o.help))));
      return el("div", { class: "reward stack", role: "group", "aria-label": `Reward ${i + 1}: ${row.what}` },
        el("div", { class: "row" }, weight, el("span", { "aria-hidden": "true", text: "×" }), what, away),
        verifier ? el("p", { class: "small muted", text: verifier.help + (verifier.needs.length ? ` Reads the column ${verifier.needs.join(", ")} of the data.` : "") }) : null,
        options.length ? el("div", { class: "live" }, options) : null, el("p", { class: "wrong", "data-error": `reward.${i}`, hidden: true }));
    }

    /* ---------------------------------------------------------------- settings */
    function put(where, name, value) {
      if (value === "") delete form()[where][name]; else form()[where][name] = value;
      save(); drawCommand();
    }
    const plain = (value) => (value === null || value === undefined ? "" : typeof value === "boolean" ? (value ? "yes" : "no") : String(value));
    function range(s) {
      if (s.low === null && s.high === null) return "";
      if (s.high === null) return `≥ ${s.low}`;
      return s.low === null ? `≤ ${s.high}` : `${s.low} … ${s.high}`;
    }
    function field(s, where, label = s.name.replaceAll("_", " ")) {
      const id = `train-${where}-${s.name}`, value = form()[where][s.name] ?? "";
      const listed = s.kind === "bool" ? [["true", "yes"], ["false", "no"]] : s.choices.map((c) => [c, c]);
      const common = { id, "data-hold": id, "aria-describedby": `${id}-help` };
      const take = (e) => { put(where, s.name, e.target.value); soon(); if (s.name === method().pick) { drawChoices(); drawPages(); } };
      const control = listed.length ? el("select", { ...common, on: { change: take } }, el("option", { value: "", text: "" }), listed.map(([v, t]) => option(v, t, value)))
        : el("input", { type: "text", inputmode: s.kind === "str" ? null : "decimal", value, spellcheck: "false", autocomplete: "off", ...common, on: { input: take } });
      const wrong = el("p", { class: "wrong", id: `${id}-wrong`, hidden: true });
      const help = [s.help.replace(/; empty: .*$/, ""), [s.unit, range(s)].filter(Boolean).join(", ")].filter(Boolean);
      const node = el("div", { class: "field setting" },
        el("label", { for: id }, label, s.live ? el("i", { class: "livedot", title: "may be changed while the run plays", role: "img", "aria-label": "live" }) : null),
        control, el("span", { id: `${id}-help` }, ...words(help[0]), help[1] ? [" ", el("span", { class: "num unit", text: `[${help[1]}]` })] : null), wrong);
      fields.set(where === "settings" ? s.name : `${where}.${s.name}`, { s, where, node, control, wrong });
      return node;
    }
    function drawNumbers() {
      Lab.fill(numbers.inside, [stamp, kept.method], () => {
        for (const key of fields.keys()) if (key !== method().pick) fields.delete(key);
        const all = method().settings.filter((s) => s.name !== method().pick), groups = [...new Set(all.map((s) => s.group))].sort((a, b) => (b === "objective") - (a === "objective"));
        const rest = groups.map((g) => [g, all.filter((s) => s.group === g && !s.essential)]).filter(([, some]) => some.length);
        const heading = (text, some, where) => el("section", { "aria-label": text }, el("h3", { text }), el("div", { class: "live" }, some.map((s) => field(s, where))));
        const legend = all.some((s) => s.live) ? el("p", { class: "small muted" }, el("i", { class: "livedot", "aria-hidden": "true" }), " may be changed while the run plays; what is left empty keeps its own value") : null;
        return [legend, el("div", { class: "live" }, all.filter((s) => s.essential).map((s) => field(s, "settings"))),
          el("details", { class: "every" }, el("summary", {}, "All settings", el("span", { class: "small muted", "data-changed": "" })),
            el("div", { class: "stack" }, ...rest.map(([g, some]) => heading(g, some, "settings")), heading("adapter (LoRA)", offers.adapter, "adapter")))];
      });
      refresh();
    }
    /** The values that stand where nothing was typed, and what is wrong. */
    function refresh() {
      let changed = 0, hidden = false;
      const blend = method().choices.length > 0 && !method().choices.some((p) => p.name === picked());
      for (const [key, f] of fields) {
        if (!f.node.isConnected) continue;
        const typed = form()[f.where][f.s.name] ?? "", mixed = f.s.name === method().pick;
        const value = mixed && method().choices.some((p) => p.name === typed) ? "" : typed;  // a chip says it already
        const own = f.s.optional ? found.own[f.s.name] : f.s.default;
        const stands = mixed ? "0.8*dpo + 0.2*nll" : f.s.optional && own === null ? (blend ? "each part's own" : `not read by ${picked() ?? kept.method}`) : own === undefined ? "" : plain(own);
        if (f.control.tagName === "SELECT") f.control.options[0].textContent = stands || "…"; else f.control.placeholder = stands;
        if (f.control.value !== value && document.activeElement !== f.control) f.control.value = value;
        f.node.classList.toggle("changed", value !== "");
        f.node.classList.toggle("unread", f.s.optional && own === null && value === "" && !blend);
        mark(f.wrong, found.errors[key], f.control);
        const inside = f.node.closest("details");
        if (inside) { changed += value !== ""; hidden ||= Boolean(found.errors[key]) && !inside.open; }
      }
      const every = numbers.inside.querySelector(".every");
      if (every && hidden) every.open = true;
      const count = numbers.inside.querySelector("[data-changed]");
      if (count) count.textContent = changed ? `${changed} changed` : "";
    }
    function mark(node, sentence, control) {
      if (!node) return;
      node.textContent = sentence || ""; node.hidden = !sentence;
      if (!control) return;
      if (sentence) { control.setAttribute("aria-invalid", "true"); control.setAttribute("aria-errormessage", node.id); } else { control.removeAttribute("aria-invalid"); control.removeAttribute("aria-errormessage"); }
    }
    const soon = () => { clearTimeout(typing); typing = setTimeout(check, 300); };
    async function check() {
      clearTimeout(typing);
      const mine = ++asked, reply = await safely("check", request());
      if (mine !== asked) return;
      if (!reply.error) found = { errors: reply.errors, own: Object.keys(reply.own).length ? reply.own : found.own };
      refresh(); drawRewards(); drawStart();
    }
    /** Asks what the form will need, once it has been the same for a moment and nothing in it is wrong. */
    function weigh() {
      if (!offers || !now.host || now.reason || Object.keys(found.errors).length) return;
      const { name: _, probes: __, ...form_ } = request(), text = JSON.stringify([stamp, form_]);
      if (text === weighed) return;
      weighed = text; clearTimeout(weighing);
      weighing = setTimeout(async () => {
        const reply = await safely("estimate", form_);
        const wrong = reply.error ? await safely("check", form_) : {};  // what is wrong with a setting stands at its field
        if (text === weighed) { needs = Object.keys(wrong.errors || {}).length ? { waits: true } : reply; held(drawNeed); }
      }, 500);
    }
    const drawNeed = () => Lab.need(need, Object.keys(found.errors).length ? { waits: true } : needs, take, now.host);
    function take(change) {
      for (const [n, v] of change.values) put(change.where, n, String(v));
      const inside = numbers.inside.querySelector(".every");
      if (inside) inside.open = true;
      held(() => { refresh(); settle(); }); check();
    }

    /* ---------------------------------------------------------------- start */
    const need = el("div", { class: "stack need", role: "group", "aria-label": "What it needs" });
    const name = el("input", { type: "text", id: "train-name", "data-hold": "name", spellcheck: "false", autocomplete: "off", on: { input: (e) => { form().name = e.target.value; save(); drawCommand(); } } });
    const go = Lab.button("Start", "play", () => start(), { class: "button main", "data-hold": "start", "aria-describedby": "train-why" });
    const why = el("div", { id: "train-why" }), told = el("div", { "aria-live": "polite", class: "stack" });
    const command = el("code", { class: "command", tabindex: "0", role: "group", "aria-label": "Command" });
    begin.append(el("div", { class: "row starts" }, el("div", { class: "field grow" }, el("label", { for: "train-name", text: "Name of the run" }), name), go), why, told, need,
      el("details", {}, el("summary", { text: "The same in a terminal" }), command));
    const curves = Lab.curvesOf;
    function drawStart() {
      const busy = now.busy[0];
      const cannot = now.reason || (now.host ? "" : "Only the host starts runs; you can look at everything.");
      go.disabled = starting || Boolean(cannot);
      go.lastChild.textContent = busy ? `Start after ${busy.id}` : "Start";
      if (document.activeElement !== name) name.value = form().name || "";
      name.placeholder = `${kept.method}-1, or the next number`;
      Lab.fill(why, [cannot, starting, busy && !starting ? [busy.id, busy.step, busy.total] : null, found.errors[""]], () => [
        cannot ? Lab.note("", cannot) : null,
        busy && !starting ? el("div", { class: "note", role: "status" }, el("i", { class: "dot running" }), el("span", { class: "wide",
          text: `${busy.id} plays${busy.total ? `, step ${busy.step} of ${busy.total}` : ""}. One run learns at a time: this one would wait in the queue.` }), curves(busy.id, "See its curves")) : null,
        found.errors[""] ? Lab.note("bad", found.errors[""]) : null]);
      need.hidden = !now.host || Boolean(now.reason); drawNeed(); weigh();
      drawCommand();
    }
    async function start(after = now.busy.length > 0) {
      if (go.disabled) return;
      pressed ||= Lab.key();  // the same until it is answered: asking twice is one launch
      starting = true; told.replaceChildren(Lab.note("", "Reading the data and getting the run ready …")); drawStart();
      const reply = await safely("start", { ...request(), key: pressed, after });
      starting = false;
      if (reply !== SILENT) pressed = "";
      if (reply.errors) { asked += 1; found = { errors: reply.errors, own: found.own }; refresh(); drawRewards(); }
      const notes = (reply.left_out || []).map((text) => Lab.note("warn", text.replace(/^left/, "Left")));
      told.replaceChildren(Lab.note(reply.error ? "bad" : "good", reply.error || reply.sentence, reply.id ? curves(reply.id, "See its curves")
        : reply.behind ? Lab.button(`Start after ${reply.behind}`, null, () => start(true), { "data-hold": "behind" }) : null), ...notes);
      if (reply.id || reply.place) { form().name = ""; save(); again(); }
      drawStart();
      const at = reply.errors ? root.querySelector("[aria-invalid=true]") : { data: "#train-data", init: "#train-init", rewards: "[data-hold=add]" }[reply.at];
      (typeof at === "string" ? root.querySelector(at) : at)?.focus();
    }
    const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
    function drawCommand() {
      const r = request(), flags = [];
      const flag = (n, v) => flags.push(`--${n.replaceAll("_", "-")} ${quoted(v)}`);
      if (r.init) flag("init", r.init); else if (now.model) flag("model", now.model);
      flag("data", r.data || "…");
      for (const { what, weight, options } of r.rewards) {
        const query = Object.entries(options).filter(([, v]) => v).map(([k, v]) => `${k}=${v.replaceAll("%", "%25").replaceAll("&", "%26")}`).join("&");
        flag("reward", (weight ? `${weight}*` : "") + what + (query ? `?${query}` : ""));
      }
      for (const [n, v] of [...Object.entries(r.settings), ...Object.entries(r.adapter)]) {
        if (v === "true" || v === "false") flags.push(`--${v === "true" ? "" : "no-"}${n.replaceAll("_", "-")}`); else flag(n, v);
      }
      for (const p of r.probes) flag("probe", p);
      if (r.name) flag("out", r.name);
      if (now.root && now.root !== "runs") flag("runs", now.root);
      command.replaceChildren(`lab ${r.method}`, ...flags.flatMap((text) => [" ", el("span", { text })]));
    }

    /* ---------------------------------------------------------------- all of it */
    function settle() { drawPresets(); drawFrom(); drawRewards(); drawStart(); }
    function draw() { drawMethods(); drawChoices(); drawPages(); drawNumbers(); settle(); }
    const again = Lab.loop(root, async () => {
      const reply = await safely("look", { have: stamp });
      wait.hidden = true;
      if (reply.error) { message.replaceChildren(Lab.note("bad", reply.error)); return; }
      message.replaceChildren();
      now = { list: [], pins: [], labels: {}, queue: { waiting: [], held: "" }, ...reply };
      held(() => ran.draw(now));
      const fresh = Boolean(reply.offers);
      if (fresh) { offers = reply.offers; stamp = reply.stamp; }
      empty.hidden = Boolean(offers); body.hidden = !offers;
      if (!offers) { Lab.fill(empty.lastChild, reply.reason, () => document.createTextNode(reply.reason)); return; }
      const wished = fresh ? Lab.query("method") : null;
      if (offers.methods[wished]) kept.method = wished;
      if (!offers.methods[kept.method]) kept.method = Object.keys(offers.methods)[0];
      const given = fresh ? Lab.query("data") : null;  // votes that another panel points at
      if (given?.startsWith("labels:")) { Object.assign(form(), given === "labels:" ? { from: "labels", round: "" } : { from: "file", file: given }); Lab.link({ data: null }); }
      held(fresh ? draw : settle);
      if (fresh) check();
    }, () => 2500);
  };
})();
