"use strict";

// Uses or makes a passkey by what the page was given, and sends what came of it with the page's form.
const button = document.getElementById("passkey");

async function made(options, enrol) {
  if (enrol) {
    return navigator.credentials.create({ publicKey: PublicKeyCredential.parseCreationOptionsFromJSON(options) });
  }
  return navigator.credentials.get({ publicKey: PublicKeyCredential.parseRequestOptionsFromJSON(options) });
}

if (button && window.PublicKeyCredential?.parseRequestOptionsFromJSON) {
  const told = document.getElementById("passkey-told");
  button.hidden = false;
  button.addEventListener("click", async () => {
    button.disabled = true;
    told.textContent = "";
    try {
      const credential = await made(JSON.parse(button.dataset.options), button.dataset.enrol === "yes");
      const form = document.getElementById("by-passkey");
      form.elements.credential.value = JSON.stringify(credential.toJSON());
      form.submit();
    } catch (error) {
      told.textContent = `No passkey was used (${error.name}). Try again, or choose another way.`;
      button.disabled = false;
    }
  });
}
