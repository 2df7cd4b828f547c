// What the script reads of a form, and what it adds to one that posts to the collector.
import { isSecret } from "./decide.js";

const SILENT_TYPES = ["password", "file", "submit", "button", "image", "reset"];
const SILENT_HINTS = /\bcc-|password|one-time-code/; // autocomplete: of cards and of secrets
const HIDDEN_TOKEN = /[cx]srf|nonce|captcha|viewstate/i;

// Whether it could be a card's number (Luhn).
function isCard(text) {
  const digits = text.replace(/[\s.-]/g, "");
  if (!/^\d{13,19}$/.test(digits)) return false;
  let sum = 0;
  Array.from(digits).reverse().forEach((digit, at) => {
    const value = at % 2 ? digit * 2 : +digit;
    sum += value > 9 ? value - 9 : value;
  });
  return sum % 10 === 0;
}

function isSilent(input) {
  const { name, type } = input;
  if (!name || SILENT_TYPES.includes(type) || SILENT_HINTS.test(input.autocomplete) || input.matches(":disabled")) return true;
  if ((type === "checkbox" || type === "radio") && !input.checked) return true;
  const isUnseen = type === "hidden" || type === "textarea";
  return isUnseen && HIDDEN_TOKEN.test(name);
}

// Values by name, several of one name with semicolons between them; and the email address.
export function formFields(form) {
  const fields = Object.create(null);
  let email = null;
  Array.from(form.elements).forEach((input) => {
    if (isSilent(input)) return;
    const { name, type } = input;
    const values = type === "select-multiple" ? Array.from(input.selectedOptions, (option) => option.value) : [input.value];
    values.forEach((value) => {
      if (typeof value !== "string" || isSecret(name, value) || isCard(value)) return;
      fields[name] = name in fields ? fields[name] + ";" + value : value;
      if (!email && value && (type === "email" || /^e[-_]?mail/i.test(name))) email = value;
    });
  });
  return { fields, email };
}

// Hidden inputs by name; those without a value are taken out, should an earlier submission have added them.
export function setHidden(form, values) {
  Object.keys(values).forEach((name) => {
    const input = form.querySelector('input[name="' + name + '"]') || document.createElement("input");
    input.remove();
    if (!values[name]) return;
    Object.assign(input, { type: "hidden", name, value: values[name] });
    form.appendChild(input);
  });
}
