/* The Arena panel: who wins, by whose votes, how sure that is, and what is still disputed. */
(() => {
  const Lab = (window.Lab = window.Lab || {});
  const BY = { person: "everybody", judge: "a judge", annotator: "a simulated person", reward_model: "a reward model", constitution: "a constitution" };
  /** Two decimals with a sign, so that a column of them lines up. */
  const points = (x) => { const t = Math.abs(x).toFixed(2); return Number(t) === 0 ? t : (x < 0 ? "−" : "+") + t; };
  const percent = (x) => `${Math.round(100 * x)} %`;

  Lab.arena = ({ element, server, plotly }) => {
    const root = element.querySelector("[data-panel]");
    const { el } = Lab;
    const state = { who: Lab.query("who") || "", one: Lab.query("one") || "", other: Lab.query("other") || "", roles: null };
    let Plotly = null, refresh = () => {};

    /* ---------------------------------------------------------------- the parts of the page */
    const message = el("div", { "aria-live": "polite" });
    const notes = el("div", { class: "stack", style: { gap: ".5rem" } });
    const pick = el("select", { id: "arena-who", style: { flex: "1 1 9rem", minWidth: 0 }, on: { change: () => { state.who = pick.value; link(); refresh(); } } });
    const sums = el("span", { class: "muted num" });
    const head = el("div", { class: "row" }, el("h2", { text: "Leaderboard" }),
      el("label", { class: "row small muted", for: "arena-who", style: { gap: ".3rem .5rem", maxWidth: "100%" } }, "by the votes of", pick), sums);
    const figure = el("div", { class: "area", role: "img" });
    const table = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "The leaderboard as a table" });
    const more = el("p", { class: "small muted" });
    const standings = el("section", { class: "card stack", "aria-label": "Leaderboard" }, head, figure, table, more);
    const grid = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Who won against whom" });
    const matrix = el("section", { class: "card stack", "aria-label": "Win matrix" }, el("h2", { text: "Who won against whom" }), grid,
      el("p", { class: "small muted", text: "A row's share of the votes against a column; a tie is half a vote. Below it, the number of votes." }));
    const sides = { one: el("select", { "aria-label": "One policy" }), other: el("select", { "aria-label": "The other policy" }) };
    for (const side of ["one", "other"]) sides[side].addEventListener("change", () => choose(side, sides[side].value));
    const pairs = el("div", { class: "stack" });
    const disputed = el("section", { class: "card stack", "aria-label": "Disputed pairs" },
      el("div", { class: "row" }, el("h2", { class: "grow", text: "Disputed between" }), sides.one, el("span", { class: "muted", text: "and" }), sides.other), pairs);
    const empty = el("div", { class: "card welcome", hidden: true });
    const wait = el("div", { class: "card stack", "aria-busy": "true", "aria-label": "Loading" }, ...[1, 2, 3].map(() => el("div", { class: "skeleton", style: { height: "3.2rem" } })));
    const host = hostCard();
    const body = el("div", { class: "arena-grid" }, standings, matrix);
    const all = el("div", { class: "stack", hidden: true }, notes, body, disputed);
    root.classList.add("stack");
    root.append(message, wait, empty, all, host.node);

    const SILENT = { error: "The Studio does not answer; is it still running in its terminal?" };
    const safely = async (name, value) => { try { return await server[name](value); } catch { return SILENT; } };
    const tell = (level, text, kind = "poll") => {
      message.dataset.kind = kind;
      Lab.fill(message, [level, text], () => (text ? Lab.note(level, text) : null));
    };
    const link = () => Lab.link({ tab: "arena", who: state.who === "people" ? null : state.who, one: state.one, other: state.other });
    function choose(side, name) {
      const rest = side === "one" ? "other" : "one";
      if (state[rest] === name) state[rest] = state[side];  // the two exchange their places
      state[side] = name;
      link();
      refresh();
    }

    /* ---------------------------------------------------------------- leaderboard */
    function drawHead(r) {
      Lab.fill(pick, [r.judges, r.who], () => r.judges.map((j) => el("option", { value: j.name, selected: j.name === r.who,
        text: j.name === "people" ? `people (${j.votes})` : `${j.name} (${j.votes}, ${BY[j.by] || j.by})` })));
      sums.textContent = `${r.board.votes} ${r.board.votes === 1 ? "vote" : "votes"} · ${r.contests} pairs · ${r.waiting} without one`;
      Lab.fill(notes, r.board.notes, () => r.board.notes.map((text) => Lab.note("warn", text)));
    }
    async function drawFigure(r) {
      Plotly ||= await Lab.plotly(plotly);
      const names = r.board.standings.map((s) => `${s.policy} ${points(s.strength.mean)}`).join(", ");
      figure.setAttribute("aria-label", `Strengths with 95 % intervals: ${names}`);
      const key = JSON.stringify([r.figure, Lab.dark()]);
      if (figure.dataset.key === key) return;
      figure.dataset.key = key;
      figure.style.height = `${r.figure.layout.height}px`;
      const layout = { ...r.figure.layout, autosize: true, height: undefined, dragmode: false };
      await Plotly.react(figure, r.figure.data, layout, { ...Lab.PLOT, displayModeBar: false });
    }
    const range = (e, show) => (e && e.low !== null ? el("span", { class: "muted small", text: ` ${show(e.low)} … ${show(e.high)}` }) : null);
    function drawTable(r) {
      const truth = Object.keys(r.worth).length > 0, groups = r.board.groups.length > 1;
      const heads = ["rank", "policy", "strength", "wins against the others", "votes", ...(truth ? ["true score"] : [])];
      Lab.fill(table, [r.board.standings, r.worth], () => el("table", { class: "standings" },
        el("thead", {}, el("tr", {}, heads.map((text) => el("th", { scope: "col", text })))),
        el("tbody", {}, r.board.standings.map((s, i) => {
          const first = i > 0 && groups && s.group !== r.board.standings[i - 1].group;
          return el("tr", { class: first ? "apart" : null },
            el("td", { class: "num", text: s.rank }), el("th", { scope: "row", class: "wide", text: s.policy }),
            el("td", { class: "num" }, el("b", { text: points(s.strength.mean) }), range(s.strength, points)),
            el("td", { class: "num" }, el("b", { text: percent(s.win_rate.mean) }), range(s.win_rate, percent)),
            el("td", { class: "num", text: s.votes }),
            truth ? el("td", { class: "num" }, ...(r.worth[s.policy] ? [el("b", { text: points(r.worth[s.policy].mean) }), range(r.worth[s.policy], points)] : ["–"])) : null);
        }))));
      const said = ["Rank: one more than the number of policies that are surely better; equal ranks cannot be told apart yet."];
      if (r.needed) said.push(needed(r.needed));
      if (truth) said.push("True score: the tiny world's own, of each policy's answers in these pairs.");
      more.textContent = said.join(" ");
    }
    function needed(n) {
      if (n.votes === 0) return `${n.one} is surely above ${n.other}.`;
      if (n.votes === null) return `${n.one} and ${n.other} are as good as level; no number of votes within reach tells them apart.`;
      return `About ${n.votes} more votes on ${n.one} against ${n.other} would tell them apart, four times of five (normal approximation).`;
    }

    /* ---------------------------------------------------------------- who won against whom */
    function drawMatrix(r) {
      const names = r.board.standings.map((s) => s.policy);
      const met = new Map();
      for (const m of r.board.meetings) {
        met.set(JSON.stringify([m.one, m.other]), [m.share, m.wins, m.ties, m.losses]);
        met.set(JSON.stringify([m.other, m.one]), [1 - m.share, m.losses, m.ties, m.wins]);
      }
      Lab.fill(grid, r.board.meetings.concat(names), () => el("table", { class: "matrix", style: { minWidth: `${6 + 4.4 * names.length}rem` } },
        el("thead", {}, el("tr", {}, el("td", {}), names.map((n) => el("th", { scope: "col", title: n }, el("span", { class: "wide", text: n }))))),
        el("tbody", {}, names.map((row) => el("tr", {}, el("th", { scope: "row", title: row }, el("span", { class: "wide", text: row })), names.map((column) => {
          const m = met.get(JSON.stringify([row, column]));
          if (row === column) return el("td", { class: "none", "aria-label": "itself" });
          if (!m) return el("td", { class: "none small muted", text: "never met" });
          const [share, wins, ties, losses] = m, depth = Math.abs(share - 0.5) * 1.1;
          return el("td", { class: "num", style: { background: share >= 0.5 ? `rgba(52, 110, 235, ${depth})` : `rgba(222, 62, 48, ${depth})` } },
            el("button", { type: "button", title: `${wins} won, ${ties} tied, ${losses} lost`, "aria-label": `${row} against ${column}: ${percent(share)} of ${wins + ties + losses} votes; show the disputed pairs`,
              on: { click: () => { state.one = row; state.other = column; link(); refresh(); disputed.scrollIntoView({ block: "nearest" }); } } },
              el("b", { text: percent(share) }), el("small", { text: wins + ties + losses })));
        }))))));
    }

    /* ---------------------------------------------------------------- disputed pairs */
    function drawDisputed(r) {
      const names = r.board.standings.map((s) => s.policy);
      [state.one, state.other] = r.pair;
      for (const [side, name] of [["one", r.pair[0]], ["other", r.pair[1]]]) {
        Lab.fill(sides[side], [names, name], () => names.map((n) => el("option", { value: n, text: n, selected: n === name })));
      }
      Lab.fill(pairs, [r.disputed, r.pair], () => (r.disputed.length ? r.disputed.map((d) => {
        const n = d.wins + d.ties + d.losses, share = (d.wins + d.ties / 2) / n;
        return el("article", { class: "met" },
          el("div", { class: "row" }, el("p", { class: "grow wide" }, el("span", { class: "muted", text: "Prompt  " }), el("b", { text: d.prompt })),
            el("span", { class: "num small muted", text: `${d.wins} : ${d.losses}${d.ties ? ` · ${d.ties} tied` : ""}` })),
          el("div", { class: "tug", role: "img", "aria-label": `${d.wins} for ${r.pair[0]}, ${d.losses} for ${r.pair[1]}, ${d.ties} for neither` }, el("i", { style: { width: `${100 * share}%` } })),
          el("div", { class: "answers" }, [[r.pair[0], d.one], [r.pair[1], d.other]].map(([name, text]) =>
            el("div", { class: "answer" }, el("div", { class: "small muted wide", text: name }), el("div", { class: "said", text })))));
      }) : el("p", { class: "muted", text: "These two have met in no pair that was voted on." })));
    }

    /* ---------------------------------------------------------------- what the host does */
    function hostCard() {
      const chosen = new Set();
      const chips = el("div", { class: "chips", role: "group", "aria-label": "Roles of the duel (two to four)" });
      const field = (name, input) => { input.id = `arena-${name.replaceAll(/\W+/g, "-")}`; return el("div", { class: "field" }, el("label", { for: input.id, text: name }), input); };
      const count = el("input", { type: "number", min: 1, max: 500, step: 1, value: 20 });
      const heat = el("input", { type: "number", min: 0.1, max: 2, step: 0.1, value: 1 });
      const longest = el("input", { type: "number", min: 4, max: 512, step: 4, value: 32 });
      const seed = el("input", { type: "number", min: 0, max: 999999, step: 1, value: 0 });
      const typed = el("textarea", { rows: 2, maxlength: 20000, spellcheck: "false", placeholder: "one prompt a line" });
      const own = el("details", {}, el("summary", { text: "Prompts of your own" }), field("Prompts", typed));
      const begin = Lab.button("Start the duel", "play", async () => done(await safely("duel", { roles: [...chosen], n: count.value, seed: seed.value,
        temperature: heat.value, length: longest.value, prompts: typed.value })), { class: "button main" });
      const judge = el("select", {}), words = el("input", { type: "text", maxlength: 110, spellcheck: "false", placeholder: "reward:reward-1", autocomplete: "off" });
      const vote = Lab.button("Let it vote", "play", async () => done(await safely("judge", { judge: words.value.trim() || judge.value })), { class: "button" });
      const stop = Lab.button("Stop", "stop", async () => done(await safely("stop", {})));
      const fill = el("i", {}), bar = el("div", { class: "bar", role: "progressbar", "aria-label": "Progress", "aria-valuemin": 0, "aria-valuemax": 100 }, fill);
      const going = el("span", { class: "grow wide", "aria-live": "polite" });
      const job = el("div", { class: "stack", style: { gap: ".5rem" }, hidden: true }, el("div", { class: "row" }, going, stop), bar);
      const why = el("div", {});
      const node = el("section", { class: "card stack tools", hidden: true, "aria-label": "The host's tools" },
        el("div", { class: "pairs" },
          el("div", { class: "stack", style: { gap: ".7rem" } }, el("h2", { text: "Start a duel" }),
            el("p", { class: "small muted", text: "The roles answer the same prompts with the same noise; each two answers that differ go to the label queue." }),
            chips, el("div", { class: "numbers-in" }, field("How many prompts", count), field("Temperature", heat), field("Longest answer, tokens", longest), field("Seed", seed)), own, el("div", {}, begin)),
          el("div", { class: "stack", style: { gap: ".7rem" } }, el("h2", { text: "Let a judge vote" }),
            el("p", { class: "small muted", text: "On every pair of two policies it has not judged, in both orders; where the orders disagree it is a tie. Its votes are kept beside the people's." }),
            field("Judge", judge), field("or another, as lab judge takes it", words), el("div", {}, vote))),
        why, job);
      function done(reply) {
        tell(reply.error ? "bad" : "", reply.error || "", "act");
        refresh();
      }
      function draw(r) {
        node.hidden = !r.host;
        if (!r.host) return;
        const roles = r.engine.roles;
        for (const name of [...chosen]) if (!roles.includes(name)) chosen.delete(name);
        Lab.fill(chips, [roles, [...chosen]], () => roles.map((role) => el("button", { type: "button", class: "chip", text: role, "data-role": role, "aria-pressed": String(chosen.has(role)),
          disabled: !chosen.has(role) && chosen.size >= 4, on: { click: () => {
            if (!chosen.delete(role)) chosen.add(role);
            draw(r);
            chips.querySelector(`[data-role="${CSS.escape(role)}"]`)?.focus();
          } } })));
        const judges = [...(r.engine.tiny ? ["gold", "annotator:crowd", "annotator:expert", "annotator:rushed", "reaction:base"] : []), ...roles];
        Lab.fill(judge, judges, () => judges.map((text) => el("option", { value: text, text })));
        own.open = own.open || !r.engine.tiny;
        const running = r.job && r.job.state === "running";
        const reason = r.engine.reason || (running ? `${r.job.title} is going on.` : "");
        begin.disabled = Boolean(reason) || chosen.size < 2;
        begin.title = reason || (chosen.size < 2 ? "Choose two to four roles." : "");
        vote.disabled = Boolean(reason);
        vote.title = reason;
        Lab.fill(why, r.engine.reason, () => (r.engine.reason ? Lab.note("", r.engine.reason) : null));
        job.hidden = !r.job || r.job.state === "idle";
        if (job.hidden) return;
        const share = r.job.of ? r.job.done / r.job.of : running ? 0 : 1;
        fill.style.transform = `scaleX(${share})`;
        bar.setAttribute("aria-valuenow", Math.round(100 * share));
        bar.hidden = !running;
        stop.hidden = !running;
        const words2 = { running: `${r.job.title}: ${r.job.done} of ${r.job.of}.`, done: `${r.job.title}: done.`, stopped: `${r.job.title}: stopped.`, failed: `${r.job.title} failed:` };
        going.textContent = [words2[r.job.state], r.job.sentence].filter(Boolean).join(" ");
        job.classList.toggle("failed", r.job.state === "failed");
      }
      return { node, draw };
    }

    /* ---------------------------------------------------------------- states */
    function drawEmpty(r) {
      const voted = r.board && r.board.votes > 0;
      empty.hidden = Boolean(voted && !r.hidden);
      all.hidden = !empty.hidden;
      Lab.fill(empty, [r.hidden, r.contests, r.host], () => (r.hidden ? [el("h2", { text: "Not yet" }), el("p", { text: r.hidden })]
        : r.contests ? [el("h2", { text: `${r.contests} ${r.contests === 1 ? "pair waits" : "pairs wait"} for votes` }),
          el("p", { text: r.host ? "Judge them in Label, or let a judge vote below. The leaderboard appears with the first vote." : "Judge them in Label; the leaderboard appears with the first vote." })]
          : [el("h2", { text: "No policies have met yet" }),
            el("p", { text: `Two policies meet in a pair of answers to one prompt. ${r.host ? "Start a duel below, send" : "Send"} two answers from Sample to the queue, or add pairs in the terminal.` }),
            el("p", {}, el("code", { text: "lab label add --roles sft-1,ppo-1 --data tiny:heldout" }))]));
    }

    Lab.onTheme(() => refresh());
    refresh = Lab.loop(root, async () => {
      const r = await safely("look", { who: state.who, one: state.one, other: state.other, dark: Lab.dark() });
      wait.hidden = true;
      if (r.error) { tell("bad", r.error); return; }
      if (message.dataset.kind === "poll") tell();
      host.draw(r);
      drawEmpty(r);
      if (all.hidden) return;
      state.who = r.who;
      drawHead(r);
      drawTable(r);
      drawMatrix(r);
      drawDisputed(r);
      await drawFigure(r);
    }, () => 2500);
  };
})();
