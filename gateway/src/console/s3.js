// What the console asks of S3: buckets, listings, objects, uploads in parts, links.
//
// It knows nothing of the page. Every failure is a `Failure` whose message is a sentence for people.

import { base64, bytesOf, hex, sha256, sha256OfMany } from './sha256.js';
import { encodePath, presign, query, sign } from './sigv4.js';

/** Files above this go in parts of it: 8 MiB. */
export const PART = 8 << 20;
/** S3 takes so many parts. */
const MOST_PARTS = 10000;
/** Parts that travel at once. */
const AT_ONCE = 3;
/** How often a part is sent before its upload has failed. */
const TRIES = 3;
/** Keys that one request deletes. */
const BATCH = 1000;

/** What the codes mean that a person can do something about. */
const WORDS = {
  InvalidAccessKeyId: 'There is no such access key here.',
  SignatureDoesNotMatch: 'The secret key is not the one of this access key.',
  RequestTimeTooSkewed: 'The clock of this computer differs too much from the server’s.',
  NoSuchBucket: 'The bucket is gone.',
  NoSuchKey: 'The object is gone.',
  NoSuchUpload: 'The upload was ended elsewhere.',
  InsufficientStorage: 'The disk is full.',
  PreconditionFailed: 'An object of this name is there already.',
};

/** Why something did not work. `code`: S3's, or '' where nobody answered. */
export class Failure extends Error {
  constructor(message, code = '', status = 0) {
    super(message);
    this.code = code;
    this.status = status;
  }
}

/** Says whether a browser can ask for a key: it takes `.` and `..` between slashes away, however they are written. */
export function canBeAsked(key) {
  return !key.split('/').some((piece) => piece === '.' || piece === '..');
}

/** Reads an XML document. */
function parse(text) {
  return new DOMParser().parseFromString(text, 'application/xml');
}

/** Gives the text of the first element of a name below `node`. */
function text(node, name) {
  return node.getElementsByTagName(name)[0]?.textContent ?? '';
}

/** Writes a key into XML. What XML cannot hold goes as the server shows it: moved to U+10FE00. */
function xml(key) {
  const odd = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '\t': '&#9;', '\n': '&#10;', '\r': '&#13;' };
  return key.replace(/[&<>\u0000-\u001f]/g, (char) => odd[char] ?? String.fromCodePoint(0x10fe00 + char.charCodeAt(0)));
}

/** Gives what a listing says, of which names come percent-encoded. */
function decoded(name) {
  return decodeURIComponent(name);
}

/** The S3 face, for one key. */
export class S3 {
  /** `base`: its origin; `key`: access and secret. */
  constructor(base, region, key) {
    this.base = base;
    this.host = new URL(base).host;
    this.region = region;
    this.key = key;
    /** How far the server's clock is ahead of ours, in milliseconds. */
    this.ahead = 0;
  }

  now() {
    return new Date(Date.now() + this.ahead);
  }

  /** Gives the URL and the headers of a signed request. */
  async signed(method, { bucket = '', key = '', parameters = {}, headers = {}, body, path }) {
    if (!canBeAsked(key)) throw new Failure('Browsers cannot ask for a name with “.” or “..” between slashes.');
    const where = path ?? (bucket ? `/${bucket}/${encodePath(key)}` : '/');
    const payload = hex(await sha256OfMany(bytesOf(body ?? '')));
    const request = { method, host: this.host, path: where, parameters, headers, payload };
    const search = query(parameters);
    return { url: this.base + where + (search && `?${search}`), headers: sign(this.key, this.region, this.now(), request) };
  }

  /** Asks, and gives the Response; its status is a good one. */
  async ask(method, what = {}, again = true) {
    const { url, headers } = await this.signed(method, what);
    let answer;
    try {
      const asked = { method, headers, body: what.body, signal: what.signal, credentials: 'omit', cache: 'no-store', referrerPolicy: 'no-referrer' };
      answer = await fetch(url, asked);
    } catch (error) {
      throw this.unanswered(error);
    }
    if (answer.ok) return answer;
    const failure = this.failure(answer.status, await answer.text());
    if (again && failure.code === 'RequestTimeTooSkewed' && this.follow(answer.headers.get('date'))) return this.ask(method, what, false);
    throw failure;
  }

  /** Sends a body, and tells how many bytes of it have gone; gives the ETag. fetch() does not tell. */
  async send(what, progress) {
    const { url, headers } = await this.signed('PUT', what);
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      const abort = () => request.abort();
      const end = (act) => () => {
        what.signal?.removeEventListener('abort', abort);
        act();
      };
      request.open('PUT', url);
      for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
      request.upload.onprogress = (event) => progress(event.loaded);
      request.onload = end(() => {
        if (request.status < 300) resolve(request.getResponseHeader('etag') ?? '');
        else reject(this.failure(request.status, request.responseText));
      });
      request.onerror = end(() => reject(this.unanswered()));
      request.onabort = end(() => reject(new DOMException('cancelled', 'AbortError')));
      if (what.signal?.aborted) return reject(new DOMException('cancelled', 'AbortError'));
      what.signal?.addEventListener('abort', abort);
      request.send(what.body);
    });
  }

  /** What an answer means that is none. */
  failure(status, body) {
    const document = parse(body);
    const code = text(document, 'Code');
    const said = text(document, 'Message') || `The server answered ${status}.`;
    return new Failure(WORDS[code] ?? (code ? `${said} (${code})` : said), code, status);
  }

  unanswered(error) {
    if (error?.name === 'AbortError') return error;
    return new Failure(`${this.base} does not answer. Is it reachable from here, and its certificate trusted?`);
  }

  /** Takes the server's clock for ours; says whether it said what time it is. */
  follow(date) {
    const theirs = Date.parse(date ?? '');
    if (Number.isNaN(theirs)) return false;
    this.ahead = theirs - Date.now();
    return true;
  }

  /** Gives the names of all buckets. */
  async buckets() {
    const document = parse(await (await this.ask('GET')).text());
    return Array.from(document.getElementsByTagName('Bucket'), (bucket) => ({
      name: text(bucket, 'Name'),
      modified: text(bucket, 'CreationDate'),
    }));
  }

  createBucket(name) {
    return this.ask('PUT', { bucket: name });
  }

  /** Lists a folder, or with `deep` all below it, a page at a time; `next`: where it goes on, or ''. */
  async list(bucket, prefix, { token = '', most = 200, deep = false } = {}) {
    const parameters = { 'list-type': '2', 'encoding-type': 'url', 'max-keys': most, prefix };
    if (!deep) parameters.delimiter = '/';
    if (token) parameters['continuation-token'] = token;
    const document = parse(await (await this.ask('GET', { bucket, parameters })).text());
    const folders = Array.from(document.getElementsByTagName('CommonPrefixes'), (found) => decoded(text(found, 'Prefix')));
    const objects = Array.from(document.getElementsByTagName('Contents'), (found) => ({
      key: decoded(text(found, 'Key')),
      size: Number(text(found, 'Size')),
      modified: text(found, 'LastModified'),
    }));
    return { folders, objects, next: text(document, 'NextContinuationToken') };
  }

  /** Says whether there is an object of exactly this key. */
  async has(bucket, key) {
    const { objects } = await this.list(bucket, key, { most: 1, deep: true });
    return objects[0]?.key === key;
  }

  /** Gives the headers of an object. */
  async head(bucket, key) {
    return (await this.ask('HEAD', { bucket, key, headers: { 'x-amz-checksum-mode': 'ENABLED' } })).headers;
  }

  /** Gives the tags of an object, as pairs. */
  async tags(bucket, key) {
    const document = parse(await (await this.ask('GET', { bucket, key, parameters: { tagging: '' } })).text());
    return Array.from(document.getElementsByTagName('Tag'), (tag) => [text(tag, 'Key'), text(tag, 'Value')]);
  }

  /** Gives the bytes of an object, the first `most` of them. */
  async bytes(bucket, key, most, signal) {
    const answer = await this.ask('GET', { bucket, key, headers: { range: `bytes=0-${most - 1}` }, signal });
    return new Uint8Array(await answer.arrayBuffer());
  }

  /** Uploads a file; `progress` is told how many bytes have gone. `replace`: also over an object that is there. */
  async upload(bucket, key, file, { progress, signal, replace }) {
    const headers = file.type ? { 'content-type': file.type } : {};
    const condition = replace ? {} : { 'if-none-match': '*' };
    if (file.size > PART) return this.uploadInParts(bucket, key, file, { progress, signal, headers, condition });
    const body = new Uint8Array(await file.arrayBuffer());
    await this.send({ bucket, key, headers: { ...headers, ...condition }, body, signal }, progress);
  }

  async uploadInParts(bucket, key, file, { progress, signal, headers, condition }) {
    const started = await this.ask('POST', { bucket, key, parameters: { uploads: '' }, headers, signal });
    const uploadId = text(parse(await started.text()), 'UploadId');
    try {
      const etags = await this.sendParts(bucket, key, file, uploadId, progress, signal);
      const parts = etags.map((etag, i) => `<Part><PartNumber>${i + 1}</PartNumber><ETag>${xml(etag)}</ETag></Part>`);
      const body = `<CompleteMultipartUpload>${parts.join('')}</CompleteMultipartUpload>`;
      const done = await this.ask('POST', { bucket, key, parameters: { uploadId }, headers: condition, body, signal });
      // A 200 may have begun before the work ended: what went wrong then stands in the document.
      const said = await done.text();
      if (parse(said).documentElement.tagName === 'Error') throw this.failure(500, said);
    } catch (error) {
      // Nothing of it may stay on the disk; what cannot be taken away now, the server's upkeep does.
      await this.ask('DELETE', { bucket, key, parameters: { uploadId } }).catch(() => {});
      throw error;
    }
  }

  /** Sends all parts, some at once; gives their ETags in order. */
  async sendParts(bucket, key, file, uploadId, progress, signal) {
    const size = Math.max(PART, Math.ceil(file.size / MOST_PARTS / PART) * PART);
    const count = Math.ceil(file.size / size);
    const [etags, gone] = [new Array(count), new Array(count).fill(0)];
    let next = 0;
    // The first failure stops the others.
    const stop = new AbortController();
    const all = AbortSignal.any([signal, stop.signal]);
    const work = async () => {
      while (next < count) {
        const part = next++;
        const body = new Uint8Array(await file.slice(part * size, (part + 1) * size).arrayBuffer());
        const tell = (bytes) => {
          gone[part] = Math.min(bytes, body.length);
          progress(gone.reduce((sum, some) => sum + some));
        };
        const what = { bucket, key, parameters: { partNumber: part + 1, uploadId }, body, signal: all };
        etags[part] = await this.tryToSend(what, tell);
        tell(body.length);
      }
    };
    try {
      await Promise.all(Array.from({ length: AT_ONCE }, work));
    } catch (error) {
      stop.abort();
      throw error;
    }
    return etags;
  }

  /** Sends again what failed for no fault of the request's. */
  async tryToSend(what, progress) {
    for (let tried = 1; ; tried++) {
      try {
        return await this.send(what, progress);
      } catch (error) {
        const mayHelp = error instanceof Failure && (error.status === 0 || error.status >= 500);
        if (tried === TRIES || !mayHelp) throw error;
      }
    }
  }

  /** Deletes objects; gives those that stayed, each with why. */
  async remove(bucket, keys) {
    const stayed = [];
    for (let at = 0; at < keys.length; at += BATCH) {
      const objects = keys.slice(at, at + BATCH).map((key) => `<Object><Key>${xml(key)}</Key></Object>`);
      const body = `<Delete><Quiet>true</Quiet>${objects.join('')}</Delete>`;
      const headers = { 'content-type': 'application/xml', 'x-amz-checksum-sha256': base64(sha256(body)) };
      const document = parse(await (await this.ask('POST', { bucket, parameters: { delete: '' }, headers, body })).text());
      for (const error of document.getElementsByTagName('Error')) {
        stayed.push({ key: text(error, 'Key'), why: text(error, 'Message') });
      }
    }
    return stayed;
  }

  /** Gives every key below a prefix. */
  async keysBelow(bucket, prefix) {
    const keys = [];
    let token = '';
    do {
      const page = await this.list(bucket, prefix, { token, most: BATCH, deep: true });
      keys.push(...page.objects.map((object) => object.key));
      token = page.next;
    } while (token);
    return keys;
  }

  /** Makes a link to an object that is good for `seconds`; `parameters`: response-* headers, for instance. */
  link(bucket, key, seconds, parameters = {}) {
    if (!canBeAsked(key)) throw new Failure('Browsers cannot open a link to a name with “.” or “..” between slashes.');
    const path = `/${bucket}/${encodePath(key)}`;
    const request = { method: 'GET', host: this.host, path, parameters, headers: {} };
    return `${this.base}${path}?${presign(this.key, this.region, this.now(), seconds, request)}`;
  }

  /** Asks the console's own page of the S3 face, where it lies beside the objects. */
  async page(path) {
    return (await this.ask('GET', { path })).json();
  }
}
