// The page: who is signed in, where in the tree we are, what is being uploaded, and the object that is looked at.
//
// The key is a variable of this script and nowhere else: no storage, no cookie, no address holds it. The place in the
// tree is in the address behind the #, so that the browser's Back works; that never travels to a server.

import { Failure, S3 } from './s3.js';
import { asText, byId, make, picture, size, time, visible } from './show.js';

/** So much of an object is looked at as text, and of a picture, in bytes. */
const MOST_TEXT = 64 << 10;
const MOST_PICTURE = 32 << 20;
/** How often the state is asked for, in milliseconds. */
const STATE_EVERY = 10000;
/** Properties that are shown, by header. */
const PROPERTIES = {
  'content-length': 'Size',
  'content-type': 'Type',
  'last-modified': 'Changed',
  etag: 'ETag',
  'cache-control': 'Cache-Control',
  'content-encoding': 'Encoding',
  'content-disposition': 'Disposition',
  'content-language': 'Language',
};

/** Where S3 is, as the server says; and the client of who is signed in. */
const config = await (await fetch('config.json')).json();
const base = config.port ? new URL(`${config.scheme}://${location.hostname}:${config.port}`).origin : location.origin;
let s3 = null;
/** Where we are: bucket ('' for the list of buckets) and folder; how the listing goes on; what is selected. */
let place = { bucket: '', prefix: '' };
let token = '';
/** Which showing of a folder this is: what an earlier one still waits for is not shown. */
let showing = 0;
const selected = new Set();
/** The object in the dialog, and what its preview still loads. */
let looked = null;

byId('where').textContent = `S3 at ${base}`;

/** Says something to everybody, those who hear the page included. */
function say(words) {
  byId('status').textContent = words;
}

/** Does something that may fail, and says why it did. */
function attempt(act, where = 'status') {
  return async (...given) => {
    try {
      await act(...given);
    } catch (error) {
      if (error.name === 'AbortError') return;
      byId(where).textContent = error.message;
      if (!(error instanceof Failure)) console.error(error);
    }
  };
}

// Signing in.

/** Takes the key, and looks whether it is one. */
async function signIn(event) {
  event.preventDefault();
  const [access, secret] = [byId('access'), byId('secret')];
  byId('signin-trouble').textContent = '';
  const candidate = new S3(base, config.region, { access: access.value.trim(), secret: secret.value.trim() });
  try {
    await candidate.buckets();
  } catch (error) {
    byId('signin-trouble').textContent = error.message;
    (error.code === 'SignatureDoesNotMatch' ? secret : access).focus();
    return;
  }
  s3 = candidate;
  secret.value = '';
  byId('signin').hidden = true;
  byId('inside').hidden = byId('leave').hidden = false;
  await go();
  await showState();
}

/** Forgets the key and all that was shown: the page begins anew. */
function leave() {
  s3 = null;
  location.replace(location.pathname);
}

// The tree.

/** Writes a place as the part of the address behind the #. */
function address(bucket, prefix = '') {
  return bucket ? `#/${bucket}/${encodeURIComponent(prefix)}` : '#/';
}

/** Reads it. */
function placeOf(hash) {
  const [, bucket = '', prefix = ''] = hash.match(/^#\/([^/]*)\/?(.*)$/) ?? [];
  try {
    return { bucket, prefix: decodeURIComponent(prefix) };
  } catch {
    return { bucket, prefix: '' };
  }
}

/** Shows the place that the address names. */
async function go() {
  if (!s3) return;
  place = placeOf(location.hash);
  say('');
  showing++;
  selected.clear();
  byId('entries').replaceChildren();
  byId('more').hidden = byId('empty').hidden = true;
  showPath();
  byId('buckets').hidden = place.bucket !== '';
  byId('folder').hidden = place.bucket === '';
  if (place.bucket) {
    await showFolder();
    byId('folder-title').focus();
  } else {
    await showBuckets();
    byId('buckets-title').focus();
  }
}

/** Shows the way from the buckets to here. */
function showPath() {
  const steps = [make('a', { href: address('') }, 'Buckets')];
  if (place.bucket) steps.push(make('a', { href: address(place.bucket) }, place.bucket));
  let prefix = '';
  for (const piece of place.prefix.split('/').slice(0, -1)) {
    prefix += `${piece}/`;
    steps.push(make('a', { href: address(place.bucket, prefix) }, make('bdi', {}, visible(piece) || '(no name)')));
  }
  steps.at(-1).setAttribute('aria-current', 'page');
  byId('path').replaceChildren(...steps.map((step) => make('li', {}, step)));
}

async function showBuckets() {
  const buckets = await s3.buckets();
  byId('bucket-list').replaceChildren(...buckets.map(({ name }) => make('li', {}, make('a', { href: address(name) }, name))));
  if (!buckets.length) say('There is no bucket yet.');
}

async function createBucket(event) {
  event.preventDefault();
  const name = byId('bucket-name').value.trim();
  await s3.createBucket(name);
  byId('bucket-name').value = '';
  await showBuckets();
  say(`The bucket ${name} is there.`);
}

/** Shows the first page of the folder where we are. */
async function showFolder() {
  const name = place.prefix.split('/').at(-2);
  byId('folder-title').replaceChildren(make('bdi', {}, visible(name ?? place.bucket)));
  await showPage('', ++showing);
}

/** Shows a page of it, the first or one more. */
async function showPage(from, mine) {
  const { bucket, prefix } = place;
  const page = await s3.list(bucket, prefix, { token: from });
  if (mine !== showing) return;
  token = page.next;
  if (!from) {
    byId('entries').replaceChildren();
    const shown = new Set([...page.folders, ...page.objects.map((object) => object.key)]);
    for (const key of selected) if (!shown.has(key)) selected.delete(key);
  }
  const folders = page.folders.map((folder) => row(folder, true));
  // The folder itself may be an object: it is where we are.
  const objects = page.objects.filter((object) => object.key !== prefix).map((object) => row(object.key, false, object));
  const first = [...folders, ...objects][0];
  byId('entries').append(...folders, ...objects);
  byId('more').hidden = !token;
  byId('empty').hidden = byId('entries').children.length > 0;
  showSelection();
  if (from) first?.querySelector('.name')?.focus();
}

/** Makes the row of a folder or an object. */
function row(key, isFolder, object) {
  const name = key.slice(place.prefix.length);
  const shown = visible(name) || '(no name)';
  const check = make('input', { type: 'checkbox', checked: selected.has(key) });
  check.setAttribute('aria-label', `Select ${shown}`);
  check.addEventListener('change', () => {
    selected[check.checked ? 'add' : 'delete'](key);
    showSelection();
  });
  const open = make('button', { type: 'button', className: 'name' }, make('bdi', {}, shown));
  open.addEventListener('click', () => {
    if (isFolder) location.hash = address(place.bucket, key);
    else look(key);
  });
  const heading = make('th', { scope: 'row' }, open);
  const number = make('td', { className: 'number' }, isFolder ? '' : size(object.size));
  const made = make('tr', {}, make('td', {}, check), heading, number, make('td', {}, isFolder ? '' : time(object.modified)));
  made.dataset.key = key;
  return made;
}

function showSelection() {
  const boxes = [...byId('entries').querySelectorAll('input')];
  byId('delete').disabled = selected.size === 0;
  byId('delete').textContent = selected.size ? `Delete selected (${selected.size})` : 'Delete selected';
  byId('all').checked = boxes.length > 0 && boxes.every((box) => box.checked);
  byId('all').indeterminate = selected.size > 0 && !byId('all').checked;
}

function selectAll() {
  for (const line of byId('entries').children) {
    line.querySelector('input').checked = byId('all').checked;
    selected[byId('all').checked ? 'add' : 'delete'](line.dataset.key);
  }
  showSelection();
}

// Deleting.

/** Asks whether these shall go; resolves to yes or no. */
function confirmed(keys) {
  const dialog = byId('confirm');
  const folders = keys.filter((key) => key.endsWith('/')).length;
  const words = keys.length === 1 ? 'This will be deleted:' : `These ${keys.length} will be deleted:`;
  byId('confirm-text').textContent = folders ? `${words.slice(0, -1)}, folders with everything in them:` : words;
  const shown = keys.slice(0, 10).map((key) => make('li', {}, make('bdi', {}, visible(key))));
  if (keys.length > shown.length) shown.push(make('li', {}, `and ${keys.length - shown.length} more`));
  byId('confirm-list').replaceChildren(...shown);
  dialog.returnValue = '';
  dialog.showModal();
  byId('confirm-no').focus();
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => resolve(dialog.returnValue === 'yes'), { once: true });
  });
}

/** Deletes objects, and folders with all that is below them. */
async function remove(keys) {
  const { bucket } = place;
  if (!(await confirmed(keys))) return false;
  say('Deleting …');
  const all = [];
  for (const key of keys) {
    all.push(...(key.endsWith('/') ? await s3.keysBelow(bucket, key) : [key]));
  }
  const stayed = await s3.remove(bucket, all);
  await showFolder();
  byId('folder-title').focus();
  const gone = all.length - stayed.length;
  const words = gone === 1 ? '1 object was deleted.' : `${gone} objects were deleted.`;
  say(stayed.length ? `${words} ${visible(stayed[0].key)} stayed: ${stayed[0].why}` : words);
  return true;
}

// Uploading.

/** Gives the files of what was dropped, those in folders too, each with its path. */
async function dropped(transfer) {
  const entries = Array.from(transfer.items, (item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return Array.from(transfer.files, (file) => ({ file, path: file.name }));
  const found = [];
  const walk = async (entry, above) => {
    const path = above + entry.name;
    if (entry.isFile) {
      found.push({ file: await new Promise((resolve, reject) => entry.file(resolve, reject)), path });
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      // It gives a hundred at a time, and in the end none.
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!some.length) return;
      for (const inner of some) await walk(inner, `${path}/`);
    }
  };
  for (const entry of entries) await walk(entry, '');
  return found;
}

/** Uploads files into the folder where we are, one after the other. */
async function upload(files) {
  if (!files.length) return;
  if (!place.bucket) throw new Failure('Open a bucket first: files are uploaded into it.');
  const { bucket, prefix } = place;
  byId('uploads').hidden = false;
  const waiting = files.map(({ file, path }) => new Upload(bucket, prefix + path, file));
  for (const one of waiting) await one.run(false);
  if (bucket === place.bucket && prefix === place.prefix) await showFolder();
}

/** One file on its way, and its line in the list. */
class Upload {
  constructor(bucket, key, file) {
    Object.assign(this, { bucket, key, file, stop: new AbortController() });
    this.bar = make('progress', { max: Math.max(file.size, 1), value: 0 });
    this.bar.setAttribute('aria-label', `Upload of ${visible(key)}`);
    this.words = make('span', { className: 'quiet' }, 'waits');
    this.button = make('button', { type: 'button' }, 'Cancel');
    this.button.setAttribute('aria-label', `Cancel ${visible(key)}`);
    this.button.onclick = () => this.stop.abort();
    const name = make('span', {}, make('bdi', {}, visible(key)), ' ', this.words);
    this.line = make('li', {}, name, this.button, this.bar);
    byId('upload-list').append(this.line);
  }

  /** Sends it. `replace`: also over an object that is there. */
  async run(replace) {
    const { bucket, key, file, stop } = this;
    const progress = (bytes) => {
      this.bar.value = Math.min(bytes, this.bar.max);
      this.words.textContent = `${size(Math.min(bytes, file.size))} of ${size(file.size)}`;
    };
    try {
      stop.signal.throwIfAborted();
      if (!replace && (await s3.has(bucket, key))) return this.ask();
      progress(0);
      await s3.upload(bucket, key, file, { progress, signal: stop.signal, replace });
      this.end('done', `${size(file.size)}, uploaded`);
      say(`${visible(key)} is uploaded.`);
    } catch (error) {
      if (error.code === 'PreconditionFailed') return this.ask();
      this.end('failed', error.name === 'AbortError' ? 'cancelled' : error.message);
      say(`${visible(key)}: ${this.words.textContent}`);
    }
  }

  /** There is such an object: the person says whether it shall be replaced. */
  ask() {
    this.end('asked', 'is there already');
    this.button.hidden = false;
    this.button.textContent = 'Replace';
    this.button.setAttribute('aria-label', `Replace ${visible(this.key)}`);
    this.button.onclick = async () => {
      this.button.hidden = true;
      await this.run(true);
      if (this.bucket === place.bucket) await showFolder();
    };
    say(`${visible(this.key)} is there already.`);
  }

  end(outcome, words) {
    this.line.dataset.outcome = outcome;
    this.words.textContent = words;
    this.words.className = outcome === 'done' ? 'quiet' : 'trouble';
    this.button.hidden = true;
    this.bar.hidden = true;
  }
}

// One object.

/** Opens the dialog of an object. */
async function look(key) {
  looked?.stop.abort();
  const stop = new AbortController();
  looked = { bucket: place.bucket, key, stop };
  byId('object-title').replaceChildren(make('bdi', {}, visible(key.slice(place.prefix.length)) || '(no name)'));
  byId('preview').replaceChildren();
  byId('properties').replaceChildren();
  byId('object-trouble').textContent = '';
  byId('shared').hidden = true;
  byId('object').showModal();
  byId('object-title').focus();
  await attempt(async () => {
    const headers = await s3.head(looked.bucket, key);
    if (stop.signal.aborted) return;
    const tags = await s3.tags(looked.bucket, key);
    if (stop.signal.aborted) return;
    showProperties(key, headers, tags);
    await preview(key, headers, stop.signal);
  }, 'object-trouble')();
}

function showProperties(key, headers, tags) {
  const found = [['Key', make('bdi', {}, visible(key))]];
  for (const [header, label] of Object.entries(PROPERTIES)) {
    const value = headers.get(header);
    if (!value) continue;
    if (header === 'content-length') found.push([label, `${size(Number(value))} (${value} bytes)`]);
    else found.push([label, header === 'last-modified' ? time(value) : value]);
  }
  for (const [header, value] of headers) {
    const [, checksum] = header.match(/^x-amz-checksum-(?!type)(.+)$/) ?? [];
    const [, metadata] = header.match(/^x-amz-meta-(.+)$/) ?? [];
    if (checksum) found.push([`Checksum ${checksum.toUpperCase()}`, value]);
    if (metadata) found.push([`Metadata ${metadata}`, visible(value)]);
  }
  for (const [name, value] of tags) found.push([`Tag ${visible(name)}`, visible(value)]);
  byId('properties').replaceChildren(...found.flatMap(([label, value]) => [make('dt', {}, label), make('dd', {}, value)]));
}

/** Shows a picture, or the beginning of a text. */
async function preview(key, headers, signal) {
  const length = Number(headers.get('content-length'));
  const type = picture(key, headers.get('content-type') ?? '');
  const put = (...what) => signal.aborted || byId('preview').replaceChildren(...what);
  if (!length) return put(make('p', { className: 'quiet' }, 'It is empty.'));
  if (type && length <= MOST_PICTURE) {
    const bytes = await s3.bytes(looked.bucket, key, length, signal);
    const address = URL.createObjectURL(new Blob([bytes], { type }));
    const image = make('img', { src: address, alt: `Preview of ${visible(key.split('/').pop())}` });
    image.onload = () => URL.revokeObjectURL(address);
    image.onerror = () => put(make('p', { className: 'quiet' }, 'It is no picture that this browser can show.'));
    return put(image);
  }
  const bytes = await s3.bytes(looked.bucket, key, MOST_TEXT, signal);
  const shown = asText(bytes);
  if (shown === null) return put(make('p', { className: 'quiet' }, 'There is no preview of this kind.'));
  const text = make('pre', { tabIndex: 0 }, shown);
  text.setAttribute('aria-label', 'Preview');
  text.setAttribute('role', 'region');
  const rest = length > bytes.length ? [make('p', { className: 'quiet' }, `The first ${size(bytes.length)}.`)] : [];
  put(text, ...rest);
}

/** Has the browser save the object: as a file, whatever it is. */
function download() {
  const name = looked.key.split('/').pop() || 'object';
  const plain = name.replace(/[^\x20-\x7e]|["\\%]/g, '_');
  const disposition = `attachment; filename="${plain}"; filename*=UTF-8''${encodeURIComponent(name).replace(/['()*]/g, (c) => `%${c.charCodeAt(0).toString(16)}`)}`;
  const href = s3.link(looked.bucket, looked.key, 300, { 'response-content-disposition': disposition });
  const link = make('a', { href, download: name, rel: 'noopener noreferrer' });
  document.body.append(link);
  link.click();
  link.remove();
}

function share() {
  byId('link').value = s3.link(looked.bucket, looked.key, Number(byId('expiry').value));
  byId('shared').hidden = false;
  byId('copy').textContent = 'Copy';
  byId('link').focus();
  byId('link').select();
}

/** Copies the link. What is no secure context has no clipboard of its own, but can copy what is selected. */
async function copy() {
  byId('link').select();
  const isCopied = navigator.clipboard
    ? await navigator.clipboard.writeText(byId('link').value).then(() => true, () => false)
    : document.execCommand('copy');
  byId('copy').textContent = isCopied ? 'Copied' : 'Press Ctrl+C';
}

// The state.

async function showState() {
  if (!s3) return;
  const state = config.port ? await (await fetch('state.json')).json() : await s3.page(new URL('state.json', location).pathname);
  const { mount, seal, troubles } = state;
  const files = (count) => (count === 1 ? '1 file' : `${count} files`);
  const sealing = { off: 'off', written: 'of what arrives or changes', all: 'of all files' }[seal.policy];
  const found = [
    ['Health', troubles.length ? troubles.join('; ') : 'ready'],
    ['Mount', !mount ? 'none' : `${mount.up ? 'stands' : 'is gone'} on ${visible(mount.place)} (${mount.passthrough ? 'passthrough' : 'plain'}), ${files(mount.files)} open`],
    ['Sealing', sealing + (seal.passes ? ', the pass over what was there runs' : '')],
    ['Waiting to be sealed', files(seal.waiting)],
    ['Sealed since the start', files(seal.sealed)],
    ['Failed to be sealed', files(seal.failed)],
  ];
  byId('state-list').replaceChildren(...found.flatMap(([label, words]) => [make('dt', {}, label), make('dd', {}, words)]));
}

// What the person does.

/** Lets a file input be opened by its button, and uploads what was chosen. */
function chooser(button, input) {
  byId(button).addEventListener('click', () => byId(input).click());
  byId(input).addEventListener('change', attempt(async () => {
    const files = Array.from(byId(input).files, (file) => ({ file, path: file.webkitRelativePath || file.name }));
    byId(input).value = '';
    await upload(files);
  }));
}

byId('signin').addEventListener('submit', attempt(signIn, 'signin-trouble'));
byId('leave').addEventListener('click', leave);
byId('new-bucket').addEventListener('submit', attempt(createBucket));
byId('refresh').addEventListener('click', attempt(showFolder));
byId('more').addEventListener('click', attempt(() => showPage(token, ++showing)));
byId('all').addEventListener('change', selectAll);
byId('delete').addEventListener('click', attempt(() => remove([...selected])));
byId('download').addEventListener('click', attempt(async () => download(), 'object-trouble'));
byId('share').addEventListener('click', attempt(async () => share(), 'object-trouble'));
byId('copy').addEventListener('click', attempt(copy, 'object-trouble'));
byId('close').addEventListener('click', () => byId('object').close());
byId('object').addEventListener('close', () => {
  // The event comes late: another object may be open by then.
  if (!byId('object').open) looked?.stop.abort();
});
byId('remove').addEventListener('click', attempt(async () => {
  if (!(await remove([looked.key]))) return;
  byId('object').close();
  byId('folder-title').focus();
}, 'object-trouble'));
byId('confirm-no').addEventListener('click', () => byId('confirm').close(''));
byId('confirm-yes').addEventListener('click', () => byId('confirm').close('yes'));
byId('forget').addEventListener('click', () => {
  for (const line of [...byId('upload-list').children]) if (line.dataset.outcome) line.remove();
  byId('uploads').hidden = byId('upload-list').children.length === 0;
});
chooser('choose', 'files');
chooser('choose-folder', 'files-of-folder');

document.addEventListener('dragover', (event) => {
  event.preventDefault();
  document.querySelector('main').classList.toggle('over', s3 !== null && place.bucket !== '');
});
document.addEventListener('dragleave', (event) => {
  if (!event.relatedTarget) document.querySelector('main').classList.remove('over');
});
document.addEventListener('drop', attempt(async (event) => {
  // Whatever is dropped: the browser must not leave the page for it.
  event.preventDefault();
  document.querySelector('main').classList.remove('over');
  if (s3) await upload(await dropped(event.dataTransfer));
}));
addEventListener('hashchange', attempt(go));
addEventListener('beforeunload', (event) => {
  const isUnderWay = [...byId('upload-list').children].some((line) => !line.dataset.outcome);
  if (isUnderWay) event.preventDefault();
});
setInterval(() => {
  // A state that cannot be had is no news while the page is used: the next request says so.
  if (document.visibilityState === 'visible') showState().catch(() => {});
}, STATE_EVERY);
