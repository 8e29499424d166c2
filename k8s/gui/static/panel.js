// The scheme is the system's unless a person has chosen one; the server draws charts in it, so it must know.
(() => {
  const rendered = document.documentElement.dataset.scheme;
  const cookie = (name) => document.cookie.split("; ").find((c) => c.startsWith(name + "="))?.split("=")[1];
  const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  const wanted = cookie("aios_scheme_chosen") || system;
  const remember = (name, value) => (document.cookie = `${name}=${value}; path=/; max-age=31536000; samesite=lax`);
  if (cookie("aios_scheme") !== wanted) {
    remember("aios_scheme", wanted);
    if (rendered && rendered !== wanted) location.reload();
  }
  window.panelScheme = (value) => {
    remember("aios_scheme_chosen", value);
    remember("aios_scheme", value);
    location.reload();
  };
})();

// navigator.clipboard exists on https and localhost only.
window.panelCopy = async (text) => {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = Object.assign(document.createElement("textarea"), { value: text });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
};

// Send the chosen file as it is; say how far it is.
window.panelUpload = (input, token, status) => new Promise((done) => {
  const file = input.files[0];
  if (!file) return;
  const said = document.getElementById(status);
  const request = new XMLHttpRequest();
  request.upload.onprogress = (e) => { said.textContent = `Uploading: ${Math.round((100 * e.loaded) / e.total)} %`; };
  request.onerror = () => done({ said: "The upload failed: the server did not answer." });
  request.onload = () => {
    if (request.status !== 200) return done({ said: request.responseText || "The upload failed." });
    done({ path: JSON.parse(request.responseText).path, said: `Uploaded ${file.name}` });
  };
  request.open("POST", "/upload");
  request.setRequestHeader("X-CSRF-Token", token);
  request.setRequestHeader("X-File-Name", encodeURIComponent(file.name));
  request.send(file);
});

// A log stays at its end while it grows, unless a person has scrolled up to read.
window.panelFollow = (id) => {
  const log = document.getElementById(id);
  if (log && log.dataset.reading !== "yes") log.scrollTop = log.scrollHeight;
};
document.addEventListener("scroll", (event) => {
  const log = event.target;
  if (!log.classList?.contains("log")) return;
  log.dataset.reading = log.scrollHeight - log.scrollTop - log.clientHeight > 40 ? "yes" : "no";
}, true);
