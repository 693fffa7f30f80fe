"use strict";
const bars = [...document.querySelectorAll(".bar")];
const shown = document.getElementById("shown");
const player = document.getElementById("player");
const whole = shown.textContent;

function draw(heights, label) {
  bars.forEach((bar, number) => {
    bar.setAttribute("y", 98 - 96 * heights[number]);
    bar.setAttribute("height", 96 * heights[number] + 2);
  });
  shown.textContent = label;
}

function seek(time) {
  if (player) player.currentTime = Number(time);
}

const all = bars.map((bar) => Number(bar.dataset.height));
for (const word of document.querySelectorAll(".word")) {
  const heights = [...word.dataset.scores].map((digit) => parseInt(digit, 36) / 35);
  const enter = () => draw(heights, "“" + word.textContent + "”");
  const leave = () => draw(all, whole);
  word.addEventListener("mouseenter", enter);
  word.addEventListener("focus", enter);
  word.addEventListener("mouseleave", leave);
  word.addEventListener("blur", leave);
}
for (const bar of bars) {
  bar.addEventListener("click", () => {
    seek(bar.dataset.time);
    const figure = document.getElementById("frame-" + bar.dataset.frame);
    if (figure) figure.scrollIntoView({ behavior: "smooth", block: "center" });
  });
}
for (const link of document.querySelectorAll("a[data-time]")) {
  link.addEventListener("click", () => seek(link.dataset.time));
}
document.getElementById("heat").addEventListener("change", (event) => {
  document.body.classList.toggle("plain", !event.target.checked);
});
if (player) player.addEventListener("error", () => player.remove());
