// Keys, the theme, logging in by a link's fragment, and saying when nothing answers.
"use strict";

const root = document.documentElement;

function isTyping(event) {
  return event.target.closest("input:not([type=checkbox]), select, textarea") !== null;
}

function step(by) {
  const lines = [...document.querySelectorAll("[data-open]")];
  if (lines.length === 0) return;
  const here = lines.indexOf(document.activeElement);
  const next = here < 0 ? (by > 0 ? 0 : lines.length - 1) : here + by;
  const line = lines[Math.max(0, Math.min(lines.length - 1, next))];
  line.focus();
  line.scrollIntoView({ block: "nearest" });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (isTyping(event) && event.key !== "Escape") return;
  if (event.key === "j" || event.key === "k") {
    step(event.key === "j" ? 1 : -1);
  } else {
    if (event.key === "Escape" && document.querySelector(":popover-open")) return;
    const target = document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
    if (target === null) return;
    if (target.matches("input")) target.focus();
    else target.click();
  }
  event.preventDefault();
});

document.getElementById("theme")?.addEventListener("click", () => {
  const isDark = root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
  localStorage.setItem("theme", root.dataset.theme);
});

// A login link carries its code behind the #, which browsers send nowhere.
function logIn() {
  const login = document.getElementById("login");
  if (login === null || location.hash.length < 2) return;
  login.elements.code.value = location.hash.slice(1);
  history.replaceState(null, "", location.pathname);
  login.submit();
}
logIn();
window.addEventListener("hashchange", logIn);

// Parts that look for themselves rest while nobody sees them, while text is selected, and when the
// page is being left: an answer that comes then must not take the way of the person's own step.
let isLeaving = false;
window.addEventListener("beforeunload", () => { isLeaving = true; });
window.addEventListener("pageshow", () => { isLeaving = false; });
document.addEventListener("htmx:beforeRequest", (event) => {
  const isPart = event.target.id.startsWith("live-");
  const rests = document.hidden || isLeaving || !getSelection().isCollapsed;
  if (isPart && rests) event.preventDefault();
});
document.addEventListener("htmx:beforeOnLoad", (event) => {
  if (isLeaving) event.preventDefault();
});
for (const name of ["htmx:sendError", "htmx:responseError", "htmx:timeout"]) {
  document.addEventListener(name, () => {
    if (!isLeaving) root.classList.add("is-offline");
  });
}
document.addEventListener("htmx:afterOnLoad", () => root.classList.remove("is-offline"));
