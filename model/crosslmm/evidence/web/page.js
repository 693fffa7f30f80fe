"use strict";
const bars = [...document.querySelectorAll(".bar")];
const labels = [...document.querySelectorAll(".shown")];
const whole = labels[0].textContent;

function draw(heights, label) {
  bars.forEach((bar, number) => {
    bar.setAttribute("y", 98 - 96 * heights[number]);
    bar.setAttribute("height", 96 * heights[number] + 2);
  });
  for (const shown of labels) shown.textContent = label;
}

function seek(place) {
  const player = document.getElementById("player-" + place.video);
  if (player) player.currentTime = Number(place.time);
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
    seek(bar.dataset);
    const figure = document.getElementById("frame-" + bar.dataset.frame);
    if (figure) figure.scrollIntoView({ behavior: "smooth", block: "center" });
  });
}
for (const link of document.querySelectorAll("a[data-time]")) {
  link.addEventListener("click", () => seek(link.dataset));
}
document.getElementById("heat").addEventListener("change", (event) => {
  document.body.classList.toggle("plain", !event.target.checked);
});
for (const player of document.querySelectorAll("video")) {
  player.addEventListener("error", () => player.remove());
}
