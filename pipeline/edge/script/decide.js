// What the script decides, without touching the page: cookies, consent, addresses. tests/edge/cases.json holds it, and the
// collector's pipeline/edge/core, to one table.

const HSTC = /^\d+\.[0-9a-f]{32}\.\d{1,15}\.\d{1,15}\.\d{1,15}\.\d{1,9}$/;
const HSSC = /^\d+\.\d{1,9}\.\d{1,15}$/;
const UTK = /^[0-9a-f]{32}$/;
const PARTS = /^(https?:\/\/)([^/?#\\]*)([^?#]*)(?:\?([^#]*))?(?:#[^]*)?$/i;
const SECRET_NAME = /token|passw|pwd|secret|api[-_]?key|jwt|^(?:auth|pass|sid|sig)$/i;
const SECRET_VALUE = /^eyJ[A-Za-z0-9_-]+\./;
const CATEGORIES = ["analytics", "advertisement", "functionality"];
const UNASKED = { off: [1, 1, 1], notify: [1, 1, 1], opt_in: [0, 0, 0], opt_in_categories: [0, 0, 0], opt_out: [1, 1, 1] };

export const isHstc = (text) => HSTC.test(text);
export const isHssc = (text) => HSSC.test(text);
export const isSecret = (name, value) => SECRET_NAME.test(name) || SECRET_VALUE.test(value);

// The Urchin hash of a cookie domain, with its leading dot.
export function domainHash(domain) {
  let hash = 0;
  for (let at = domain.length - 1; at >= 0; at--) {
    const code = domain.charCodeAt(at);
    hash = ((hash << 6) & 268435455) + code + (code << 14);
    const high = hash & 266338304;
    if (high) hash ^= high >> 21;
  }
  return hash;
}

// The longest of the portal's domains that the host is within, or null.
export function cookieDomain(host, domains) {
  const fitting = domains.filter((domain) => host === domain || host.endsWith("." + domain));
  return fitting.sort((a, b) => b.length - a.length)[0] || null;
}

// The cookies after one more page load, from those before it. `fresh` is a new utk, should one be needed.
export function visit(cookies, now, fresh, hash) {
  const known = isHstc(cookies.__hstc) ? cookies.__hstc.split(".") : null;
  const session = known && cookies.__hssrc === "1" && isHssc(cookies.__hssc) ? cookies.__hssc.split(".") : null;
  if (session) {
    return { hstc: known.join("."), hssc: [session[0], +session[1] + 1, session[2]].join("."), utk: known[1] };
  }
  const utk = known ? known[1] : UTK.test(cookies.hubspotutk) ? cookies.hubspotutk : fresh;
  const times = known ? [known[2], known[4], now, +known[5] + 1] : [now, now, now, 1];
  return { hstc: [known ? known[0] : hash, utk, ...times].join("."), hssc: [hash, 1, now].join("."), utk };
}

// What is allowed: the explicit answers, else what the mode says of visitors who were not asked, or whose browser objects.
export function consent(mode, claim, objects) {
  const unasked = UNASKED[mode].slice();
  if (objects) {
    unasked[1] = 0;
    if (mode === "opt_out") unasked[0] = 0;
  }
  const state = {};
  CATEGORIES.forEach((name, at) => {
    const answer = claim && claim[name];
    state[name] = answer === true || answer === false ? answer : !!unasked[at];
  });
  return state;
}

const looksLikeEmail = (text) => /[^@/]@[^@/]+\.[^@/]/.test(text.replace(/%(?:25)*40/g, "@").replace(/%(?:25)*2e/gi, "."));

function tellsTooMuch(parameter) {
  const at = parameter.indexOf("=");
  const name = at < 0 ? parameter : parameter.slice(0, at);
  return name === "_hsc" || name === "_hsx" || isSecret(name, at < 0 ? "" : parameter.slice(at + 1)) || looksLikeEmail(parameter);
}

// An address without user name, fragment, our own tokens, and parameters that look personal or secret.
export function cleaned(url) {
  const parts = PARTS.exec(url);
  if (!parts) return url;
  const kept = (parts[4] || "").split("&").filter((part) => part && !tellsTooMuch(part));
  return parts[1] + parts[2].slice(parts[2].lastIndexOf("@") + 1) + parts[3] + (kept.length ? "?" + kept.join("&") : "");
}
