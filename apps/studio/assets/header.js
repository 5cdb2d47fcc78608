/* The strip at the top: the name, what the engine does, who is here, the size of the text, the keys, light and dark. */
(() => {
  const Lab = (window.Lab = window.Lab || {});
  const SIZES = [100, 115, 130, 150], SIZE = "lab-size";
  Lab.header = ({ element, server }) => {
    const root = element.querySelector("[data-panel]");
    const { el } = Lab;
    const pill = el("span", { class: "pill", role: "status" }, el("i", { class: "dot" }), el("span", { text: "…" }));
    const who = el("span", { class: "who", hidden: true });
    const flip = () => Lab.link({ __theme: document.body.classList.toggle("dark") ? "dark" : "light" });
    const size = (percent) => { document.documentElement.style.fontSize = percent === 100 ? "" : `${percent}%`; Lab.keep(SIZE, percent === 100 ? null : String(percent)); };
    const larger = () => { const at = SIZES.indexOf(Number(Lab.kept(SIZE)) || 100); size(SIZES[(at + 1) % SIZES.length]); };
    if (SIZES.includes(Number(Lab.kept(SIZE)))) size(Number(Lab.kept(SIZE)));
    const icon = (text, name, call) => el("button", { type: "button", class: "button icon", "data-desk": "", "aria-label": name, title: name, on: { click: call } }, el("b", { text, "aria-hidden": "true" }));
    root.classList.add("head");
    root.append(
      el("div", { class: "brand grow" }, "rlhf-lab ", el("span", { text: "Studio" })), who, pill,
      icon("A", "Larger text", larger), icon("?", "Keys", () => Lab.showKeys()),
      Lab.button("", "theme", flip, { class: "button icon", "aria-label": "Light or dark", title: "Light or dark" }));

    async function leave() {
      try { await fetch("logout", { method: "POST", headers: { "Content-Type": "application/json" }, body: "{}", credentials: "same-origin" }); } catch { /* it is gone anyway */ }
      location.reload();
    }
    (async () => {
      let me;
      try { me = await server.me({}); } catch { return; }
      if (me.error || me.alone) return;
      who.hidden = false;
      who.replaceChildren(el("b", { class: "wide", text: me.name }), ...(me.host ? [el("span", { text: "host" })] : []),
        el("button", { type: "button", class: "link quiet", text: "log out", on: { click: leave } }));
    })();
    Lab.loop(root, async () => {
      let s;
      try { s = await server.engine({}); } catch { s = { dot: "lost", text: "Studio does not answer" }; }
      pill.firstChild.className = `dot ${s.dot || ""}`;
      pill.lastChild.textContent = s.text || s.error;
      pill.title = s.more || "";
    }, () => 3000);
  };
})();
