// What the browser must do itself: files that are dropped go to /upload as they are, and the page hears of it.
(() => {
  const tell = (zone, name, detail) => zone.dispatchEvent(new CustomEvent(name, { detail }));

  async function send(zone, file) {
    if (!file) return;
    tell(zone, "uploading", file.name);
    try {
      const answer = await fetch("/upload?name=" + encodeURIComponent(file.name), { method: "POST", body: file });
      const type = answer.headers.get("content-type") || "";
      tell(zone, "uploaded", type.includes("json") ? await answer.json() : { error: await answer.text() });
    } catch (error) {
      tell(zone, "uploaded", { error: String(error) });
    }
  }

  const zoneOf = (event) => event.target.closest?.("[data-drop]");
  for (const name of ["dragenter", "dragover"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();  // a file that misses the zone opens nothing in place of the page
      zoneOf(event)?.classList.add("over");
    });
  }
  document.addEventListener("dragleave", (event) => zoneOf(event)?.classList.remove("over"));
  document.addEventListener("drop", async (event) => {
    event.preventDefault();
    const zone = zoneOf(event) || document.querySelector("[data-drop]");
    zone?.classList.remove("over");
    if (zone) for (const file of event.dataTransfer.files) await send(zone, file);
  });
  document.addEventListener("change", async (event) => {
    const zone = zoneOf(event);
    if (!zone || event.target.type !== "file") return;
    for (const file of event.target.files) await send(zone, file);
    event.target.value = "";
  });
  document.addEventListener("keydown", (event) => {  // Ctrl or Cmd and Enter make, wherever one is typing
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) document.querySelector("[data-make]")?.click();
  });
})();
