// Before the first paint: the theme that this browser chose, if it chose one.
"use strict";
const chosen = localStorage.getItem("theme");
if (chosen === "dark" || chosen === "light") {
  document.documentElement.dataset.theme = chosen;
}
