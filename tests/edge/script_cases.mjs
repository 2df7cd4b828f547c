// The script's decisions against the table that the collector's tests read too. Prints what differs, nothing if nothing does.
import { readFileSync } from "node:fs";
import * as decide from "../../pipeline/edge/script/decide.js";

const cases = JSON.parse(readFileSync(new URL("cases.json", import.meta.url)));
const same = (kind, given, is, expected) => {
  if (JSON.stringify(is) !== JSON.stringify(expected)) console.log(kind, JSON.stringify(given), JSON.stringify(is), JSON.stringify(expected));
};
for (const each of cases.domain_hash) same("domain_hash", each, decide.domainHash(each.domain), each.hash);
for (const each of cases.cookie_domain) same("cookie_domain", each, decide.cookieDomain(each.host, each.domains), each.domain);
for (const each of cases.hstc) same("hstc", each, decide.isHstc(each.cookie), each.valid);
for (const each of cases.hssc) same("hssc", each, decide.isHssc(each.cookie), each.valid);
for (const each of cases.consent) same("consent", each, Object.values(decide.consent(each.mode, each.claim, each.objects)), each.is);
for (const each of cases.cleaned) same("cleaned", each, decide.cleaned(each.url), each.is);
for (const { cookies, now, fresh, hstc, hssc, utk, name } of cases.visit) {
  same("visit", name, decide.visit(cookies, now, fresh, 7), { hstc, hssc, utk });
}
console.log("compared", Object.values(cases).reduce((count, each) => count + each.length, 0));
