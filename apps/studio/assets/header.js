/* The strip at the top: the name, what the engine does, and the switch between light and dark. */
(() => {
  const Lab = (window.Lab = window.Lab || {});
  Lab.header = ({ element, server }) => {
    const root = element.querySelector("[data-panel]");
    const { el } = Lab;
    const pill = el("span", { class: "pill", role: "status" }, el("i", { class: "dot" }), el("span", { text: "…" }));
    const flip = () => Lab.link({ __theme: document.body.classList.toggle("dark") ? "dark" : "light" });
    root.classList.add("head");
    root.append(
      el("div", { class: "brand grow" }, "rlhf-lab ", el("span", { text: "Studio" })), pill,
      Lab.button("", "theme", flip, { class: "button icon", "aria-label": "Light or dark", title: "Light or dark" }));
    Lab.loop(root, async () => {
      let s;
      try { s = await server.engine({}); } catch { s = { dot: "lost", text: "Studio does not answer" }; }
      pill.firstChild.className = `dot ${s.dot || ""}`;
      pill.lastChild.textContent = s.text || s.error;
      pill.title = s.more || "";
    }, () => 3000);
  };
})();
