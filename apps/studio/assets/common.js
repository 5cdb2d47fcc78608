/* Helpers every panel shares. Text from a model, a run or a person reaches the page through textContent only. */
(() => {
  const Lab = (window.Lab = window.Lab || {});
  if (Lab.el) return;

  /** An element with attributes (`text`, `on`, `class`, `style`, aria-…; null and false leave one out) and children. */
  Lab.el = (tag, attrs = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attrs)) {
      if (value === null || value === undefined || value === false) continue;
      if (name === "text") node.textContent = value;
      else if (name === "on") for (const [event, call] of Object.entries(value)) node.addEventListener(event, call);
      else if (name === "style") Object.assign(node.style, value);
      else node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.flat(9).filter((c) => c !== null && c !== undefined && c !== false));
    return node;
  };

  /** The server's functions, which throw where nobody answers (Gradio's own then give undefined). */
  Lab.heard = (server) => new Proxy(server, { get: (all, name) => async (value) => {
    const reply = await all[name](value);
    if (reply === undefined || reply === null) throw new Error("The Studio does not answer.");
    return reply;
  } });

  const ICONS = {
    play: "M3 1.5v13l11-6.5z", pause: "M3 1.5h4v13H3zM9 1.5h4v13H9z", step: "M2 1.5v13l8-6.5zM11 1.5h3v13h-3z",
    stop: "M2.5 2.5h11v11h-11z", left: "M10.5 1.5 4 8l6.5 6.5z", right: "M5.5 1.5 12 8l-6.5 6.5z",
    dice: "M3 1h10a2 2 0 0 1 2 2v10a2 2 0 0 1-2 2H3a2 2 0 0 1-2-2V3a2 2 0 0 1 2-2zm2 2.6a1.4 1.4 0 1 0 0 2.8 1.4 1.4 0 0 0 0-2.8zm6 0a1.4 1.4 0 1 0 0 2.8 1.4 1.4 0 0 0 0-2.8zM8 6.6a1.4 1.4 0 1 0 0 2.8 1.4 1.4 0 0 0 0-2.8zM5 9.6a1.4 1.4 0 1 0 0 2.8 1.4 1.4 0 0 0 0-2.8zm6 0a1.4 1.4 0 1 0 0 2.8 1.4 1.4 0 0 0 0-2.8z",
    label: "M2 2.5h12v8H8.6L5 14v-3.5H2z", pin: "M5 1.5h6v1.6l-1 .8v4l2.2 2v1.6H8.8V15L8 16l-.8-1v-3.5H3.8V9.9L6 7.9v-4l-1-.8z",
    theme: "M8 1a7 7 0 1 0 0 14A7 7 0 0 0 8 1zm0 2v10A5 5 0 0 1 8 3z",
  };
  Lab.icon = (name) => {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "0 0 16 16");
    svg.setAttribute("aria-hidden", "true");
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", ICONS[name]);
    path.setAttribute("fill-rule", "evenodd");
    svg.append(path);
    return svg;
  };

  /** Puts `nodes` in place of the children of `parent`, only when `key` differs from the last call. */
  Lab.fill = (parent, key, make) => {
    const text = JSON.stringify(key);
    if (parent.dataset.key === text) return false;
    parent.dataset.key = text;
    parent.replaceChildren(...[make()].flat().filter(Boolean));
    return true;
  };

  Lab.num = (value, digits = 3) => {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    let text;
    if (value === 0) text = "0";
    else if (size >= 1e5 || size < 1e-3) text = value.toExponential(1).replace("e+", "e").replace("e-", "e−");
    else if (Number.isInteger(value) || size >= 1000) text = value.toFixed(0);
    else text = Number(value.toPrecision(digits)).toString();
    return text.replace("-", "−");
  };
  Lab.signed = (value, digits = 3) => (value > 0 ? "+" : "") + Lab.num(value, digits);

  Lab.duration = (seconds) => {
    if (seconds === null || seconds === undefined) return "";
    const s = Math.max(0, Math.round(seconds));
    if (s < 90) return `${s} s`;
    if (s < 5400) return `${Math.round(s / 60)} min`;
    if (s < 172800) return `${(s / 3600).toFixed(1)} h`;
    return `${Math.round(s / 86400)} days`;
  };

  Lab.visible = (node) => node.isConnected && node.offsetParent !== null && !document.hidden;

  /** Calls `task` again and again, `pause()` milliseconds after it ended, only while `node` can be seen. */
  Lab.loop = (node, task, pause) => {
    let timer = 0, busy = false, again = false;
    const tick = async () => {
      clearTimeout(timer);
      if (busy) { again = true; return; }
      if (Lab.visible(node)) {
        busy = true;
        try { await task(); } catch (error) { console.error(error); }
        busy = false;
      }
      const soon = again;
      again = false;
      timer = setTimeout(tick, soon ? 0 : pause());
    };
    document.addEventListener("visibilitychange", () => { if (!document.hidden) tick(); });
    new IntersectionObserver((entries) => { if (entries.some((e) => e.isIntersecting)) tick(); }).observe(node);
    tick();
    return tick;
  };

  /** Whether a key press is meant for the panel at `root`: seen, not typed into a field, no other key held, not repeated. */
  const SWITCH = "lab-keys-off";
  const kept = (name) => { try { return localStorage.getItem(name); } catch { return null; } };
  const keep = (name, value) => { try { if (value === null) localStorage.removeItem(name); else localStorage.setItem(name, value); } catch { /* a browser that keeps nothing */ } };
  Lab.kept = kept;
  Lab.keep = keep;
  Lab.keyMeant = (root, event) => {
    const to = event.target;
    const typing = to instanceof Element && (to.matches("input, textarea, select") || to.isContentEditable);
    return !typing && !event.repeat && !event.ctrlKey && !event.altKey && !event.metaKey && !event.isComposing
      && !document.querySelector("dialog[open]") && kept(SWITCH) === null && Lab.visible(root);
  };

  /** Keys of the panel at `root`: [[key, what it does], …], shown by "?" while the panel can be seen. */
  const lists = [];
  let dialog = null;
  Lab.keys = (root, rows) => { lists.push([root, rows]); };
  Lab.showKeys = () => {
    const rows = lists.filter(([root]) => root.isConnected && root.offsetParent !== null).flatMap(([, r]) => r);
    dialog ||= document.body.appendChild(Lab.el("dialog", { class: "lab keys", "aria-label": "Keys" }));
    const off = Lab.el("input", { type: "checkbox", id: "lab-keys-on", on: { change: () => keep(SWITCH, off.checked ? null : "1") } });
    off.checked = kept(SWITCH) === null;
    dialog.replaceChildren(Lab.el("h2", { text: "Keys" }),
      Lab.el("dl", {}, [...rows, ["?", "this list"]].flatMap(([key, text]) => [Lab.el("dt", {}, Lab.el("kbd", { text: key })), Lab.el("dd", { text })])),
      Lab.el("label", { class: "row" }, off, Lab.el("span", { text: "keys of one letter are on" })),
      Lab.button("Close", null, () => dialog.close(), { class: "button main" }));
    dialog.showModal();
  };
  document.addEventListener("keydown", (event) => {
    if (event.key !== "?" || event.ctrlKey || event.altKey || event.metaKey) return;
    const to = event.target;
    if (to instanceof Element && (to.matches("input, textarea, select") || to.isContentEditable) || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    Lab.showKeys();
  });

  Lab.dark = () => document.body.classList.contains("dark");
  Lab.onTheme = (call) => {
    let last = Lab.dark();
    new MutationObserver(() => { if (Lab.dark() !== last) { last = Lab.dark(); call(last); } })
      .observe(document.body, { attributes: true, attributeFilter: ["class"] });
  };

  /** Writes `values` (null removes) into the address, so that the view can be linked and survives a reload. */
  Lab.link = (values) => {
    const url = new URL(location.href);
    for (const [name, value] of Object.entries(values)) {
      if (value === null || value === undefined || value === "") url.searchParams.delete(name);
      else url.searchParams.set(name, value);
    }
    const text = url.href.replaceAll("%2C", ",");
    if (text !== location.href) history.replaceState(history.state, "", text);
  };
  Lab.query = (name) => new URLSearchParams(location.search).get(name);

  /** Words with what was added marked <ins> and what was lost <del>. */
  Lab.diff = (parts) => parts.flatMap(([op, text], i) => {
    const node = op === "same" ? document.createTextNode(text) : Lab.el(op === "added" ? "ins" : "del", { text });
    return i ? [document.createTextNode(" "), node] : [node];
  });

  /** Tokens coloured by a difference of log-probabilities in nats: red more likely, blue less, underlined beyond 2. */
  const RED = "222, 62, 48", BLUE = "52, 110, 235", AMBER = "214, 138, 16";
  const token = (text, value, label, colour, share, far, data) => Lab.el("span", {
    class: far ? "token far" : "token", text, title: label, [data]: value.toFixed(3), style: { background: `rgba(${colour}, ${share})` } });
  const known = (v) => v !== undefined && v !== null;
  Lab.heat = (tokens, deltas) => tokens.map((text, i) => {
    const d = deltas[i];
    if (!known(d)) return document.createTextNode(text);
    return token(text, d, `Δ log p ${Lab.signed(d, 2)} nats`, d > 0 ? RED : BLUE, Math.min(1, Math.abs(d) / 3) * 0.75, Math.abs(d) > 2, "data-delta");
  });
  /** Tokens coloured by the entropy of the distribution they were drawn from: the stronger, the less decided. */
  Lab.unsure = (tokens, entropy) => tokens.map((text, i) => {
    const h = entropy[i];
    if (!known(h)) return document.createTextNode(text);
    return token(text, h, `entropy ${Lab.num(h, 2)} nats: as undecided as between ${Lab.num(Math.exp(h), 2)} equal words`, AMBER, Math.min(1, h / 3) * 0.8, false, "data-entropy");
  });
  /** Tokens coloured by what each adds to the reward model's reading: red up, blue down, underlined beyond 1. */
  Lab.earned = (tokens, earned) => tokens.map((text, i) => {
    const now = earned[i];
    if (!known(now)) return document.createTextNode(text);
    const step = i ? now - earned[i - 1] : 0;
    return token(text, step, `reward so far ${Lab.signed(now, 2)}${i ? `, ${Lab.signed(step, 2)} by this token` : ""}`, step > 0 ? RED : BLUE, Math.min(1, Math.abs(step) / 1.5) * 0.75, Math.abs(step) > 1, "data-earned");
  });

  let loading = null;
  /** Plotly, kept out of `window` so that Gradio's own copy and this one never meet. */
  Lab.plotly = (address) => (loading ||= new Promise((resolve, reject) => {
    const script = Lab.el("script", { src: address });
    script.onload = () => { const plotly = window.Plotly; delete window.Plotly; resolve(plotly); };
    script.onerror = () => { loading = null; reject(new Error("plotly.js could not be loaded")); };
    document.head.append(script);
  }));
  Lab.PLOT = { displaylogo: false, showSendToCloud: false, responsive: true, displayModeBar: "hover",
    modeBarButtonsToRemove: ["sendChartToCloud", "lasso2d", "select2d", "autoScale2d", "zoomIn2d", "zoomOut2d"] };

  Lab.fact = (name, value) => Lab.el("span", {}, `${name} `, Lab.el("b", { text: value }));

  /** Reward, true score with its reasons, KL, length and whether it ended. */
  Lab.facts = (a) => {
    const facts = Lab.el("div", { class: "facts" });
    if (a.reward !== null && a.reward !== undefined) facts.append(Lab.fact("reward", Lab.signed(a.reward)));
    if (a.gold !== null && a.gold !== undefined) facts.append(Lab.fact("true score", Lab.signed(a.gold)));
    if (a.kl !== null && a.kl !== undefined) facts.append(Lab.fact("KL", Lab.num(a.kl)));
    if (facts.children.length) facts.append(Lab.el("span", { class: "break" }));
    if (a.length) facts.append(Lab.fact("", `${a.length} ${a.unit || "tokens"}`));
    if (a.ended !== null && a.ended !== undefined) {
      facts.append(Lab.el("span", { text: a.ended ? "✓ ended" : "✗ cut off", class: a.ended ? "" : "cut" }));
    }
    const reasons = (a.reasons || []).map(([name, value]) => Lab.el("li", { class: value < 0 ? "minus" : "plus" },
      Lab.el("span", { text: `${name} ` }), Lab.el("b", { class: "num", text: Lab.signed(value, 2) })));
    return reasons.length ? [facts, Lab.el("ul", { class: "reasons", "aria-label": "Why this true score" }, reasons)] : [facts];
  };

  Lab.note = (level, text, more) => Lab.el("div", { class: `note ${level}`, role: level === "bad" ? "alert" : "status" },
    Lab.el("b", { text: { bad: "✗", warn: "!", good: "✓" }[level] || "·", "aria-hidden": "true" }),
    Lab.el("span", { class: "wide", text }), more);

  Lab.segments = (label, options, chosen, call) => {
    const group = Lab.el("div", { class: "segments", role: "group", "aria-label": label });
    const press = (value) => { for (const b of group.children) b.setAttribute("aria-pressed", String(b.dataset.value === value)); };
    for (const [value, text] of options) {
      group.append(Lab.el("button", { type: "button", text, "data-value": value, on: { click: () => { press(value); call(value); } } }));
    }
    press(chosen);
    group.press = press;
    return group;
  };

  /** What was said, turn by turn, as text; `cut`: it did not come to an end of its own. */
  Lab.turns = (list, cut = false) => [
    ...list.map((turn) => Lab.el("div", { class: "turn" },
      list.length > 1 ? Lab.el("div", { class: "small muted", text: turn.role }) : null, Lab.el("div", { class: "text", dir: "auto", text: turn.text }))),
    cut ? Lab.el("div", { class: "small muted", text: "cut off here" }) : null].filter(Boolean);

  Lab.percent = (value) => (value === null || value === undefined ? "–" : `${Math.round(100 * value)} %`);

  /** An estimate {mean, low, high, why} on a line from `least` to `most`: a dot with its 95 % interval; `half`: a mark at ½. */
  Lab.measure = (e, label, { least = 0, most = 1, half = false, show = Lab.percent } = {}) => {
    if (!e || e.mean === null || e.mean === undefined) return Lab.el("span", { class: "small muted", text: (e && e.why) || "–" });
    const at = (x) => `${(100 * (Math.min(most, Math.max(least, x)) - least)) / (most - least)}%`;
    const words = e.low === null || e.low === undefined ? show(e.mean) : `${show(e.mean)} [${show(e.low)}, ${show(e.high)}]`;
    const band = e.low === null || e.low === undefined ? null : Lab.el("i", { class: "band", style: { left: at(e.low), right: `calc(100% - ${at(e.high)})` } });
    return Lab.el("span", { class: "measure", role: "img", "aria-label": `${label}: ${words}`, title: `${words} · 95 % interval` },
      half ? Lab.el("i", { class: "half", style: { left: at(0.5) } }) : null, band, Lab.el("i", { class: "dot", style: { left: at(e.mean) } }));
  };

  /** What a small reward model says: its accuracy, and the policies in its order, beside the truth and the room. */
  Lab.headCard = (job) => {
    const { el } = Lab;
    const line = (name, estimate, more) => el("tr", {}, el("th", {}, el("b", { text: name })), el("td", { class: "num", text: Lab.percent(estimate.mean) }), el("td", { class: "line" }, Lab.measure(estimate, name, { half: true })), el("td", { class: "small muted", text: more }));
    const rows = [line("right on votes it has not seen", job.accuracy, job.accuracy.mean === null ? "" : `${job.accuracy.n} votes on pairs of prompts it was not fitted to`)];
    if (job.room) rows.push(line("agrees with the room", job.room, job.room.mean === null ? "" : `${job.room.n} pairs that others judged`));
    if (job.ceiling) rows.push(el("tr", {}, el("th", {}, el("b", { text: "the best anybody could do" })), el("td", { class: "num", text: job.ceiling.low.mean === null ? "–" : `${Lab.percent(job.ceiling.low.mean)} – ${Lab.percent(job.ceiling.high.mean)}` }),
      el("td", { class: "line" }, job.ceiling.low.mean === null ? el("span", { class: "small muted", text: job.ceiling.low.why }) : Lab.measure({ mean: (job.ceiling.low.mean + job.ceiling.high.mean) / 2, low: job.ceiling.low.low ?? job.ceiling.low.mean, high: job.ceiling.high.high ?? job.ceiling.high.mean }, "noise ceiling", { half: true })),
      el("td", { class: "small muted", text: `the noise ceiling: labels contradict themselves${job.ceiling.high.mean !== null && job.accuracy.mean > job.ceiling.high.mean ? "; what lies above it is luck with few votes" : ""}` })));
    if (job.own) rows.push(line("your own reward model, on yours", job.own, "on your votes it has not seen"));
    const list = job.policies || [], room = new Map((job.room_policies || []).map((p, i) => [p.name, i + 1]));
    const ends = list.flatMap((p) => [p.reward.low ?? p.reward.mean, p.reward.high ?? p.reward.mean]);
    const least = Math.min(...ends), most = Math.max(...ends), width = most - least || 1;
    const gold = list.some((p) => p.gold && p.gold.mean !== null), best = gold ? list.reduce((x, p) => (p.gold && p.gold.mean > x.gold.mean ? p : x)) : null;
    const lead = job.lead && job.lead.mean !== null ? `, ${Lab.signed(job.lead.mean, 2)} ahead of ${list[1].name}${job.lead.low === null ? "" : ` [${Lab.signed(job.lead.low, 2)}, ${Lab.signed(job.lead.high, 2)}]`}` : "";
    const sure = job.lead && job.lead.low !== null && job.lead.low > 0;
    return [
      el("p", { class: "small muted", text: `From ${job.votes} votes on ${job.pairs} pairs, seen through ${String(job.eyes || "").split(" ").pop() || "the base"}.` }),
      el("div", { class: "scrolls" }, el("table", { class: "shipped" }, el("tbody", {}, rows))),
      ...(list.length ? [
        el("p", { class: "wide" }, "It would ship ", el("b", { text: list[0].name }), `${lead}${list.length > 1 ? (sure ? "." : ": not surely, the interval holds 0.") : "."}`, best && best.name !== list[0].name ? el("span", {}, " The true score says ", el("b", { text: best.name }), ".") : null),
        el("div", { class: "scrolls" }, el("table", { class: "shipped" },
          el("thead", {}, el("tr", {}, el("th", { text: "policy" }), el("th", { text: "its reward, nats" }), el("th", {}), gold ? el("th", { text: "true score" }) : null, room.size ? el("th", { text: "the room's place" }) : null)),
          el("tbody", {}, list.map((p, i) => el("tr", { class: i ? "" : "first" }, el("th", {}, el("b", { text: p.name })), el("td", { class: "num", text: Lab.signed(p.reward.mean, 2) }),
            el("td", { class: "line" }, Lab.measure(p.reward, `reward of ${p.name}`, { least: least - 0.08 * width, most: most + 0.08 * width, show: (x) => Lab.signed(x, 2) })),
            gold ? el("td", { class: "num", text: p.gold && p.gold.mean !== null ? Lab.signed(p.gold.mean, 2) : "–" }) : null, room.size ? el("td", { class: "num", text: room.has(p.name) ? `${room.get(p.name)}.` : "–" }) : null)))))]
        : [el("p", { class: "muted", text: "No run has answered the probe prompts yet, so there is no policy to ship." })]),
    ];
  };

  Lab.button = (text, icon, call, attrs = {}) => Lab.el("button", { type: "button", class: "button", on: { click: call }, ...attrs },
    icon ? Lab.icon(icon) : null, text ? Lab.el("span", { text }) : null);
})();
