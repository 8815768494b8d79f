"use strict";

const form = document.getElementById("login");
const problem = document.getElementById("problem");

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  problem.textContent = "";
  try {
    const answer = await fetch("login", {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Streams-Queue": "dashboard" },
      body: JSON.stringify({ token: form.elements.token.value.trim() }),
    });
    if (answer.ok) {
      location.assign("./");
      return;
    }
    problem.textContent = (await answer.json()).error;
  } catch {
    problem.textContent = "The dashboard does not answer";
  }
  form.elements.token.select();
});
