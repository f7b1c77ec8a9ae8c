// A real OpenID provider for the tests: node openid_provider.mjs <node_modules> <settings as JSON>; prints its port.
import { createServer } from "node:http";
import { generateKeyPairSync } from "node:crypto";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [, , modules, text] = process.argv;
const settings = JSON.parse(text);
const { default: Provider } = await import(pathToFileURL(join(modules, "oidc-provider/lib/index.js")));

const jwk = (pair, more) => ({ ...pair.privateKey.export({ format: "jwk" }), use: "sig", ...more });
const keys = [
  jwk(generateKeyPairSync("rsa", { modulusLength: 2048 }), { kid: "rsa", alg: "RS256" }),
  jwk(generateKeyPairSync("ec", { namedCurve: "P-256" }), { kid: "ec", alg: "ES256" }),
];

const server = createServer();
server.listen(0, "127.0.0.1", () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: settings.clients,
    jwks: { keys },
    cookies: { keys: ["not a secret"] },
    conformIdTokenClaims: false,
    claims: {
      openid: ["sub"],
      profile: ["name", "preferred_username", "groups"],
      email: ["email", "email_verified"],
    },
    features: { backchannelLogout: { enabled: true }, rpInitiatedLogout: { enabled: true } },
    // its own guard against addresses inside would keep it from telling us of a logout
    fetch: (url, { dispatcher, ...options }) => fetch(url, options),
    async findAccount(_, id) {
      const person = settings.people[id];
      return person && { accountId: id, claims: async () => ({ sub: id, ...person }) };
    },
  });
  provider.on("server_error", (_, error) => console.error(error));
  provider.on("backchannel.error", (_, error) => console.error(error));
  server.on("request", provider.callback());
  console.log(server.address().port);
});
process.stdin.resume();
process.stdin.on("end", () => process.exit(0)); // it ends with whoever started it
