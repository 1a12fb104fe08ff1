/* Views, names, the enlarged photo and keys. A classic script: pages opened from disk may not load modules or fetch. */
(() => {
  "use strict";
  const data = window.GALLERY;
  const body = document.body;
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const viewer = document.getElementById("viewer");

  function make(tag, attributes = {}, text = "") {
    const element = document.createElement(tag);
    Object.entries(attributes).forEach(([key, value]) => element.setAttribute(key, value));
    element.textContent = text;
    return element;
  }
  function remember(key, value) { try { localStorage.setItem("u2seg-" + key, value); } catch { /* private window */ } }
  function recall(key) { try { return localStorage.getItem("u2seg-" + key); } catch { return null; } }
  function percent(share) { return (share * 100).toFixed(share >= 0.1 ? 0 : share < 0.01 ? 2 : 1) + "%"; }
  function press(buttons, view) {
    buttons.forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.view === view)));
  }

  /* Keys: arrows turn pages, or photos where one is enlarged; digits choose the view. */
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input")) return;
    const enlarged = viewer && viewer.open;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step && enlarged) show(shown + step);
    else if (step) document.querySelector(`.pager a[rel=${step < 0 ? "prev" : "next"}]`)?.click();
    all(enlarged ? "#viewer .views button" : ".bar .views button")[Number(event.key) - 1]?.click();
  });

  /* The table of classes is sorted by a click on its heads. */
  all("th button").forEach((button) => button.addEventListener("click", () => {
    const head = button.parentNode, table = head.closest("table");
    const order = head.getAttribute("aria-sort") === "descending" ? 1 : -1;
    all("th", table).forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order > 0 ? "ascending" : "descending");
    const value = (row) => Number(row.cells[head.cellIndex].dataset.value);
    table.tBodies[0].append(...all("tbody tr", table).sort((a, b) => order * (value(a) - value(b))));
  }));

  if (!data.photos) return;

  const classOf = (view, id) => (view === "predicted" ? data.predicted : data.classes)[id];
  function addMarks(stage, photo, view, linked) {
    (photo.views[view] || []).forEach(([id, x, y, , , crowded]) => {
      const [name, color, href] = classOf(view, id);
      const element = make(linked && href ? "a" : "span", { "class": crowded ? "mark crowded" : "mark" }, name);
      if (element.tagName === "A") element.href = href;
      element.style.cssText = `left: ${x * 100}%; top: ${y * 100}%; --c: ${color}`;
      stage.append(element);
    });
  }
  all(".card figure").forEach((figure) => {
    const photo = data.photos[figure.closest(".card").dataset.index];
    addMarks(figure.querySelector(".stage"), photo, figure.dataset.view, false);
  });

  const viewButtons = all(".bar .views button");
  function setView(view) {
    body.dataset.view = viewButtons.some((button) => button.dataset.view === view) ? view : "all";
    press(viewButtons, body.dataset.view);
    remember("view", body.dataset.view);
  }
  viewButtons.forEach((button) => button.addEventListener("click", () => setView(button.dataset.view)));
  setView(recall("view"));

  const names = document.getElementById("names");
  function setNames() { body.classList.toggle("nameless", !names.checked); remember("names", names.checked ? "yes" : "no"); }
  names.checked = recall("names") !== "no";
  names.addEventListener("change", setNames);
  setNames();

  const opacity = document.getElementById("opacity");
  opacity.addEventListener("input", () => body.style.setProperty("--overlay", opacity.value / 100));
  opacity.value = 100;

  /* The enlarged photo. */
  let shown = 0, shownView = "panoptic";
  function show(index, view = shownView) {
    shown = (index + data.photos.length) % data.photos.length;
    shownView = view;
    const photo = data.photos[shown], stage = viewer.querySelector(".stage"), heading = viewer.querySelector("h2");
    heading.textContent = heading.title = photo.name;
    viewer.querySelector(".viewer-frame").style.setProperty("--r", photo.ratio);
    stage.replaceChildren(photo.readable
      ? make("img", { src: photo.stem + "_large.jpg", alt: "Photo " + photo.name })
      : make("span", { "class": "missing" }, photo.note));
    if (photo.views[view]) {
      stage.append(make("img", { "class": "over", src: `${photo.stem}_${view}.png`, alt: view + " labels" }));
    }
    addMarks(stage, photo, view, true);
    listSegments(photo, all(".mark", stage));
    press(all(".views button", viewer), view);
    if (!viewer.open) viewer.showModal();
  }
  function listSegments(photo, marks) {
    const rows = (photo.views[shownView] || []).map(([id, , , area, score], place) => {
      const [name, color, href] = classOf(shownView, id);
      const row = make("li"), swatch = make("i", { "class": "swatch" });
      swatch.style.background = color;
      row.append(swatch, href ? make("a", { href }, name) : make("span", {}, name));
      row.append(make("small", {}, percent(area) + (score < 1 ? " \u00b7 score " + score.toFixed(2) : "")));
      row.addEventListener("mouseenter", () => marks[place].classList.add("lit"));
      row.addEventListener("mouseleave", () => marks[place].classList.remove("lit"));
      return row;
    });
    viewer.querySelector("ol").replaceChildren(...rows);
  }
  all(".card .open").forEach((button) => button.addEventListener("click", () => {
    show(Number(button.closest(".card").dataset.index), button.closest("figure").dataset.view);
  }));
  all(".views button", viewer).forEach((button) => button.addEventListener("click", () => show(shown, button.dataset.view)));
  all("[data-step]", viewer).forEach((button) => {
    button.addEventListener("click", () => show(shown + Number(button.dataset.step)));
  });
  viewer.querySelector("[data-close]").addEventListener("click", () => viewer.close());
  viewer.addEventListener("close", () => all(".card")[shown]?.scrollIntoView({ block: "nearest" }));

  function openFromAddress() {
    const [, number, view] = /^#p(\d+)(?:-(\w+))?$/.exec(location.hash) || [];
    const index = data.photos.findIndex((photo) => photo.number === Number(number));
    if (index >= 0) show(index, view);
  }
  window.addEventListener("hashchange", openFromAddress);
  openFromAddress();
})();
