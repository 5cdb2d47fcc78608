/* The runs and the queue of the Train panel: progress, what can be done, live settings, branches, cards about failures. */
(() => {
  const Lab = (window.Lab = window.Lab || {});
  if (Lab.trainRuns) return;
  const { el } = Lab;
  const WORDS = { running: "plays", starting: "gets ready", paused: "paused", stale: "silent", finished: "finished", stopped: "stopped", failed: "failed", lost: "lost" };
  const FEW = 3;

  Lab.key = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, "0")).join("");
  Lab.curvesOf = (id, text) => {
    const url = new URL(location.href);
    url.search = ""; url.searchParams.set("tab", "curves"); url.searchParams.set("run", id);
    const theme = Lab.query("__theme"); if (theme) url.searchParams.set("__theme", theme);
    return el("a", { class: "link", href: url.href, text });
  };

  /** ask(name, value) asks the server; load(form, words) fills the form; again() looks at once; host() says who acts. */
  Lab.trainRuns = ({ ask, load, again, host }) => {
    const looks = el("p", { class: "small muted", text: "Only the host steers runs; you can look at all of them.", hidden: true });
    const told = el("div", { "aria-live": "polite" }), list = el("div", { class: "runlist" }), line = el("div", {});
    const more = Lab.button("All", null, () => { all = !all; draw(last); }, { "data-hold": "all-runs", class: "button quiet" });
    const node = el("section", { class: "card stack", "aria-label": "Runs and queue", hidden: true },
      el("div", { class: "row between" }, el("h2", { text: "Runs" }), more), looks, told, list, line);
    let last = { list: [], queue: { waiting: [], held: "" } }, all = false, open = { run: Lab.query("run"), what: "" }, pressing = false;
    const drafts = {};

    async function act(name, value, words) {
      if (pressing) return null;
      pressing = true; node.setAttribute("aria-busy", "true");
      const reply = await ask(name, value);
      pressing = false; node.removeAttribute("aria-busy");
      const behind = reply.behind && value.action ? Lab.button(`Wait for ${reply.behind}`, null, () => act("act", { ...value, after: true, key: Lab.key() }), { class: "button" }) : null;
      if (reply.form) load(reply.form, reply.sentence || words);
      const said = reply.error || reply.sentence || words;
      if (said) told.replaceChildren(Lab.note(reply.error ? "bad" : "good", said, reply.id && !reply.error ? Lab.curvesOf(reply.id, "See its curves") : behind));
      if (!reply.error) { open = { run: open.run, what: "" }; again(); }
      return reply;
    }

    /* ---------------------------------------------------------------- a run */
    const small = (text, icon, call, attrs = {}) => Lab.button(text, icon, call, { class: `button small${text ? "" : " icon"}`, disabled: !host(), ...attrs });
    function buttons(r) {
      const go = (action) => () => act("act", { run: r.id, action });
      const shown = [];
      if (!last.host) return shown;
      if (r.can.pause) shown.push(small("", "pause", go("pause"), { "aria-label": `Pause ${r.id}`, "data-hold": `pause-${r.id}` }));
      if (r.can.play) {
        const words = r.state === "paused" ? "Play" : "Resume";
        shown.push(r.can.behind ? small(`${words} after ${r.can.behind}`, null, () => act("act", { run: r.id, action: "play", after: true, key: Lab.key() }), { "data-hold": `play-${r.id}` })
          : small(words, "play", go("play"), { "aria-label": `${words} ${r.id}`, "data-hold": `play-${r.id}` }));
      }
      if (r.can.step && r.state === "paused" && !r.can.behind) shown.push(small("", "step", go("step"), { "aria-label": `One step of ${r.id}`, title: "One step", "data-hold": `step-${r.id}` }));
      if (r.can.stop) shown.push(small("Stop and save", "stop", go("stop"), { "aria-label": `Stop ${r.id} at a safe step and save it`, title: "At the next safe step, with a checkpoint", "data-hold": `stop-${r.id}` }));
      const toggle = (what, text, name) => small(text, null, () => { open = open.run === r.id && open.what === what ? { run: r.id, what: "" } : { run: r.id, what }; Lab.link({ tab: "train", run: r.id }); draw(last); },
        { "aria-expanded": String(open.run === r.id && open.what === what), "aria-label": name, "data-hold": `${what}-${r.id}` });
      if (r.can.edit && r.live.length) shown.push(toggle("live", "Live settings", `Live settings of ${r.id}`));
      if (r.can.branch) shown.push(toggle("branch", "Branch", `Branch from ${r.id}`));
      if (!r.card?.remedies.some((m) => m.does === "form")) shown.push(Lab.button("Settings into the form", null, async () => { const reply = await ask("again", { run: r.id }); if (reply.error) told.replaceChildren(Lab.note("bad", reply.error)); else load(reply.form, `The settings of ${r.id} stand in the form.`); },
        { class: "button small", "aria-label": `Settings of ${r.id} into the form`, "data-hold": `again-${r.id}` }));
      return shown;
    }
    const text = (value) => (value === null || value === undefined ? "" : String(value));
    function liveForm(r) {
      return el("div", { class: "inset stack", role: "group", "aria-label": `Live settings of ${r.id}` }, el("div", { class: "live" }, r.live.map((s) => {
        const id = `live-${r.id}-${s.name}`, input = el("input", { type: "text", id, inputmode: "decimal", value: text(s.value), placeholder: "its own", spellcheck: "false", "data-hold": id });
        const set = () => act("edit", { run: r.id, name: s.name, value: input.value });
        input.addEventListener("keydown", (e) => { if (e.key === "Enter") set(); });
        return el("div", { class: "field setting" }, el("label", { for: id, text: s.name.replaceAll("_", " ") }), el("div", { class: "pair" }, input, small("Set", null, set, { "aria-label": `Set ${s.name} of ${r.id}` })),
          el("span", { text: s.help.replace(/; empty: .*$/, "") + (s.unit ? ` [${s.unit}]` : "") }));
      })));
    }
    function branchForm(r) {
      const draft = (drafts[r.id] ||= { step: "", name: "", edits: {} });
      const step = el("select", { id: `branch-step-${r.id}`, on: { change: (e) => { draft.step = e.target.value; } } }, [...r.steps].reverse().map((s, i) => el("option", { value: String(s), text: i ? `step ${s}` : `step ${s}, its last`, selected: draft.step === String(s) })));
      const name = el("input", { type: "text", id: `branch-name-${r.id}`, value: draft.name, placeholder: `${r.method}-…`, spellcheck: "false", on: { input: (e) => { draft.name = e.target.value; } } });
      const first = (s) => ["lr", "kl", "beta", "steps", "epochs", "tokens_per_pass", "max_new_tokens", "batch", "temperature"].indexOf(s.name);
      const shown = r.settings.filter((s) => first(s) >= 0).sort((a, b) => first(a) - first(b));
      const rest = r.settings.filter((s) => first(s) < 0);
      const field = (s) => { const id = `branch-${r.id}-${s.name}`; return el("div", { class: "field setting" }, el("label", { for: id, text: s.name.replaceAll("_", " ") }),
        el("input", { type: "text", id, value: draft.edits[s.name] || "", placeholder: text(s.value) || "its own", spellcheck: "false", "data-hold": id, on: { input: (e) => { draft.edits[s.name] = e.target.value; } } })); };
      const go = async () => {
        draft.key ||= Lab.key();
        const reply = await act("branch", { run: r.id, step: Number(draft.step || r.steps.at(-1)), edits: draft.edits, name: draft.name, key: draft.key });
        if (reply) { if (reply.id) delete drafts[r.id]; else delete draft.key; }
      };
      return el("div", { class: "inset stack", role: "group", "aria-label": `Branch from ${r.id}` },
        el("div", { class: "pairs" }, el("div", { class: "field" }, el("label", { for: step.id, text: "From" }), step), el("div", { class: "field" }, el("label", { for: name.id, text: "Name" }), name)),
        el("div", { class: "live" }, shown.map(field)), rest.length ? el("details", {}, el("summary", { text: "Its other settings" }), el("div", { class: "live" }, rest.map(field))) : null,
        el("div", { class: "row" }, small("Branch and play", "play", go, { class: "button main", "data-hold": `go-${r.id}` }), el("span", { class: "small muted", text: "What is left empty stays as it was." })));
    }
    function card(r) {
      const c = r.card;
      return el("div", { class: "failure stack", role: "group", "aria-label": `What went wrong in ${r.id}` }, el("h3", { text: c.title }), el("p", { class: "wide", text: c.cause }),
        c.rows.length ? el("details", {}, el("summary", { text: "The rows it stumbled over" }), el("ul", { class: "small wide" }, c.rows.map((t) => el("li", { text: t })))) : null,
        !last.host ? null : el("div", { class: "row" }, c.remedies.map((m, i) => small(m.label, null, () => act("mend", { run: r.id, label: m.label, key: Lab.key() }), { class: i ? "button small" : "button small main", "data-hold": `mend-${r.id}-${i}`,
          disabled: !host() || (Boolean(last.reason) && m.does !== "form") }))));
    }
    function rowOf(r) {
      const inside = open.run === r.id ? { live: liveForm, branch: branchForm }[open.what] : null;
      return el("article", { class: `run${open.run === r.id ? " picked" : ""}`, "data-run": r.id, "aria-label": `${r.id}, ${WORDS[r.state] || r.state}` },
        el("div", { class: "row" }, el("i", { class: `dot ${r.state}`, "aria-hidden": "true" }), el("b", { class: "wide", text: r.id }),
          el("span", { class: "muted small wide", text: [r.id.startsWith(r.method) ? "" : r.method, r.title].filter(Boolean).join(" · ") }), el("span", { class: "grow" }), el("span", { class: "num small", "data-now": "" }), Lab.curvesOf(r.id, "Curves")),
        el("div", { class: "bar", role: "progressbar", "aria-label": `Progress of ${r.id}`, "aria-valuemin": "0", "aria-valuemax": "100" }, el("i", {})),
        r.sentence ? el("p", { class: "small wide", text: r.sentence }) : null, r.card ? card(r) : null,
        r.can.why && ["running", "paused", "stale", "starting"].includes(r.state) ? el("p", { class: "small muted wide", text: r.can.why }) : null,
        el("div", { class: "row tight" }, buttons(r)), inside && host() ? inside(r) : null);
    }
    function progress(r) {
      const at = list.querySelector(`[data-run="${CSS.escape(r.id)}"]`);
      if (!at) return;
      const bar = at.querySelector(".bar"), share = r.state === "finished" ? 1 : r.share;
      bar.firstChild.style.transform = `scaleX(${share})`;
      bar.setAttribute("aria-valuenow", String(Math.round(100 * share)));
      at.querySelector("[data-now]").textContent = [WORDS[r.state] || r.state, r.total ? `step ${r.step} of ${r.total}` : "", r.phase, r.eta ? `${r.eta} left` : "", r.wanted ? `will ${r.wanted}` : ""].filter(Boolean).join(" · ");
    }

    /* ---------------------------------------------------------------- the queue */
    function drawQueue({ waiting, held }) {
      line.hidden = !waiting.length;
      const change = (value) => act("line", value);
      const plays = last.busy?.[0];
      Lab.fill(line, [waiting, held, plays?.id, host(), last.host], () => waiting.length && [
        el("h3", { text: plays ? `After ${plays.id}` : "Waiting" }),
        held ? el("div", { class: "note warn", role: "status" }, el("b", { text: "!", "aria-hidden": "true" }), el("span", { class: "wide", text: held }), !last.host ? null : small("Go on", "play", () => change({ do: "go" }), { class: "button small main", "data-hold": "queue-go" })) : null,
        el("ol", { class: "queue", "aria-label": "Queue" }, waiting.map((e, i) => el("li", { class: "row" },
          el("span", { class: "num muted", text: `${i + 1}` }), el("b", { class: "wide", text: e.run ? `${e.run} goes on` : e.title }),
          el("span", { class: "small muted wide grow", text: [e.method !== e.title ? e.method : "", e.init ? `from ${e.init}` : "", e.data, e.by ? `by ${e.by}` : ""].filter(Boolean).join(" · ") }),
          e.wrong ? el("span", { class: "wrong wide", text: e.wrong }) : null,
          !last.host ? null : el("span", { class: "row tight" }, small("Up", null, () => change({ do: "move", key: e.key, place: i }), { "aria-label": `Move ${e.title} up`, disabled: !host() || i === 0, "data-hold": `up-${e.key}` }),
            small("Down", null, () => change({ do: "move", key: e.key, place: i + 2 }), { "aria-label": `Move ${e.title} down`, disabled: !host() || i === waiting.length - 1, "data-hold": `down-${e.key}` }),
            small("Remove", null, () => change({ do: "remove", key: e.key }), { "aria-label": `Take ${e.title} out of the queue`, "data-hold": `out-${e.key}` })))))]);
    }

    function draw(now) {
      last = now;
      const every = now.list, live = every.filter((r) => ["running", "starting", "paused", "stale"].includes(r.state));
      const wished = every.filter((r) => r.id === open.run && !live.includes(r));
      const few = [...live, ...wished, ...every.filter((r) => !live.includes(r) && !wished.includes(r))].slice(0, Math.max(FEW, live.length + wished.length));
      const shown = all ? [...live, ...every.filter((r) => !live.includes(r))] : few;
      node.hidden = !every.length && !now.queue.waiting.length;
      looks.hidden = now.host;
      more.hidden = every.length <= FEW;
      more.firstChild.textContent = all ? "Fewer" : `All ${every.length + (now.more || 0)}`;
      const still = shown.map(({ step, share, phase, eta, wanted, total, ...rest }) => rest);
      Lab.fill(list, [still, open, host(), now.host, Boolean(now.reason)], () => shown.map(rowOf));
      shown.forEach(progress);
      drawQueue(now.queue);
    }
    return { node, draw, say: (note) => told.replaceChildren(note) };
  };
})();
