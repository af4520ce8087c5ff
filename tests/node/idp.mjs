// A real OpenID provider on loopback: client credentials, resource indicators, signed access tokens.
//
// The first line of stdin says which clients there are and how tokens for which resource are
// signed; each further line has the keys replaced, the old ones still told. What it prints, a line
// each: its issuer, then `rotated` for every such line.
//
// usage: node idp.mjs /path/of/oidc-provider/lib/index.js < lines
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import http from 'node:http';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const { Provider } = await import(pathToFileURL(process.argv[2]));

const KINDS = {
  EdDSA: ['ed25519', {}],
  ES256: ['ec', { namedCurve: 'P-256' }],
  RS256: ['rsa', { modulusLength: 2048 }],
};

function makeKeys() {
  return Object.entries(KINDS).map(([alg, [kind, options]]) => ({
    ...generateKeyPairSync(kind, options).privateKey.export({ format: 'jwk' }),
    alg,
    use: 'sig',
    kid: `${alg}-${randomBytes(4).toString('hex')}`,
  }));
}

function makeProvider(issuer, { clients, resources, seconds }, keys) {
  const provider = new Provider(issuer, {
    clients: clients.map((client) => ({
      grant_types: ['client_credentials'],
      redirect_uris: [],
      response_types: [],
      ...client,
    })),
    jwks: { keys },
    cookies: { keys: ['unused'] },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_context, resource) => ({
          audience: resource,
          scope: 'mcp:call mcp:list',
          accessTokenTTL: seconds,
          accessTokenFormat: 'jwt',
          jwt: { sign: { alg: resources[resource] ?? 'RS256' } },
        }),
      },
    },
    ttl: { ClientCredentials: () => seconds },
  });
  return provider.callback();
}

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const settings = JSON.parse((await lines.next()).value);
let handle;
const server = http.createServer((request, response) => handle(request, response));
server.listen(0, '127.0.0.1', async () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  let keys = makeKeys();
  handle = makeProvider(issuer, settings, keys);
  console.log(issuer);
  for await (const _ of lines) {
    const fresh = makeKeys();
    handle = makeProvider(issuer, settings, [...fresh, ...keys]);
    keys = fresh;
    console.log('rotated');
  }
  process.exit(0);
});
