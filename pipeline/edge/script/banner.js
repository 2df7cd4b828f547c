// The consent banner: loaded only when it is needed. A shadow root with an adopted style sheet and text nodes, so that a strict
// CSP allows it and the page's styles leave it alone.

const TEXTS = {
  en: {
    title: "Cookies on this site",
    text: "We would like to recognise your visits. You decide.",
    notice: "This site recognises your visits.",
    accept: "Accept",
    decline: "Decline",
    save: "Save my choice",
    ok: "OK",
    analytics: "Analytics",
    advertisement: "Advertisement",
    functionality: "Functionality",
  },
  de: {
    title: "Cookies auf dieser Seite",
    text: "Wir möchten Ihre Besuche wiedererkennen. Sie entscheiden.",
    notice: "Diese Seite erkennt Ihre Besuche wieder.",
    accept: "Annehmen",
    decline: "Ablehnen",
    save: "Auswahl speichern",
    ok: "OK",
    analytics: "Statistik",
    advertisement: "Werbung",
    functionality: "Funktionen",
  },
};

const STYLE = `
  section { position: fixed; z-index: 2147483647; inset: auto 1rem 1rem 1rem; max-width: 40rem; margin: auto; padding: 1rem 1.25rem;
    font: 1rem/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; border: 1px solid #6b6b6b; border-radius: .5rem;
    box-shadow: 0 .25rem 1.5rem rgb(0 0 0 / .25); }
  h2 { font-size: 1.1rem; margin: 0 0 .5rem; } p { margin: 0 0 .75rem; } label { display: block; margin: .25rem 0; }
  button { font: inherit; margin: .25rem .5rem .25rem 0; padding: .5rem 1rem; color: #fff; background: #1f3a5f;
    border: 2px solid #1f3a5f; border-radius: .375rem; cursor: pointer; }
  button:focus-visible, input:focus-visible { outline: 3px solid #b35c00; outline-offset: 2px; }
`;

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text) made.appendChild(document.createTextNode(text));
  Object.keys(attributes).forEach((key) => made.setAttribute(key, attributes[key]));
  return made;
}

function texts(config) {
  const wanted = [document.documentElement.lang, ...(navigator.languages || [])].map((tag) => (tag || "").slice(0, 2).toLowerCase());
  const language = wanted.find((tag) => config.texts[tag] || TEXTS[tag]) || "en";
  return { language, ...TEXTS.en, ...TEXTS[language], ...config.texts[language] };
}

function dress(root) {
  try {
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(STYLE);
    root.adoptedStyleSheets = [sheet];
  } catch (error) {
    // an old browser: the question is asked plainly, at the end of the page
  }
}

function show(config, answer) {
  if (document.getElementById("__hsbanner")) return;
  const say = texts(config);
  const host = element("div", "", { id: "__hsbanner" });
  const root = host.attachShadow({ mode: "open" });
  dress(root);
  const before = document.activeElement;
  const close = (given) => {
    host.remove();
    if (before && before.focus) before.focus();
    if (given !== undefined) answer(given);
  };
  const section = element("section", "", { role: "dialog", "aria-labelledby": "t", "aria-describedby": "d", lang: say.language, tabindex: "-1" });
  const isNotice = config.mode === "notify";
  section.append(element("h2", say.title, { id: "t" }), element("p", isNotice ? say.notice : say.text, { id: "d" }));
  const boxes = {};
  if (config.mode === "opt_in_categories") {
    ["analytics", "advertisement", "functionality"].forEach((name) => {
      const label = element("label");
      boxes[name] = element("input", "", { type: "checkbox", id: name });
      label.append(boxes[name], document.createTextNode(" " + say[name]));
      section.append(label);
    });
  }
  const button = (text, given) => {
    const made = element("button", text, { type: "button" });
    made.addEventListener("click", () => close(given()));
    section.append(made);
  };
  button(isNotice ? say.ok : say.accept, () => true);
  if (!isNotice) button(say.decline, () => false);
  if (config.mode === "opt_in_categories") {
    button(say.save, () => Object.fromEntries(Object.entries(boxes).map(([name, box]) => [name, box.checked])));
  }
  section.addEventListener("keydown", (event) => event.key === "Escape" && close());
  root.append(section);
  document.body.append(host);
  section.focus({ preventScroll: true });
}

window.__hsBanner = (config, answer) => {
  if (document.body) show(config, answer);
  else document.addEventListener("DOMContentLoaded", () => show(config, answer));
};
