// The tracking script (docs/spec/edge.md). It never throws into the page, and decides nothing that `decide.js` can decide.
// The collector puts the portal's configuration in place of __CONFIG__ and serves the built file, tracking.min.js.
import { cleaned, consent, cookieDomain, domainHash, visit } from "./decide.js";
import { formFields, setHidden } from "./fields.js";
import { collector } from "./hosts.js";

const config = __CONFIG__;
const win = window;
const doc = document;
const HALF_YEAR = 180 * 86400;
const DAY_MS = 86400000;
const MOST_QUEUED = 200;
const MOST_BYTES = 60000;
const MOST_STORED = 1000000; // characters: the site's own storage is small
const RETRY_MS = 10000;
const HIT_MS = 10000; // and a second for each 4 KB: the collector itself waits 5 s for Kafka
const BANNER_MS = 5000;
const CARRY_MS = 2000; // of all hosts together, like the next: a visitor waits
const ADOPT_MS = 4000;
const CARRY_AGAIN_MS = 20000; // a token lives for 60 s
const ANALYTICS = ["__hstc", "hubspotutk", "__hssc", "__hssrc", "messagesUtk"];
const STORE = "__hsqueue" + config.portal;

const domain = cookieDomain(location.hostname, config.domains);
const hash = domainHash("." + (domain || location.hostname));
const own = doc.currentScript instanceof HTMLScriptElement && doc.currentScript.src; // an image of that name is not ours
const hosts = config.hosts.length ? config.hosts : own ? [new URL(own).origin] : [];
const { reach, post, question, leave, load } = collector(hosts, config.portal);

let waiting = []; // commands, until the first page view; then null
let resume = null; // what the first page view waits for ends with this
let queue = [];
let flying = false;
let retry = 0; // the timer of the next try
let banner = null; // the promise of its file
let visitor = null; // cookies' values while analytics are allowed
let identity = null; // an identify call that waits for the next hit
let path = null; // setPath
let referrer = doc.referrer;
let click = null; // a sealed click that waits for consent, sight and touch
let touched = false;
let carried = null; // a sealed visitor of another domain of the portal
let carrying = null; // the link that is about to be followed, when, and the promise of its token
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

// Consent platforms say on every page what was answered once: only what is new, or what the banner has heard, is an answer to publish.
function setConsent(given, heard) {
  const before = JSON.stringify(answered());
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
    const answer = answered();
    adopt(() => {
      if (allowed().analytics && !visitor) enter();
      if (heard || JSON.stringify(answer) !== before) send({ type: "custom_event", name: "consent", consent: answer });
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

function forgetVisitor() {
  deleteCookies(ANALYTICS);
  visitor = null;
  identity = null;
}

// Of the hits, nobody's may still go.
function forget() {
  forgetVisitor();
  keepOnly((hit) => !hit.utk);
}

// Another tab, or the pages since this one was left, may have said no ...
function heed() {
  if (visitor && !allowed().analytics) forget();
}

// ... or begun another visitor.
function lookAgain() {
  heed();
  if (visitor && readCookies().hubspotutk !== visitor.cookie) enter();
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
  const isSettled = !again && (isSilent() || answered() || readCookies().__hs_initial_opt_in);
  if (config.mode === "off" || !config.banner || isSettled) return;
  banner = banner || load("/t/" + config.portal + "/banner.js", BANNER_MS);
  banner.then(
    safely(() => (again || !answered()) && win.__hsBanner(config, (given) => setConsent(given, true))),
    () => (banner = null),
  );
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
  const isNewSession = cookies.utk !== fresh && before.__hssrc !== "1";
  visitor = { ...cookies, new_browser_session: isNewSession, cookie: readCookies().hubspotutk };
  identityListeners.forEach((listener) => safely(listener)(visitor.utk));
}

// A copy of what the page gave; what cannot be sent is refused here, and not when others wait behind it.
const copied = (given) => JSON.parse(JSON.stringify(given));

function send(hit) {
  if (isSilent()) return;
  lookAgain();
  const about = () => ({ event_id: uuid(), occurred_at: Date.now(), consent: answered(), utk: visitor ? visitor.utk : undefined });
  const hits = [copied({ ...about(), ...hit })];
  if (identity && visitor) {
    hits.unshift({ ...about(), type: "identify", ...identity });
    identity = null;
  }
  queue = queue.concat(hits).slice(-MOST_QUEUED);
  store();
  flush();
}

function here() {
  return cleaned(path === null ? location.href : path);
}

function pageView() {
  const state = allowed();
  if (visitor && !state.analytics) forget();
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
    return Array.isArray(kept) ? kept.filter((hit) => hit && hit.event_id && hit.occurred_at > Date.now() - DAY_MS) : [];
  } catch (error) {
    return []; // damaged or forbidden
  }
}

function store(sent = []) {
  if (!allowed().analytics) return;
  const ours = new Set(queue.concat(sent).map((hit) => hit.event_id));
  const others = stored().filter((hit) => !ours.has(hit.event_id));
  try {
    localStorage.setItem(STORE, "[" + newest(others.concat(queue)) + "]");
  } catch (error) {
    // full or forbidden: what is in memory is sent all the same
  }
}

// As texts, as many as there is room for.
function newest(hits) {
  let room = MOST_STORED;
  const fitting = (text) => text.length <= room && ((room -= text.length), true);
  return hits.slice(-MOST_QUEUED).map((hit) => JSON.stringify(hit)).reverse().filter(fitting).reverse();
}

function recover() {
  if (allowed().analytics && !isSilent()) queue = stored();
}

function keepOnly(stays) {
  queue = queue.filter(stays);
  try {
    localStorage.removeItem(STORE);
  } catch (error) {
    // no storage, nothing to remove
  }
}

function packed() {
  const texts = [];
  let room = MOST_BYTES - 50; // for what is around them
  for (const hit of queue) {
    const text = JSON.stringify(hit);
    const size = new Blob([text]).size + 1;
    if (texts.length && size > room) break;
    room -= size;
    texts.push(text);
  }
  return { hits: queue.slice(0, texts.length), body: '{"sent_at":' + Date.now() + ',"hits":[' + texts + "]}", fits: room >= 0 };
}

function flush() {
  if (queue.length) lookAgain();
  if (flying || !queue.length || isSilent()) return;
  const { hits, body, fits } = packed();
  const sender = visitor && visitor.utk;
  const stand = () => hits.every((hit) => queue.includes(hit)); // or were withdrawn
  flying = true;
  clearTimeout(retry);
  const done = (leaves) => {
    flying = false;
    keepForgotten(sender);
    if (leaves) {
      queue = queue.filter((hit) => !hits.includes(hit));
      store(hits);
    } else if (stand()) {
      retry = setTimeout(safely(flush), RETRY_MS);
      return;
    }
    flush();
  };
  const attempt = async (host, signal) => {
    if (!stand()) throw new Error("withdrawn");
    return post(host, signal, body, fits);
  };
  reach(attempt, HIT_MS + body.length / 4).then(
    safely((answer) => done(answer.status !== 429)),
    safely(() => done(false)),
  );
}

function left() {
  while (resume) resume();
  heed(); // a page that is left begins no visitor
  if (queue.length && !isSilent()) leave(packed().body);
}

// Forms

function submitted(event) {
  const form = event.target;
  if (!(form instanceof HTMLFormElement) || isSilent()) return;
  lookAgain();
  const action = new URL(form.getAttribute("action") || "", location.href);
  if (hosts.includes(action.origin) && action.pathname.startsWith("/forms/")) {
    const says = visitor ? "1" : answered() && "0";
    setHidden(form, { _hsevent: uuid(), _hspage: here(), _hsutk: visitor && visitor.utk, _hsconsent: says });
    return;
  }
  const id = form.dataset.trackForm || (config.allForms && (form.getAttribute("id") || form.getAttribute("name") || "form"));
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

// The link under an event, if it leads to a domain of the portal where our cookie is not.
function foreignLink(event) {
  const link = event.target.closest && event.target.closest("a[href]");
  lookAgain();
  if (!link || !visitor || !/^https?:$/.test(link.protocol)) return null;
  const theirs = cookieDomain(link.hostname, config.domains);
  return theirs && theirs !== domain ? link : null;
}

function prepareToCarry(event) {
  const link = foreignLink(event);
  if (!link || (carrying && carrying.link === link && Date.now() - carrying.at < CARRY_AGAIN_MS)) return;
  const asked = question({ consent: answered(), type: "carry", utk: visitor.utk }, CARRY_MS);
  carrying = { link, at: Date.now(), token: asked.then((answer) => answer.token) };
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
  resume = () => {
    resume = null;
    then();
  };
  const mine = resume;
  question({ consent: answered(), type: "adopt", token }, ADOPT_MS).then(
    safely(({ utk }) => {
      if (resume !== mine) return;
      if (utk && allowed().analytics && !readCookies().hubspotutk) writeCookie("hubspotutk", utk, HALF_YEAR);
      mine();
    }),
  );
}

// Commands

const commands = {
  setPath: (to) => {
    path = new URL(to, location.href).href;
  },
  trackPageView: pageView,
  identify: ({ email, id, signature, expires, ...properties }) => {
    identity = copied({ email, external_id: id === undefined ? undefined : String(id), signature, expires, properties });
  },
  trackCustomBehavioralEvent: ({ name, properties }) => send({ type: "custom_event", name, properties }),
  doNotTrack: (how) => {
    if (how && how.track) {
      deleteCookies(["__hs_do_not_track"]);
      return;
    }
    writeCookie("__hs_do_not_track", "yes", HALF_YEAR);
    visitor = null;
    keepOnly(() => false);
  },
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
  setConsent: (given) => setConsent(given),
  setHubSpotConsent: (given) => setConsent(given),
  resetVisitorIdentity: () => {
    forgetVisitor();
    if (allowed().analytics && !isSilent()) enter();
  },
};

const run = safely((command) => {
  const [name, ...given] = [].concat(command);
  if (Object.prototype.hasOwnProperty.call(commands, name)) commands[name](...given);
});

const SETTINGS = ["setPath", "identify", "doNotTrack", "addPrivacyConsentListener", "addIdentityListener"];

// Settings count for the first page view, all else comes after it.
const take = (command) => (waiting && !SETTINGS.includes([].concat(command)[0]) ? waiting.push(command) : run(command));

function begin() {
  safely(pageView)();
  const commands = waiting;
  waiting = null;
  commands.forEach(run);
  returnClick();
}

function start() {
  if (answered() && !allowed().analytics) deleteCookies(ANALYTICS);
  recover();
  const before = new Set([win._hsq, win._hsp]); // often the same
  win._hsq = { push: (...given) => given.forEach(take) };
  win._hsp = win._hsq;
  before.forEach((commands) => Array.isArray(commands) && commands.forEach(take));
  safely(arrive)();
  resume = () => {
    resume = null;
    adopt(safely(begin));
  };
  if (doc.body) resume();
  else listen(doc, "DOMContentLoaded", () => resume && resume()); // title and canonical may come yet
  release();
  listen(doc, "DOMContentLoaded", release);
  ask(false);
}

// From the back-forward cache.
function shownAgain(event) {
  if (!event.persisted) return;
  referrer = doc.referrer;
  pageView();
}

const listen = (target, name, work) => target.addEventListener(name, safely(work), { capture: true, passive: true });

safely(() => {
  if (win.__hsTracking) return;
  win.__hsTracking = true;
  ["pointerdown", "keydown", "touchstart", "scroll"].forEach((name) =>
    listen(win, name, (event) => {
      touched = touched || event.isTrusted;
      returnClick();
    }),
  );
  listen(doc, "visibilitychange", returnClick);
  listen(doc, "submit", submitted);
  listen(doc, "pointerdown", prepareToCarry);
  win.addEventListener("click", safely(carry)); // last of all: after the page's own handlers
  listen(win, "online", flush);
  listen(win, "pagehide", left);
  listen(win, "pageshow", shownAgain);
  if (doc.prerendering) listen(doc, "prerenderingchange", start);
  else start();
})();
