// Before anything is painted: that there is a script, and which colors were chosen the last time.
document.documentElement.classList.add("scripted");
try {
  const chosen = localStorage.getItem("modtrace-theme");
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
} catch (error) {
  // A page of a file or in a frame may have no storage: the system's colors it is.
}
