"""Where a key lies in the annex, and which key lies there, as FORMATS (*Annex*) says it: written without a look at the product's code."""

import re
import unicodedata

PIECE = 200
"""Bytes of a name before its ending, at most."""
TOP = ".annex"


def unit(character, whole):
    """One character as it stands in a name."""
    if whole or character in "%=" or unicodedata.category(character) == "Cc":
        return "".join(f"%{byte:02X}" for byte in character.encode())
    return character


def names(component, ending):
    """The names that one component of a key has; each but the last is a folder in which it goes on."""
    whole = component in (".", "..")
    cut = [""]
    for part in [unit(character, whole) for character in component] or ["%"]:
        if len((cut[-1] + part).encode()) > PIECE:
            cut.append("")
        cut[-1] += part
    return [name + "=c" for name in cut[:-1]] + [cut[-1] + ending]


def place(key):
    """The path of a key's body below the annex."""
    *folders, last = key.split("/")
    return "/".join([name for folder in folders for name in names(folder, "=d")] + names(last, "=f"))


def key_at(path):
    """The key of which a path below the annex is; of a folder, what its keys begin with."""
    key = ""
    for name in path.split("/"):
        piece, ending = name[:-2], name[-2:]
        piece = "" if piece == "%" else piece
        octets = re.sub(rb"%([0-9A-F]{2})", lambda found: bytes([int(found[1], 16)]), piece.encode())
        key += octets.decode() + {"=c": "", "=d": "/", "=f": ""}[ending]
    return key
