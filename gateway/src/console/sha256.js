// SHA-256 and HMAC-SHA-256 (FIPS 180-4, RFC 2104) in plain script.
//
// Browsers offer crypto.subtle to secure contexts alone, and a NAS in a home is reached at http://nas. Texts are hashed
// as UTF-8. Nothing here keeps what it was given.

const encoder = new TextEncoder();
/** So many bytes are hashed at a stretch: some ten milliseconds. */
const STEP = 1 << 20;

/** The first 32 bits of the fractional parts of the cube roots of the first 64 primes. */
const ROUND = fractions(64, (prime) => Math.cbrt(prime));
/** The same of the square roots of the first 8. */
const START = fractions(8, (prime) => Math.sqrt(prime));

/** Gives the first 32 bits behind the point of a root of each of the first `count` primes. */
function fractions(count, root) {
  const found = [];
  for (let number = 2; found.length < count; number++) {
    let isPrime = true;
    for (let divisor = 2; divisor * divisor <= number; divisor++) isPrime &&= number % divisor !== 0;
    if (isPrime) found.push(Math.floor((root(number) % 1) * 2 ** 32) | 0);
  }
  return Int32Array.from(found);
}

/** The words of the block at hand. */
const words = new Int32Array(64);

/** Works the blocks of 64 bytes from `at` on, before `end`, into the state. Engines make this fast as it is written: local
    variables and typed arrays alone, and all blocks in one call. */
function blocks(state, bytes, at, end) {
  let [h0, h1, h2, h3, h4, h5, h6, h7] = state;
  while (at < end) {
    for (let i = 0; i < 16; i++, at += 4) {
      words[i] = (bytes[at] << 24) | (bytes[at + 1] << 16) | (bytes[at + 2] << 8) | bytes[at + 3];
    }
    for (let i = 16; i < 64; i++) {
      const x = words[i - 15];
      const y = words[i - 2];
      const s0 = ((x >>> 7) | (x << 25)) ^ ((x >>> 18) | (x << 14)) ^ (x >>> 3);
      const s1 = ((y >>> 17) | (y << 15)) ^ ((y >>> 19) | (y << 13)) ^ (y >>> 10);
      words[i] = (((words[i - 16] + s0) | 0) + ((words[i - 7] + s1) | 0)) | 0;
    }
    let a = h0;
    let b = h1;
    let c = h2;
    let d = h3;
    let e = h4;
    let f = h5;
    let g = h6;
    let h = h7;
    for (let i = 0; i < 64; i++) {
      const s1 = ((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7));
      const one = (((((h + s1) | 0) + ((e & f) ^ (~e & g))) | 0) + ((ROUND[i] + words[i]) | 0)) | 0;
      const s0 = ((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10));
      const two = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      h = g;
      g = f;
      f = e;
      e = (d + one) | 0;
      d = c;
      c = b;
      b = a;
      a = (one + two) | 0;
    }
    h0 = (h0 + a) | 0;
    h1 = (h1 + b) | 0;
    h2 = (h2 + c) | 0;
    h3 = (h3 + d) | 0;
    h4 = (h4 + e) | 0;
    h5 = (h5 + f) | 0;
    h6 = (h6 + g) | 0;
    h7 = (h7 + h) | 0;
  }
  state.set([h0, h1, h2, h3, h4, h5, h6, h7]);
}

/** Gives the bytes of a text; bytes as they are. */
export function bytesOf(what) {
  return typeof what === 'string' ? encoder.encode(what) : what;
}

/** Gives the digest when all but the last bytes, from `whole` on, are in the state. */
function finish(state, bytes, whole) {
  const rest = bytes.length - whole;
  const end = new Uint8Array(rest < 56 ? 64 : 128);
  end.set(bytes.subarray(whole));
  end[rest] = 0x80;
  const view = new DataView(end.buffer);
  view.setUint32(end.length - 8, Math.floor(bytes.length / 2 ** 29));
  view.setUint32(end.length - 4, (bytes.length * 8) % 2 ** 32);
  blocks(state, end, 0, end.length);
  const digest = new Uint8Array(32);
  const out = new DataView(digest.buffer);
  state.forEach((word, i) => out.setInt32(4 * i, word));
  return digest;
}

/** Gives the 32 bytes of the SHA-256 of a text or of bytes. */
export function sha256(what) {
  const bytes = bytesOf(what);
  const state = Int32Array.from(START);
  const whole = bytes.length - (bytes.length % 64);
  blocks(state, bytes, 0, whole);
  return finish(state, bytes, whole);
}

/** Lets the page do what waits. Not by a timer: those of a page in the background wait for seconds. */
function pause() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}

/** The same of many bytes, while the page stays alive; by the browser's own means where it lends them. */
export async function sha256OfMany(bytes) {
  if (globalThis.crypto?.subtle) return new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
  const state = Int32Array.from(START);
  const whole = bytes.length - (bytes.length % 64);
  for (let at = 0; at < whole; at += STEP) {
    blocks(state, bytes, at, Math.min(at + STEP, whole));
    await pause();
  }
  return finish(state, bytes, whole);
}

/** Gives the 32 bytes of the HMAC-SHA-256 of a text or of bytes under a key, text or bytes as well. */
export function hmac(key, what) {
  const given = bytesOf(key);
  const short = given.length > 64 ? sha256(given) : given;
  const message = bytesOf(what);
  const inner = new Uint8Array(64 + message.length).fill(0x36, 0, 64);
  const outer = new Uint8Array(96).fill(0x5c, 0, 64);
  short.forEach((byte, i) => {
    inner[i] ^= byte;
    outer[i] ^= byte;
  });
  inner.set(message, 64);
  outer.set(sha256(inner), 64);
  return sha256(outer);
}

/** Writes bytes as lower-case hexadecimal digits. */
export function hex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** Writes bytes as base64. */
export function base64(bytes) {
  return btoa(String.fromCharCode(...bytes));
}
