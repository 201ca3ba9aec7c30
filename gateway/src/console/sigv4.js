// AWS Signature Version 4 of one request, in its headers or in its link.
//
// Pure functions of what is given, the time included. Source: "Authenticating Requests (AWS Signature Version 4)" of the
// S3 API reference; of S3's own: the path is encoded once, and never normalised.

import { bytesOf, hex, hmac, sha256 } from './sha256.js';

const ALGORITHM = 'AWS4-HMAC-SHA256';

/** Encodes as RFC 3986 does: all but letters, digits and -._~ becomes %XX of its UTF-8 bytes. */
export function encode(text) {
  let out = '';
  for (const byte of bytesOf(text)) {
    const char = String.fromCharCode(byte);
    out += /[A-Za-z0-9._~-]/.test(char) ? char : `%${byte.toString(16).toUpperCase().padStart(2, '0')}`;
  }
  return out;
}

/** Encodes a key for a path: each piece between slashes. */
export function encodePath(key) {
  return key.split('/').map(encode).join('/');
}

/** Writes a query in the order that is signed: by encoded name, each once. */
export function query(parameters) {
  const names = Object.keys(parameters).map((name) => [encode(name), encode(String(parameters[name]))]);
  names.sort(([one], [other]) => (one < other ? -1 : 1));
  return names.map((pair) => pair.join('=')).join('&');
}

/** Gives a time as SigV4 writes it, YYYYMMDDTHHMMSSZ. */
export function stamp(time) {
  return time.toISOString().replace(/[-:]|\.\d+/g, '');
}

/** Signs a canonical request; gives the credential's scope and the signature. */
function signature(key, region, time, canonical) {
  const date = time.slice(0, 8);
  const scope = `${date}/${region}/s3/aws4_request`;
  const signing = ['s3', 'aws4_request'].reduce(hmac, hmac(hmac(`AWS4${key.secret}`, date), region));
  const text = [ALGORITHM, time, scope, hex(sha256(canonical))].join('\n');
  return { scope, signed: hex(hmac(signing, text)) };
}

/** Writes a request as it is signed. `headers` have lower-case names. */
function canonical(method, path, parameters, headers, payload) {
  const names = Object.keys(headers).sort();
  const lines = names.map((name) => `${name}:${String(headers[name]).trim().replace(/ +/g, ' ')}\n`);
  return [method, path, query(parameters), lines.join(''), names.join(';'), payload].join('\n');
}

/**
 * Gives the headers of a signed request, all but Host, which browsers write themselves.
 * `request`: method, host, path (encoded), parameters, headers (lower-case names), and the SHA-256 of its body, in hex.
 */
export function sign(key, region, now, request) {
  const time = stamp(now);
  const { payload } = request;
  const own = { ...request.headers, 'x-amz-content-sha256': payload, 'x-amz-date': time };
  const all = { ...own, host: request.host };
  const text = canonical(request.method, request.path, request.parameters, all, payload);
  const { scope, signed } = signature(key, region, time, text);
  const names = Object.keys(all).sort().join(';');
  return { ...own, authorization: `${ALGORITHM} Credential=${key.access}/${scope}, SignedHeaders=${names}, Signature=${signed}` };
}

/** Gives the query of a link that is good for `seconds` for whoever has it; `request` as for `sign`, of no payload. */
export function presign(key, region, now, seconds, request) {
  const time = stamp(now);
  const parameters = {
    ...request.parameters,
    'X-Amz-Algorithm': ALGORITHM,
    'X-Amz-Credential': `${key.access}/${time.slice(0, 8)}/${region}/s3/aws4_request`,
    'X-Amz-Date': time,
    'X-Amz-Expires': seconds,
    'X-Amz-SignedHeaders': 'host',
  };
  const text = canonical(request.method, request.path, parameters, { host: request.host }, 'UNSIGNED-PAYLOAD');
  const { signed } = signature(key, region, time, text);
  return `${query(parameters)}&X-Amz-Signature=${signed}`;
}
