// Chooses which mode and which call of a sample episode is shown. Without it, the first mode and its last call stay visible.
document.documentElement.classList.add("js");
for (const sample of document.querySelectorAll(".sample")) {
  const tabs = [...sample.querySelectorAll(".tabs button")];
  const modes = [...sample.querySelectorAll(".mode")];
  tabs.forEach((tab, chosen) => tab.addEventListener("click", () => {
    tabs.forEach((other, i) => other.setAttribute("aria-pressed", String(i === chosen)));
    modes.forEach((mode, i) => { mode.hidden = i !== chosen; });
  }));
  for (const mode of modes) {
    const select = mode.querySelector("select");
    if (!select) continue;
    const calls = [...mode.querySelectorAll(".call")];
    const [back, next] = mode.querySelectorAll(".walk button");
    const show = (chosen) => {
      select.selectedIndex = chosen;
      calls.forEach((call, i) => { call.hidden = i !== chosen; });
      back.disabled = chosen === 0;
      next.disabled = chosen === calls.length - 1;
    };
    select.addEventListener("change", () => show(select.selectedIndex));
    back.addEventListener("click", () => show(select.selectedIndex - 1));
    next.addEventListener("click", () => show(select.selectedIndex + 1));
    show(calls.length - 1);
  }
}
