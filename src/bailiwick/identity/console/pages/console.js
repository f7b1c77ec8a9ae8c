// What the scripts of all pages share: requests to the API in the session's name, passkeys, and telling what came of it.

const page = document.documentElement.dataset;
const told = document.getElementById("told");
const failed = document.getElementById("failed");

const CANCELLED = "No passkey was used: it was cancelled, took too long, or none of yours is the right one.";

// A request that was refused, in the words of the API's problem document.
export class Refused extends Error {
  constructor(problem) {
    super(problem.detail || problem.title || "The server refused, and did not say why.");
    this.reason = problem.reason || "unknown";
    this.problem = problem;
  }
}

// The answer to a request, decoded. Throws Refused. A session that only ran out of its token goes on by itself.
export async function call(method, path, body, headers = {}) {
  try {
    return await send(method, path, body, headers);
  } catch (refused) {
    if (refused.reason !== "token_expired" || !(await goneOn())) {
      throw refused;
    }
    return send(method, path, body, headers);
  }
}

// Whether the session could be gone on with by its refresh cookie.
export async function goneOn() {
  if (!page.csrf) {
    return false;
  }
  try {
    const answer = await send("POST", "/api/v1/auth/refresh");
    page.csrf = answer.csrf_token;
    return true;
  } catch {
    return false;
  }
}

async function send(method, path, body, headers = {}) {
  const sent = { Accept: "application/json", ...headers };
  if (page.csrf) {
    sent["X-CSRF-Token"] = page.csrf;
  }
  if (body !== undefined) {
    sent["Content-Type"] = "application/json";
  }
  let answer;
  try {
    answer = await fetch(page.base + path, { method, headers: sent, body: JSON.stringify(body) });
  } catch {
    throw new Refused({ reason: "unreachable", detail: "The server does not answer. Try again in a moment." });
  }
  const text = await answer.text();
  let document_ = {};
  try {
    document_ = text ? JSON.parse(text) : {};
  } catch {
    // whoever stands before us answered, and not in our words
  }
  if (!answer.ok) {
    throw new Refused({ detail: `The server answered ${answer.status}.`, ...document_ });
  }
  return document_;
}

// What one of the person's passkeys answers to the options.
export async function usePasskey(publicKey) {
  needPasskeys();
  const options = PublicKeyCredential.parseRequestOptionsFromJSON(publicKey);
  return (await navigator.credentials.get({ publicKey: options })).toJSON();
}

// A new passkey of the person.
export async function makePasskey(publicKey) {
  needPasskeys();
  const options = PublicKeyCredential.parseCreationOptionsFromJSON(publicKey);
  return (await navigator.credentials.create({ publicKey: options })).toJSON();
}

function needPasskeys() {
  if (!window.PublicKeyCredential?.parseRequestOptionsFromJSON) {
    throw new Refused({ reason: "passkeys_unavailable", detail: "This browser knows no passkeys. Use a code." });
  }
}

// Says how it goes, to the eye and to a screen reader.
export function tell(text) {
  failed.textContent = "";
  told.textContent = text;
  told.scrollIntoView({ block: "nearest" });
}

// Says what went wrong, with the code that the documentation explains.
export function fail(error) {
  told.textContent = "";
  if (error instanceof Refused) {
    const more = ["statements", "teams", "conditions"].flatMap((name) => error.problem[name] ?? []);
    const list = more.length ? ` ${more.join("; ")}.` : "";
    failed.textContent = `${error.message}${list} (${error.reason})`;
  } else if (error.name === "NotAllowedError" || error.name === "AbortError") {
    failed.textContent = `${CANCELLED} (${error.name})`;
  } else {
    failed.textContent = `That did not go: ${error.message} (${error.name})`;
  }
  failed.scrollIntoView({ block: "nearest" });
}

// Does something that a button or a form asked for, which takes no second click meanwhile.
export async function busy(element, action) {
  const buttons = [...document.querySelectorAll("main button")].filter((each) => !each.disabled);
  buttons.forEach((each) => (each.disabled = true));
  element.setAttribute("aria-busy", "true");
  try {
    await action();
  } catch (error) {
    fail(error);
  } finally {
    buttons.forEach((each) => (each.disabled = false));
    element.removeAttribute("aria-busy");
    if (document.activeElement === document.body && !element.closest("[hidden]")) {
      element.focus();
    }
  }
}

// What is told once the page is there anew.
export function tellAfterwards(text) {
  sessionStorage.setItem("told", text);
}

const left = sessionStorage.getItem("told");
if (left && told) {
  sessionStorage.removeItem("told");
  told.textContent = left;
  told.focus();
}

document.getElementById("sign-out")?.addEventListener("click", async () => {
  try {
    await call("POST", "/api/v1/auth/logout");
  } catch {
    // it is over already
  }
  location.assign(`${page.base}/console/sign-in`);
});
