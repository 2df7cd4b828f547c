// The tracking script (docs/spec/edge.md). It never throws into the page, and decides nothing that `decide.js` can decide.
// The collector puts the portal's configuration in place of __CONFIG__ and serves the built file, tracking.min.js.
import { cleaned, consent, cookieDomain, domainHash, isSecret, visit } from "./decide.js";

const config = __CONFIG__;
const win = window;
const doc = document;
const HALF_YEAR = 180 * 86400;
const DAY_MS = 86400000;
const MOST_QUEUED = 200;
const MOST_BYTES = 60000;
const RETRY_MS = 10000;
const ANALYTICS = ["__hstc", "hubspotutk", "__hssc", "__hssrc", "messagesUtk"];
const STORE = "__hsqueue" + config.portal;

const domain = cookieDomain(location.hostname, config.domains);
const hash = domainHash("." + (domain || location.hostname));
const own = doc.currentScript && doc.currentScript.src;
const hosts = config.hosts.length ? config.hosts : own ? [new URL(own).origin] : [];

let queue = [];
const gone = new Set(); // ids of hits that this page has sent
let flying = false;
let visitor = null; // cookies' values while analytics are allowed
let identity = null; // an identify call that waits for the next hit
let path = null; // setPath
let referrer = doc.referrer;
let click = null; // a sealed click that waits for consent, sight and touch
let touched = false;
let carried = null; // a sealed visitor of another domain of the portal
let carrying = null; // the link that is about to be followed, and the promise of its token
const privacyListeners = [];
const identityListeners = [];

const safely = (work) => (...given) => {
  try {
    return work(...given);
  } catch (error) {
    return undefined;
  }
};

// Cookies

function readCookies() {
  const found = {};
  doc.cookie.split("; ").forEach((pair) => {
    const at = pair.indexOf("=");
    const name = pair.slice(0, at);
    if (!(name in found)) found[name] = pair.slice(at + 1);
  });
  return found;
}

function writeCookie(name, value, seconds, at = domain) {
  const life = seconds === null ? "" : "; max-age=" + seconds;
  const place = at ? "; domain=" + at : "";
  const secure = location.protocol === "https:" ? "; secure" : "";
  doc.cookie = name + "=" + value + life + place + "; path=/; samesite=lax" + secure;
}

function deleteCookies(names) {
  names.forEach((name) => [domain, null].forEach((at) => writeCookie(name, "", 0, at)));
}

function hex(bytes) {
  return Array.from(crypto.getRandomValues(new Uint8Array(bytes)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function uuid() {
  const digits = hex(16);
  const parts = [digits.slice(0, 8), digits.slice(8, 12), "4" + digits.slice(13, 16), "8" + digits.slice(17, 20), digits.slice(20)];
  return parts.join("-");
}

// Consent

// Others can write our cookies, too; what is no text says nothing.
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch (error) {
    return "";
  }
}

function answered() {
  const cookies = readCookies();
  if (cookies.__hs_opt_out !== "yes" && cookies.__hs_opt_out !== "no") return null;
  const chosen = {};
  decoded(cookies.__hs_cookie_cat_pref || "").split(/[_,]/).forEach((pair) => {
    const [number, value] = pair.split(":");
    chosen[number] = value === "true";
  });
  const yes = cookies.__hs_opt_out === "no";
  const of = (number) => yes && (number in chosen ? chosen[number] : true);
  return { analytics: of(1), advertisement: of(2), functionality: of(3) };
}

function objects() {
  return (config.gpc && navigator.globalPrivacyControl === true) || (config.dnt && navigator.doNotTrack === "1");
}

const allowed = () => consent(config.mode, answered(), objects());
const isSilent = () => readCookies().__hs_do_not_track === "yes";

function setConsent(given) {
  const all = typeof given === "boolean" ? given : null;
  const asked = given && given.categories ? given.categories : given || {};
  const of = (name) => (all === null ? asked[name] === true : all);
  const analytics = of("analytics");
  const chosen = [analytics, of("advertisement"), of("functionality")];
  const any = chosen.includes(true);
  writeCookie("__hs_opt_out", any ? "no" : "yes", HALF_YEAR);
  writeCookie("__hs_cookie_cat_pref", chosen.map((value, at) => at + 1 + ":" + value).join("_"), HALF_YEAR);
  if (config.mode.startsWith("opt_in")) writeCookie("__hs_initial_opt_in", any ? "yes" : "no", 7 * 86400);
  if (!analytics) forget();
  if (!isSilent()) {
    adopt(() => {
      if (analytics) enter();
      send({ type: "custom_event", name: "consent" });
      returnClick();
    });
  }
  tellPrivacy();
  release();
}

// The answer to what was on its way when its sender withdrew may have brought the cookie back; `sender` is that utk.
function keepForgotten(sender) {
  if (!sender || (visitor && visitor.utk === sender) || readCookies().hubspotutk !== sender) return;
  if (visitor) writeCookie("hubspotutk", visitor.utk, HALF_YEAR);
  else deleteCookies(ANALYTICS);
}

function forget() {
  deleteCookies(ANALYTICS);
  visitor = null;
  identity = null;
  queue = [];
  try {
    localStorage.removeItem(STORE);
  } catch (error) {
    // no storage, nothing to forget
  }
}

function revoke() {
  forget();
  deleteCookies(["__hs_opt_out", "__hs_initial_opt_in", "__hs_cookie_cat_pref"]);
  tellPrivacy();
  ask(true);
}

function tellPrivacy(listeners = privacyListeners) {
  const categories = allowed();
  listeners.forEach((listener) => safely(listener)({ allowed: categories.analytics, categories }));
}

// Scripts of others that wait for consent.
function release() {
  const state = allowed();
  doc.querySelectorAll('script[type="text/plain"][data-consent]').forEach((waiting) => {
    if (!state[waiting.dataset.consent]) return;
    const script = doc.createElement("script");
    Array.from(waiting.attributes).forEach((given) => given.name !== "type" && script.setAttribute(given.name, given.value));
    if (waiting.nonce) script.nonce = waiting.nonce;
    script.removeAttribute("data-consent");
    script.text = waiting.text;
    waiting.replaceWith(script);
  });
}

function ask(again) {
  const cookies = readCookies();
  if (config.mode === "off" || !config.banner || (!again && (answered() || cookies.__hs_initial_opt_in))) return;
  if (win.__hsBanner) {
    win.__hsBanner(config, setConsent);
    return;
  }
  win.__hsBannerWaits = [config, setConsent];
  const script = doc.createElement("script");
  script.src = hosts[0] + "/t/" + config.portal + "/banner.js";
  script.async = true;
  doc.head.appendChild(script);
}

// Visitors and hits

function enter() {
  const before = readCookies();
  const fresh = hex(16);
  const cookies = visit(before, Date.now(), fresh, hash);
  writeCookie("__hstc", cookies.hstc, HALF_YEAR);
  writeCookie("hubspotutk", cookies.utk, HALF_YEAR);
  writeCookie("__hssc", cookies.hssc, 1800);
  writeCookie("__hssrc", "1", null);
  visitor = { ...cookies, new_browser_session: cookies.utk !== fresh && before.__hssrc !== "1" };
  identityListeners.forEach((listener) => safely(listener)(visitor.utk));
}

function send(hit) {
  if (isSilent()) return;
  const hits = identity ? [{ type: "identify", ...identity }, hit] : [hit];
  if (visitor) identity = null;
  hits.forEach((each) => {
    const about = { event_id: uuid(), occurred_at: Date.now(), consent: answered() };
    if (visitor) about.utk = visitor.utk;
    if (each.type !== "identify" || visitor) queue.push({ ...about, ...each });
  });
  queue = queue.slice(-MOST_QUEUED);
  store();
  flush(0);
}

function here() {
  return cleaned(path === null ? location.href : new URL(path, location.href).href);
}

function pageView() {
  const state = allowed();
  visitor = null;
  if (state.analytics && !isSilent()) enter();
  const canonical = doc.querySelector('link[rel="canonical"]');
  const properties = {};
  if (canonical && canonical.href) properties.canonical = cleaned(canonical.href);
  const messages = state.analytics && state.functionality && readCookies().messagesUtk;
  if (messages) properties.messages_utk = messages;
  const hit = { type: "page_view", url: here(), title: doc.title, properties };
  if (referrer) hit.referrer = cleaned(referrer);
  if (visitor) Object.assign(hit, { hstc: visitor.hstc, hssc: visitor.hssc, new_browser_session: visitor.new_browser_session });
  send(hit);
  referrer = here();
}

// The queue: hits leave it when a collector has said 202 (or that it will never take them).

// What is stored is every tab's: each adds its own hits, and takes out those that it has sent.

function stored() {
  try {
    const kept = JSON.parse(localStorage.getItem(STORE));
    return Array.isArray(kept) ? kept.filter((hit) => hit && hit.event_id) : [];
  } catch (error) {
    return []; // damaged or forbidden
  }
}

function store() {
  if (!allowed().analytics) return;
  const mine = new Set(queue.map((hit) => hit.event_id));
  const others = stored().filter((hit) => !mine.has(hit.event_id) && !gone.has(hit.event_id));
  try {
    localStorage.setItem(STORE, JSON.stringify(others.concat(queue).slice(-MOST_QUEUED)));
  } catch (error) {
    // full or forbidden: what is in memory is sent all the same
  }
}

function recover() {
  if (!allowed().analytics) return;
  queue = stored().filter((hit) => hit.occurred_at > Date.now() - DAY_MS).concat(queue);
}

function packed() {
  const hits = [];
  let body = "";
  for (const hit of queue) {
    const longer = JSON.stringify({ sent_at: Date.now(), hits: [...hits, hit] });
    if (hits.length && new Blob([longer]).size > MOST_BYTES) break;
    hits.push(hit);
    body = longer;
  }
  return { hits, body };
}

function flush(host) {
  if (flying || !queue.length || host >= hosts.length) return;
  const { hits, body } = packed();
  const sender = visitor && visitor.utk;
  flying = true;
  const done = (leaves) => {
    flying = false;
    if (!leaves) return;
    const sent = new Set(hits.map((hit) => hit.event_id));
    sent.forEach((id) => gone.add(id));
    queue = queue.filter((hit) => !sent.has(hit.event_id));
    store();
    flush(0);
  };
  const again = () => setTimeout(safely(() => flush(0)), RETRY_MS);
  fetch(hosts[host] + "/e/" + config.portal, {
    method: "POST",
    body,
    keepalive: new Blob([body]).size <= MOST_BYTES,
    credentials: "include",
    headers: { "Content-Type": "text/plain" },
  }).then(
    safely((answer) => {
      keepForgotten(sender);
      const busy = answer.status === 429 || answer.status >= 500;
      done(!busy);
      if (busy) again();
    }),
    safely(() => {
      done(false);
      if (host + 1 < hosts.length) flush(host + 1);
      else again();
    }),
  );
}

function leave() {
  if (!queue.length || !hosts.length) return;
  const { body } = packed();
  navigator.sendBeacon(hosts[0] + "/e/" + config.portal, new Blob([body], { type: "text/plain" }));
}

// Forms

function isCard(text) {
  const digits = text.replace(/[ -]/g, "");
  if (!/^\d{13,19}$/.test(digits)) return false;
  let sum = 0;
  Array.from(digits).reverse().forEach((digit, at) => {
    const value = at % 2 ? digit * 2 : +digit;
    sum += value > 9 ? value - 9 : value;
  });
  return sum % 10 === 0;
}

function formFields(form) {
  const fields = {};
  let email = null;
  Array.from(form.elements).forEach((input) => {
    const { name, type, value } = input;
    const silent = !name || input.disabled || ["password", "file", "submit", "button", "image", "reset"].includes(type);
    const unchecked = (type === "checkbox" || type === "radio") && !input.checked;
    if (silent || unchecked || typeof value !== "string" || isSecret(name, value) || isCard(value)) return;
    if (type === "hidden" && /csrf|nonce/i.test(name)) return;
    fields[name] = name in fields ? fields[name] + ";" + value : value;
    if (!email && value && (type === "email" || /^e[-_]?mail/i.test(name))) email = value;
  });
  return { fields, email };
}

function addHidden(form, values) {
  Object.keys(values).forEach((name) => {
    const input = form.querySelector('input[name="' + name + '"]') || doc.createElement("input");
    Object.assign(input, { type: "hidden", name, value: values[name] });
    form.appendChild(input);
  });
}

function submitted(event) {
  const form = event.target;
  if (!(form instanceof HTMLFormElement) || isSilent()) return;
  const action = new URL(form.getAttribute("action") || "", location.href);
  if (hosts.includes(action.origin) && action.pathname.startsWith("/forms/")) {
    const values = { _hsevent: uuid(), _hspage: here() };
    if (visitor) Object.assign(values, { _hsutk: visitor.utk, _hsconsent: "1" });
    addHidden(form, values);
    return;
  }
  const id = form.dataset.trackForm || (config.allForms && (form.id || form.getAttribute("name") || "form"));
  if (id) send({ type: "form_submission", form_id: id, page_url: here(), ...formFields(form) });
}

// Tracked links: the landing page takes the sealed click out of its address, and hands it back once a person is seen.

function arrive() {
  const address = new URL(location.href);
  click = address.searchParams.get("_hsc");
  carried = address.searchParams.get("_hsx");
  if (!click && !carried) return;
  address.search = address.search.slice(1).split("&").filter((part) => !/^_hs[cx]=/.test(part)).join("&");
  history.replaceState(history.state, "", address.href);
}

function returnClick() {
  const seen = doc.visibilityState === "visible" && (touched || config.bindOn === "visible");
  if (!click || !seen || !visitor || !allowed().analytics) return;
  send({ type: "email_click", click });
  click = null;
}

// Another domain of the portal: the visitor goes along, sealed, for a minute.

function post(body) {
  return fetch(hosts[0] + "/e/" + config.portal, {
    method: "POST",
    body: JSON.stringify({ consent: answered(), ...body }),
    credentials: "include",
    headers: { "Content-Type": "text/plain" },
  }).then((answer) => answer.json());
}

const within = (ms, promise) => Promise.race([promise.catch(() => ({})), new Promise((done) => setTimeout(() => done({}), ms))]);

// The link under an event, if it leads to a domain of the portal where our cookie is not.
function foreignLink(event) {
  const link = event.target.closest && event.target.closest("a[href]");
  if (!link || !visitor || !/^https?:$/.test(link.protocol)) return null;
  const theirs = cookieDomain(link.hostname, config.domains);
  return theirs && theirs !== domain ? link : null;
}

function prepareToCarry(event) {
  const link = foreignLink(event);
  if (!link || (carrying && carrying.link === link)) return;
  carrying = { link, token: within(2000, post({ type: "carry", utk: visitor.utk })).then((answer) => answer.token) };
}

function carry(event) {
  const link = foreignLink(event);
  if (!link || event.defaultPrevented) return;
  const plain = event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey && !event.altKey;
  if (!plain || (link.target && link.target !== "_self") || link.hasAttribute("download")) return;
  prepareToCarry(event);
  event.preventDefault();
  carrying.token.then((token) => {
    const address = new URL(link.href);
    if (token) address.search = [address.search.slice(1), "_hsx=" + token].filter(Boolean).join("&");
    carrying = null;
    location.assign(address.href);
  });
}

// Goes on when the visitor of the other domain is adopted, or cannot be.
function adopt(then) {
  const token = carried;
  const comes = doc.referrer && cookieDomain(new URL(doc.referrer).hostname, config.domains);
  if (!token || !comes || !allowed().analytics || isSilent() || readCookies().hubspotutk) {
    then();
    return;
  }
  carried = null;
  within(4000, post({ type: "adopt", token })).then(
    safely(({ utk }) => {
      if (utk) writeCookie("hubspotutk", utk, HALF_YEAR);
      then();
    }),
  );
}

// Commands

const commands = {
  setPath: (to) => (path = to),
  trackPageView: pageView,
  identify: ({ email, id, signature, expires, ...properties }) => {
    identity = { email, external_id: id === undefined ? undefined : String(id), signature, expires, properties };
  },
  trackCustomBehavioralEvent: ({ name, properties }) => send({ type: "custom_event", name, properties }),
  doNotTrack: (how) => (how && how.track ? deleteCookies(["__hs_do_not_track"]) : writeCookie("__hs_do_not_track", "yes", HALF_YEAR)),
  addPrivacyConsentListener: (listener) => {
    privacyListeners.push(listener);
    if (answered() || config.mode === "off" || config.mode === "notify") tellPrivacy([listener]);
  },
  addIdentityListener: (listener) => {
    identityListeners.push(listener);
    if (visitor) safely(listener)(visitor.utk);
  },
  revokeCookieConsent: revoke,
  showBanner: () => ask(true),
  setConsent,
  setHubSpotConsent: setConsent,
  resetVisitorIdentity: () => {
    forget();
    if (allowed().analytics && !isSilent()) enter();
  },
};

const run = safely((command) => {
  const [name, ...given] = Array.isArray(command) ? command : [command];
  if (Object.prototype.hasOwnProperty.call(commands, name)) commands[name](...given);
});

const SETTINGS = ["setPath", "identify", "doNotTrack", "addPrivacyConsentListener", "addIdentityListener"];

function start() {
  if (answered() && !allowed().analytics) deleteCookies(ANALYTICS);
  recover();
  const waiting = [].concat(win._hsq || [], win._hsp || []);
  win._hsq = { push: (...given) => given.forEach(run) };
  win._hsp = win._hsq;
  waiting.filter((command) => SETTINGS.includes(command[0])).forEach(run);
  arrive();
  adopt(() => {
    pageView();
    waiting.filter((command) => !SETTINGS.includes(command[0])).forEach(run);
    returnClick();
  });
  release();
  ask(false);
}

const listen = (target, name, work) => target.addEventListener(name, safely(work), { capture: true, passive: true });

safely(() => {
  if (win.__hsTracking) return;
  win.__hsTracking = true;
  ["pointerdown", "keydown", "touchstart", "scroll"].forEach((name) =>
    listen(win, name, () => {
      touched = true;
      returnClick();
    }),
  );
  listen(doc, "visibilitychange", returnClick);
  listen(doc, "submit", submitted);
  listen(doc, "pointerdown", prepareToCarry);
  win.addEventListener("click", safely(carry)); // last of all: after the page's own handlers
  listen(win, "online", () => flush(0));
  listen(win, "pagehide", leave);
  listen(win, "pageshow", (event) => event.persisted && pageView());
  if (doc.prerendering) listen(doc, "prerenderingchange", start);
  else start();
})();
