import { Refused, busy, call, tell, tellAfterwards, usePasskey } from "../../files/console.js";

const yours = document.getElementById("yours");
const { id, sha256 } = yours?.dataset ?? {};
const prove = document.getElementById("prove");
const here = `/api/v1/handovers/${id}`;
const AGAIN = ["insufficient_user_authentication", "handover_factor_needed"];
let waiting = null;

const at = (name) => document.getElementById(name);
const value = (form, name) => new FormData(form).get(name);

// The hash that this page shows, as a challenge is written.
function challenge() {
  const bytes = sha256.match(/../g).map((pair) => parseInt(pair, 16));
  return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

// Does it, once the person proved himself lately enough.
async function attempt(action) {
  try {
    await action();
  } catch (refused) {
    if (!(refused instanceof Refused) || !AGAIN.includes(refused.reason)) {
      throw refused;
    }
    waiting = action;
    prove.hidden = false;
    tell("Before that, prove that it is still you.");
    at("prove-title").focus();
  }
}

async function proven() {
  const action = waiting;
  waiting = null;
  prove.hidden = true;
  at("code").value = "";
  if (action) {
    await attempt(action);
  }
}

function done(text) {
  tellAfterwards(text);
  location.reload();
}

async function signByPasskey(team) {
  const { publicKey } = await call("POST", `${here}/sign/options`, { team });
  if (publicKey.challenge !== challenge()) {
    throw new Refused({ reason: "handover_changed", detail: "What you would sign is not what this page shows." });
  }
  tell(`Your browser asks for the passkey by which you sign for ${team}.`);
  const credential = await usePasskey(publicKey);
  await call("POST", `${here}/sign`, { team, sha256, credential });
  done(`You signed for ${team}, by a passkey.`);
}

async function signByFactor(team) {
  await call("POST", `${here}/sign`, { team, sha256 });
  done(`You signed for ${team}, by a second factor.`);
}

async function refuse(team, reason) {
  await call("POST", `${here}/refuse`, { team, reason });
  done(`You refused the pack for ${team}.`);
}

at("signing")?.addEventListener("submit", (event) => {
  event.preventDefault();
  const team = value(event.target, "team");
  const action = at("by-passkey") ? signByPasskey : signByFactor;
  busy(event.submitter ?? event.target, () => attempt(() => action(team)));
});

at("by-factor")?.addEventListener("click", (event) => {
  const team = value(at("signing"), "team");
  busy(event.currentTarget, () => attempt(() => signByFactor(team)));
});

at("refusing")?.addEventListener("submit", (event) => {
  event.preventDefault();
  const team = value(event.target, "team");
  const reason = value(event.target, "reason").trim();
  busy(event.submitter ?? event.target, () => attempt(() => refuse(team, reason)));
});

at("prove-code")?.addEventListener("submit", (event) => {
  event.preventDefault();
  busy(event.submitter ?? event.target, async () => {
    await call("POST", "/api/v1/auth/step-up", { code: at("code").value.trim() });
    await proven();
  });
});

at("prove-passkey")?.addEventListener("click", (event) =>
  busy(event.currentTarget, async () => {
    tell("Your browser asks for a passkey, to prove that it is you.");
    const { publicKey } = await call("POST", "/api/v1/auth/step-up/webauthn/options");
    await call("POST", "/api/v1/auth/step-up/webauthn/verify", { credential: await usePasskey(publicKey) });
    await proven();
  }),
);
