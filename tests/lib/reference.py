"""The reference: what a tree of buckets must hold after what S3, the mount and a direct writer did to it.

It opens nothing and asks nobody. Paths begin with their bucket, so that a rename across buckets is a rename. What a
file shows under all its names is one `Body`; an S3 key lies in the tree or in the annex (FORMATS, *Annex*), and the
annex shows where the tree has nothing. Calls of POSIX that the tree does not allow give the kernel's number.
"""

import errno
import hashlib
import re

from . import annex

SURE = "the MD5"
EITHER = "the MD5 or a derived one, and a condition may name the MD5"
LOOSE = "the MD5 or a derived one"
DERIVED = "a derived one"
MODE = 0o644
PERHAPS = "perhaps"


def is_derived(tag):
    """Whether an ETag is one that no client takes for an MD5."""
    return re.fullmatch("[0-9a-f]{32}-1", tag) is not None


class Body:
    """An object, or an inode with all its names."""

    def __init__(self, data, tag=SURE, mode=MODE, half=None):
        self.data, self.tag, self.mode = data, tag, mode
        self.half = half or {}
        """The object half: `meta` and `tags`."""
        self.modified = None
        """mtime where it must be what the last look saw, or what was set."""
        self.seen = None
        """The ETag at the last look; None: it is new."""
        self.tags = set()
        """The ETags that were seen of these very bytes."""
        self.moved = False
        """Changed since then, so that a derived ETag must be another one; `PERHAPS`: it may be."""
        self.former = None
        """The derived ETag before it was found to be what S3 wrote: it names this very content still."""
        self.opens = 0
        """Writable opens in the mount."""
        self.closing = False
        """Closed in the mount, and the kernel may not have said so to the daemon yet."""

    def md5(self):
        return hashlib.md5(self.data).hexdigest()

    def rewritten(self, data):
        """Its bytes were changed otherwise than by S3."""
        self.data, self.tag, self.moved, self.former, self.modified, self.tags = data, DERIVED, True, None, None, set()

    def touched(self):
        """A direct writer changed something else of it, and nobody can know that it was nothing else."""
        if self.tag == SURE:
            self.tag = EITHER
        self.moved, self.former = True, None

    def kept(self):
        """One of our faces changed something else of it, and says that the content is the same."""
        if self.opens and self.tag != DERIVED:
            self.tag = LOOSE  # no record is written while somebody may write
        elif self.tag == EITHER and self.seen == self.md5():
            self.tag = SURE
        self.moved, self.former = True, None

    def changed(self, by_us):
        (self.kept if by_us else self.touched)()

    def set_times(self, at, by_us):
        """Who sets mtime directly may have written as well; and of what is not known to be the same, we know no more then."""
        if by_us:
            if self.tag == EITHER and self.seen != self.md5() and not self.opens:
                self.tag = LOOSE  # a condition may have had it read meanwhile
            self.kept()
        else:
            self.rewritten(self.data)
        self.modified = at

    def said(self, half, by_us):
        """The object half was set."""
        same, moved = half == self.half, self.moved
        self.half = half
        self.changed(by_us)
        if same:
            self.moved = moved or PERHAPS  # some filesystems leave ctime alone where an xattr stays as it was

    def opened(self):
        self.opens += 1
        self.moved = True

    def closed(self):
        self.opens -= 1
        self.closing = True
        # Of several, the latest open counts, and that may be the one that is left.
        self.moved = (self.moved or PERHAPS) if self.opens else True

    def may_show(self, tag, fine):
        """Is this ETag right, after what was seen before? `fine`: each change has a time of its own here."""
        if not self.opens and (self.tag == SURE or self.tag in (EITHER, LOOSE) and tag == self.md5()):
            return tag == self.md5()
        if not is_derived(tag):
            return False
        if self.seen is None or not is_derived(self.seen):
            return True
        if self.moved == PERHAPS:
            return True
        return (tag != self.seen or not fine) if self.moved else tag == self.seen

    def was_seen(self, tag):
        if not self.moved and not is_derived(tag) and self.seen and is_derived(self.seen):
            self.former = self.seen
        self.seen, self.moved = tag, False
        self.tags.add(tag)

    def is_tagged(self, tag):
        """Does a client's condition with this ETag hold? None: that cannot be known."""
        if self.tag == LOOSE and tag != self.seen and (tag == self.md5() or tag in self.tags) and not self.opens:
            return None
        if self.opens:
            return tag == self.seen
        if tag == self.md5() and self.tag in (SURE, EITHER):
            return True
        return tag in (self.seen, self.former)


class Dir:
    """A directory: made by S3's face (so that it goes with its last child), and the object `dir/`."""

    def __init__(self, ours=False):
        self.ours, self.object = ours, None


def parent(path):
    """The path above; empty above a bucket."""
    return path.rpartition("/")[0]


def above(key):
    """The folders above a key, outermost first; of `a/b/` also `a/b`."""
    return [key[:at] for at, character in enumerate(key) if character == "/"]


def is_native(key):
    """Can a path hold the key, as far as its text says?"""
    return not any(name in ("", ".", "..") for name in key.removesuffix("/").split("/"))


class Model:
    """The tree and the annexes."""

    def __init__(self, buckets):
        self.files, self.dirs, self.annex = {}, {name: Dir() for name in buckets}, {}

    # What is there.

    def buckets(self):
        return sorted(path for path in self.dirs if "/" not in path)

    def children(self, path):
        below = path + "/"
        return {name[len(below):] for name in (*self.files, *self.dirs) if name.startswith(below) and "/" not in name[len(below):]}

    def names(self, body):
        """How many names an inode has."""
        return sum(other is body for other in self.files.values())

    def objects(self, bucket):
        """Every key of a bucket; what lies in the tree hides the annex."""
        found = {key: body for (where, key), body in self.annex.items() if where == bucket}
        below = bucket + "/"
        found |= {path[len(below):] + "/": made.object for path, made in self.dirs.items() if path.startswith(below) and made.object}
        return found | {path[len(below):]: body for path, body in self.files.items() if path.startswith(below)}

    def get(self, bucket, key):
        return self.objects(bucket).get(key)

    def annexed(self):
        """What the mount shows of the annexes: paths, each with its body, or None for a folder."""
        found = {}
        for (bucket, key), body in self.annex.items():
            path = f"{bucket}/{annex.TOP}/{annex.place(key)}"
            found |= dict.fromkeys(above(path)[1:]) | {path: body}
        return found

    # What S3 does.

    def put(self, bucket, key, body):
        path = f"{bucket}/{key}"
        if not is_native(key):
            self.annex[bucket, key] = body
        elif key.endswith("/"):
            self._put_folder(bucket, key, body)
        elif self._blocked(path) or path in self.dirs or (bucket, key) in self.annex and path not in self.files:
            self.annex[bucket, key] = body
        else:
            self._make_folders(path, ours=True)
            self.takes_name(path, by_us=True, mode_for=body)
            self.files[path] = body

    def _put_folder(self, bucket, key, body):
        path = f"{bucket}/{key}".removesuffix("/")
        made = self.dirs.get(path)
        if body.data:
            if made:
                made.object = None
            self.annex[bucket, key] = body
        elif self._blocked(path + "/") or (bucket, key) in self.annex and not (made and made.object):
            self.annex[bucket, key] = body
        else:
            self._make_folders(path + "/", ours=True)
            self.dirs[path].object = body

    def delete(self, bucket, key):
        path = f"{bucket}/{key}"
        annexed = self.annex.pop((bucket, key), None)
        native = None
        if key.endswith("/"):
            made = self.dirs.get(path.removesuffix("/")) if is_native(key) else None
            native = made and made.object
            if made:
                made.object = None
        elif path in self.files:
            native = self.files[path]
            self.takes_name(path, by_us=True)
            del self.files[path]
        if (native or not annexed) and is_native(key):
            self._prune(path)

    def _prune(self, path):
        for folder in reversed(above(path)[1:]):
            made = self.dirs.get(folder)
            if made is None and folder not in self.files:
                continue
            if made is None or not made.ours or made.object or self.children(folder):
                return
            del self.dirs[folder]

    def _blocked(self, path):
        return any(folder in self.files for folder in above(path))

    def _make_folders(self, path, ours):
        for folder in above(path):
            self.dirs.setdefault(folder, Dir(ours))

    def takes_name(self, path, by_us, mode_for=None):
        """A name is about to be taken from what lies there: its other names show another ctime."""
        old = self.files.get(path)
        if old is not None and self.names(old) > 1:
            old.changed(by_us)
        if old is not None and mode_for:
            mode_for.mode = old.mode

    def make_bucket(self, name):
        self.dirs[name] = Dir()

    def holds_objects(self, bucket):
        return bool(self.objects(bucket))

    def remove_bucket(self, name):
        """With a person's empty folders."""
        for path in [path for path in self.dirs if path == name or path.startswith(name + "/")]:
            del self.dirs[path]

    # What POSIX calls do. They give the kernel's number, or 0.

    def way(self, path):
        """What is wrong with the way to a path."""
        for folder in above(path):
            if folder in self.files:
                return errno.ENOTDIR
            if folder not in self.dirs:
                return errno.ENOENT
        return 0

    def free(self, path):
        """Could something be made here?"""
        return self.way(path) or (errno.EEXIST if path in self.files or path in self.dirs else 0)

    def writable(self, path):
        """Could a file be opened for writing here, or made?"""
        return self.way(path) or (errno.EISDIR if path in self.dirs else 0)

    def make_folder(self, path):
        wrong = self.free(path)
        if not wrong:
            self.dirs[path] = Dir()
        return wrong

    def remove_folder(self, path):
        wrong = self.way(path) or (errno.ENOTDIR if path in self.files else 0 if path in self.dirs else errno.ENOENT)
        wrong = wrong or (errno.ENOTEMPTY if self.children(path) else 0)
        if not wrong:
            del self.dirs[path]
        return wrong

    def unlink(self, path, by_us):
        wrong = self.way(path) or (errno.EISDIR if path in self.dirs else 0 if path in self.files else errno.ENOENT)
        if not wrong:
            self.takes_name(path, by_us)
            del self.files[path]
        return wrong

    def link(self, path, to, by_us):
        wrong = self.free(to)
        if not wrong:
            self.files[path].changed(by_us)
            self.files[to] = self.files[path]
        return wrong

    def rename(self, path, to, by_us, how=""):
        """`how`: empty, `noreplace` or `exchange`."""
        wrong = self.way(to) or self._refusal(path, to, how)
        if wrong or path == to or path in self.files and self.files.get(to) is self.files[path]:
            return wrong
        for name in {path, to} if how == "exchange" else {path}:
            if name in self.files:
                self.files[name].changed(by_us)
                # xfs: of two that are exchanged only one shows another ctime.
                self.files[name].moved = PERHAPS if how == "exchange" else True
        if how == "exchange":
            self._exchange(path, to)
            return 0
        if path in self.files:
            self.takes_name(to, by_us)
            self.files[to] = self.files.pop(path)
        else:
            self.dirs.pop(to, None)
            self._move(path, to)
        return 0

    def _refusal(self, path, to, how):
        there = to in self.files or to in self.dirs
        if how == "noreplace" and there:
            return errno.EEXIST
        if how == "exchange" and not there:
            return errno.ENOENT
        if to.startswith(path + "/"):
            return errno.EINVAL
        if path.startswith(to + "/"):
            return errno.EINVAL if how == "exchange" else errno.ENOTEMPTY
        if how == "exchange" or path == to or not there:
            return 0
        if path in self.files:
            return errno.EISDIR if to in self.dirs else 0
        if to in self.files:
            return errno.ENOTDIR
        return errno.ENOTEMPTY if self.children(to) else 0

    def _move(self, path, to):
        for table in (self.files, self.dirs):
            for name in [name for name in table if name == path or name.startswith(path + "/")]:
                table[to + name[len(path):]] = table.pop(name)

    def _exchange(self, path, to):
        self._move(path, "aside")
        self._move(to, path)
        self._move("aside", to)

    def rename_bucket(self, path, to):
        self.dirs.pop(to, None)
        self._move(path, to)
        for where, key in [place for place in self.annex if place[0] == path]:
            self.annex[to, key] = self.annex.pop((where, key))

    def remove_tree(self, path):
        """rm -r by a direct writer."""
        for name in [name for name in self.files if name.startswith(path + "/")]:
            self.unlink(name, by_us=False)
        for name in [name for name in self.dirs if name == path or name.startswith(path + "/")]:
            del self.dirs[name]


def page(keys, prefix, delimiter, after, most):
    """One page by S3's rule over all keys, naively: (keys and common prefixes in order, does more follow)."""
    rolled = set()
    for key in (key for key in keys if key.startswith(prefix)):
        at = key.find(delimiter, len(prefix)) if delimiter else -1
        rolled.add(key if at < 0 else key[:at + len(delimiter)])
    texts = sorted((text for text in rolled if text > after), key=str.encode)
    return texts[:most], len(texts) > most
