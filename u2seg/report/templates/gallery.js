/* Views, names, the enlarged photo and keys. A classic script: pages opened from disk may not load modules or fetch. */
(function () {
  "use strict";
  var data = window.GALLERY || {};
  var body = document.body;

  function all(selector, root) { return Array.prototype.slice.call((root || document).querySelectorAll(selector)); }
  function make(tag, attributes, text) {
    var element = document.createElement(tag);
    Object.keys(attributes || {}).forEach(function (key) { element.setAttribute(key, attributes[key]); });
    if (text !== undefined) element.textContent = text;
    return element;
  }
  function remember(key, value) { try { localStorage.setItem("u2seg-" + key, value); } catch (error) { /* private */ } }
  function recall(key) { try { return localStorage.getItem("u2seg-" + key); } catch (error) { return null; } }
  function percent(share) { return share >= 0.1 ? Math.round(share * 100) + "%" : (share * 100).toFixed(share < 0.01 ? 2 : 1) + "%"; }

  /* Paging by arrow keys, on every kind of page. */
  function turn(rel) {
    var link = document.querySelector('.pager a[rel="' + rel + '"]');
    if (link) location.href = link.href;
  }
  document.addEventListener("keydown", function (event) {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    var viewer = document.getElementById("viewer");
    if (viewer && viewer.open) return;
    if (event.key === "ArrowLeft") turn("prev");
    if (event.key === "ArrowRight") turn("next");
    var digit = Number(event.key);
    var buttons = all(".bar .views button");
    if (digit >= 1 && digit <= buttons.length) buttons[digit - 1].click();
  });

  all("th button").forEach(function (button) { button.addEventListener("click", function () { sortBy(button.parentNode); }); });
  function sortBy(head) {
    var table = head.closest("table"), column = head.cellIndex;
    var order = head.getAttribute("aria-sort") === "descending" ? 1 : -1;
    all("th", table).forEach(function (other) { other.removeAttribute("aria-sort"); });
    head.setAttribute("aria-sort", order > 0 ? "ascending" : "descending");
    var rows = all("tbody tr", table);
    function value(row) { return Number(row.cells[column].getAttribute("data-value")); }
    rows.sort(function (a, b) { return order * (value(a) - value(b)); });
    rows.forEach(function (row) { table.tBodies[0].appendChild(row); });
  }

  if (!data.photos) return;

  function classOf(view, id) { return (view === "predicted" ? data.predicted : data.classes)[id]; }
  function addMarks(stage, photo, view, linked) {
    (photo.views[view] || []).forEach(function (mark) {
      var known = classOf(view, mark[0]);
      var element = make(linked && known[2] ? "a" : "span", { "class": "mark" + (mark[5] ? " crowded" : "") }, known[0]);
      if (element.tagName === "A") element.href = known[2];
      element.style.left = mark[1] * 100 + "%";
      element.style.top = mark[2] * 100 + "%";
      element.style.setProperty("--c", known[1]);
      stage.appendChild(element);
    });
  }
  all(".card").forEach(function (card) {
    var photo = data.photos[card.dataset.index];
    all("figure", card).forEach(function (figure) {
      addMarks(figure.querySelector(".stage"), photo, figure.dataset.view, false);
    });
  });

  function setView(view) {
    var known = all(".bar .views button").some(function (button) { return button.dataset.view === view; });
    view = known ? view : "all";
    body.dataset.view = view;
    all(".bar .views button").forEach(function (button) { button.setAttribute("aria-pressed", String(button.dataset.view === view)); });
    remember("view", view);
  }
  all(".bar .views button").forEach(function (button) {
    button.addEventListener("click", function () { setView(button.dataset.view); });
  });
  setView(recall("view") || "all");

  var names = document.getElementById("names");
  names.checked = recall("names") !== "no";
  function setNames() { body.classList.toggle("nameless", !names.checked); remember("names", names.checked ? "yes" : "no"); }
  names.addEventListener("change", setNames);
  setNames();

  var opacity = document.getElementById("opacity");
  opacity.addEventListener("input", function () { body.style.setProperty("--overlay", opacity.value / 100); });
  opacity.value = 100;

  /* The enlarged photo. */
  var viewer = document.getElementById("viewer");
  var shown = 0, shownView = "panoptic";
  function hasView(photo, view) { return view === "photo" || Boolean(photo.views[view]); }
  function show(index, view) {
    shown = (index + data.photos.length) % data.photos.length;
    shownView = view || shownView;
    var photo = data.photos[shown], stage = viewer.querySelector(".stage");
    viewer.querySelector("h2").textContent = photo.name;
    viewer.querySelector("h2").title = photo.name;
    stage.textContent = "";
    viewer.querySelector(".viewer-frame").style.setProperty("--r", photo.ratio);
    if (photo.readable) stage.appendChild(make("img", { src: photo.stem + "_large.jpg", alt: "Photo " + photo.name }));
    else stage.appendChild(make("span", { "class": "missing" }, photo.note));
    if (shownView !== "photo" && hasView(photo, shownView)) {
      stage.appendChild(make("img", { "class": "over", src: photo.stem + "_" + shownView + ".png", alt: shownView + " labels" }));
    }
    addMarks(stage, photo, shownView, true);
    listSegments(photo, stage);
    all(".views button", viewer).forEach(function (button) {
      button.setAttribute("aria-pressed", String(button.dataset.view === shownView));
    });
    if (!viewer.open) viewer.showModal();
  }
  function listSegments(photo, stage) {
    var aside = viewer.querySelector("aside"), list = make("ol"), marks = all(".mark", stage);
    (photo.views[shownView] || []).forEach(function (mark, place) {
      var known = classOf(shownView, mark[0]), row = make("li"), swatch = make("i", { "class": "swatch" });
      swatch.style.background = known[1];
      row.appendChild(swatch);
      row.appendChild(known[2] ? make("a", { href: known[2] }, known[0]) : make("span", {}, known[0]));
      row.appendChild(make("small", {}, percent(mark[3]) + (mark[4] < 1 ? " \u00b7 score " + mark[4].toFixed(2) : "")));
      row.addEventListener("mouseenter", function () { marks[place].classList.add("lit"); });
      row.addEventListener("mouseleave", function () { marks[place].classList.remove("lit"); });
      list.appendChild(row);
    });
    aside.textContent = "";
    aside.appendChild(list);
  }
  all(".card .open").forEach(function (button) {
    button.addEventListener("click", function () {
      show(Number(button.closest(".card").dataset.index), button.closest("figure").dataset.view);
    });
  });
  all(".views button", viewer).forEach(function (button) {
    button.addEventListener("click", function () { show(shown, button.dataset.view); });
  });
  all("[data-step]", viewer).forEach(function (button) {
    button.addEventListener("click", function () { show(shown + Number(button.dataset.step)); });
  });
  viewer.querySelector("[data-close]").addEventListener("click", function () { viewer.close(); });
  viewer.addEventListener("close", function () {
    var card = document.querySelector('.card[data-index="' + shown + '"]');
    if (card) card.scrollIntoView({ block: "nearest" });
  });
  viewer.addEventListener("keydown", function (event) {
    if (event.key === "ArrowLeft") show(shown - 1);
    if (event.key === "ArrowRight") show(shown + 1);
    var button = all(".views button", viewer)[Number(event.key) - 1];
    if (button) button.click();
  });

  function openFromAddress() {
    var asked = /^#p(\d+)(?:-(\w+))?$/.exec(location.hash);
    if (!asked) return;
    data.photos.forEach(function (photo, index) { if (photo.number === Number(asked[1])) show(index, asked[2]); });
  }
  window.addEventListener("hashchange", openFromAddress);
  openFromAddress();
})();
