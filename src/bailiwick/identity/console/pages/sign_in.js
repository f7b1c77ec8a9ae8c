import { Refused, busy, call, goneOn, makePasskey, tell, usePasskey } from "./console.js";

const AUTH = "/api/v1/auth";
const COOKIE = { "X-Bailiwick-Session": "cookie" };
const { to, goesOn } = document.getElementById("sign-in").dataset;
const at = (id) => document.getElementById(id);
let pending = "";

// After the first factor: in, or what is still owed.
function owed(refused) {
  if (!(refused instanceof Refused) || !refused.problem.mfa_token) {
    throw refused;
  }
  pending = refused.problem.mfa_token;
  const methods = refused.problem.methods ?? [];
  at("first").hidden = true;
  if (refused.reason === "mfa_enrolment_required") {
    at("enrol").hidden = false;
    at("enrol-title").focus();
    return;
  }
  at("second-passkey").hidden = !methods.includes("webauthn");
  at("by-code").hidden = !methods.some((each) => each !== "webauthn");
  at("second").hidden = false;
  at("second-title").focus();
}

function comeIn(answer) {
  if (answer.recovery_codes?.length) {
    at("codes-list").replaceChildren(
      ...answer.recovery_codes.map((code) => {
        const line = document.createElement("li");
        line.append(Object.assign(document.createElement("code"), { textContent: code }));
        return line;
      }),
    );
    at("enrol").hidden = true;
    at("codes").hidden = false;
    at("codes-title").focus();
    return;
  }
  tell("You are signed in.");
  location.assign(to);
}

// What was begun may have lasted too long, or been tried too often: then from the beginning.
async function finish(path, body) {
  try {
    comeIn(await call("POST", `${AUTH}/${path}`, { mfa_token: pending, ...body }, COOKIE));
  } catch (error) {
    if (["invalid_token", "token_expired"].includes(error.reason)) {
      for (const each of ["second", "enrol"]) {
        at(each).hidden = true;
      }
      at("first").hidden = false;
    }
    throw error;
  }
}

at("passkey").addEventListener("click", (event) =>
  busy(event.currentTarget, async () => {
    tell("Your browser asks for a passkey.");
    const { publicKey } = await call("POST", `${AUTH}/login/passkey/options`);
    const credential = await usePasskey(publicKey);
    comeIn(await call("POST", `${AUTH}/login/passkey/verify`, { credential }, COOKIE));
  }),
);

at("by-password").addEventListener("submit", (event) => {
  event.preventDefault();
  const { realm, username, password } = Object.fromEntries(new FormData(event.target));
  const where = realm ? "ldap" : "local";
  busy(event.submitter ?? event.target, async () => {
    tell("Signing in.");
    try {
      const body = { username, password, ...(realm ? { realm } : {}) };
      comeIn(await call("POST", `${AUTH}/login/${where}`, body, COOKIE));
    } catch (refused) {
      owed(refused);
      tell("");
    }
  });
});

at("second-passkey").addEventListener("click", (event) =>
  busy(event.currentTarget, async () => {
    const { publicKey } = await call("POST", `${AUTH}/mfa/webauthn/options`, { mfa_token: pending });
    await finish("mfa/webauthn/verify", { credential: await usePasskey(publicKey) });
  }),
);

at("by-code").addEventListener("submit", (event) => {
  event.preventDefault();
  busy(event.submitter ?? event.target, () => finish("mfa", { code: at("code").value.trim() }));
});

at("make-passkey").addEventListener("click", (event) =>
  busy(event.currentTarget, async () => {
    const { publicKey } = await call("POST", `${AUTH}/mfa/enrolment/webauthn/options`, { mfa_token: pending });
    await finish("mfa/enrolment/webauthn/verify", { credential: await makePasskey(publicKey) });
  }),
);

// a session that only ran out of its token goes on without asking anybody
if (goesOn && (await goneOn())) {
  location.replace(to);
} else {
  at("first").hidden = false;
  if (!window.PublicKeyCredential?.parseRequestOptionsFromJSON) {
    at("passkey").hidden = true;
  }
}
