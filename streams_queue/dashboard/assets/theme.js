// Before the first paint: the theme that was chosen last time. "system" follows the machine.
"use strict";
{
  const chosen = localStorage.getItem("streams-queue-theme");
  if (chosen === "light" || chosen === "dark") {
    document.documentElement.dataset.theme = chosen;
  }
}
