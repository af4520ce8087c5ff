// Preloaded into Node.js: puts one bearer token on every request that a program sends.
//
// The conformance suite has no option for headers, and sends by three ways: the built-in fetch,
// undici of its own, and node:http. Nothing else of a request is touched.
//
// usage: BEARER=... UNDICI=/path/of/the/program.js node --import /this/file /path/of/the/program.js
import { createRequire, syncBuiltinESMExports } from 'node:module';
import http from 'node:http';

const value = `Bearer ${process.env.BEARER}`;
const isOurs = (name) => String(name).toLowerCase() === 'authorization';

// Headers reach undici as a flat list of names and values, as pairs, or as an object.
function withBearer(headers) {
  if (Array.isArray(headers)) {
    const names = headers.filter((_, place) => place % 2 === 0);
    return names.some(isOurs) ? headers : [...headers, 'authorization', value];
  }
  const pairs =
    typeof headers?.[Symbol.iterator] === 'function' ? [...headers] : Object.entries(headers ?? {});
  if (!pairs.some(([name]) => isOurs(name))) pairs.push(['authorization', value]);
  return Object.fromEntries(pairs);
}

// The built-in fetch takes its dispatcher from the same global place as any copy of undici.
const { Agent, setGlobalDispatcher } = createRequire(process.env.UNDICI)('undici');
setGlobalDispatcher(
  new Agent().compose((dispatch) => (options, handler) =>
    dispatch({ ...options, headers: withBearer(options.headers) }, handler),
  ),
);

const send = http.request;
http.request = function request(...words) {
  const sent = send.apply(this, words);
  if (!sent.headersSent && !sent.hasHeader('authorization')) sent.setHeader('authorization', value);
  return sent;
};
syncBuiltinESMExports();
