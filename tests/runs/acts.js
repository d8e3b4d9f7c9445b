// What a person does on the page of a run of three epochs, and what the page says then
addEventListener("load", async () => {
  const said = [];
  const later = () => new Promise(resolve => setTimeout(resolve, 30));
  const values = () => [...document.querySelectorAll(".legend b")].map(each => each.textContent);
  const say = () => said.push(`${at("shown").textContent}; ${values()}`);
  const press = key => document.dispatchEvent(new KeyboardEvent("keydown", { key }));
  const chart = document.querySelector(".chart svg");
  const point = (kind, pointerType) => {
    const clientX = chart.getBoundingClientRect().left + 42;  // the first epoch
    chart.dispatchEvent(new PointerEvent(kind, { clientX, pointerType }));
  };

  say();
  press("ArrowLeft");
  say();
  point("pointermove", "mouse");
  say();
  point("pointerleave", "mouse");
  say();
  point("pointermove", "touch");
  point("pointerleave", "touch");
  say();
  press("ArrowRight");
  at("faces").children[10].click();
  while (!at("who").textContent) await later();
  const pixel = at("large").getContext("2d").getImageData(9, 9, 1, 1).data;
  said.push([at("who").textContent, at("strip").children.length, location.hash]);
  said.push([...pixel].slice(0, 3));
  press("Escape");
  said.push(at("one").hidden);
  for (const again of [1, 2]) {
    at("play").click();
    say();
    do await later(); while (!at("shown").textContent.startsWith("epoch 3"));
    say();
  }
  document.body.append(make("pre", { id: "said" }, JSON.stringify(said)));
});
