// How things are shown: names, sizes, times, and what can be looked at in the page.
//
// Text of others comes into the page as text alone: no markup is ever made of it.

const UNITS = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
/** Pictures that browsers show without running anything, by type and by ending. */
const PICTURES = { png: 'image/png', jpg: 'image/jpeg', jpeg: 'image/jpeg', gif: 'image/gif', webp: 'image/webp', avif: 'image/avif', bmp: 'image/bmp' };

/** Gives the element of an id. */
export function byId(id) {
  return document.getElementById(id);
}

/** Makes an element with properties and children; texts become text. */
export function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** Makes a name fit to be seen: what would break a line, turn its direction or hide is shown as a sign. */
export function visible(name) {
  return name.replace(/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g, (char) => {
    const code = char.charCodeAt(0);
    if (code < 0x20) return String.fromCharCode(0x2400 + code);
    return `[U+${code.toString(16).toUpperCase().padStart(4, '0')}]`;
  });
}

/** Writes a size: 20 MiB. */
export function size(bytes) {
  let unit = 0;
  let shown = bytes;
  while (shown >= 1024 && unit < UNITS.length - 1) {
    shown /= 1024;
    unit++;
  }
  return `${unit && shown < 10 ? shown.toFixed(1) : Math.round(shown)} ${UNITS[unit]}`;
}

/** Makes a time that people and programs read. */
export function time(text) {
  const when = new Date(text);
  if (Number.isNaN(when.getTime())) return '';
  const shown = when.toLocaleString(undefined, { dateStyle: 'medium', timeStyle: 'short' });
  return make('time', { dateTime: when.toISOString() }, shown);
}

/** Gives the type under which an object is shown as a picture; '': it is not. SVG is a document, and never shown as one. */
export function picture(key, type) {
  const said = type.split(';')[0].trim().toLowerCase();
  if (Object.values(PICTURES).includes(said)) return said;
  const isUnknown = said === '' || said.endsWith('/octet-stream');
  return isUnknown ? PICTURES[key.split('.').pop().toLowerCase()] ?? '' : '';
}

/** Gives bytes as text; null where they are none. */
export function asText(bytes) {
  if (bytes.includes(0)) return null;
  try {
    // The end may be in the middle of a character: it waits for more, which does not come.
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes, { stream: true });
  } catch {
    return null;
  }
}
