"""The licence notices of all crates that are in the binary: name, version, licence, and each text once.

The texts are those in the crates' own sources, which cargo has unpacked; `cargo deny` checks elsewhere that each licence
is one that we take.
"""

import collections
import json
import pathlib
import platform
import subprocess

NAMES = ("license", "licence", "copying", "copyright", "notice", "unlicense")


def crates(root):
    """What the binary is linked from, of others: not what only builds or tests it."""
    target = subprocess.run(["rustc", "-vV"], capture_output=True, text=True, check=True).stdout.split("host: ")[1].split()[0]
    command = ["cargo", "metadata", "--format-version=1", "--locked", "--filter-platform", target]
    metadata = json.loads(subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout)
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    todo = [name for name, package in packages.items() if package["name"] == "twintree" and package["source"] is None]
    found = set()
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        todo += [dep["pkg"] for dep in nodes[name]["deps"] if any(kind["kind"] is None for kind in dep["dep_kinds"])]
    return sorted((packages[name] for name in found if packages[name]["source"]), key=lambda one: (one["name"], one["version"]))


def texts(package):
    """The licence texts in a crate's sources."""
    folder = pathlib.Path(package["manifest_path"]).parent
    found = sorted(path for path in folder.iterdir() if path.is_file() and path.name.lower().startswith(NAMES))
    return [path.read_text(errors="replace").strip() for path in found]


def notices(root):
    """All of it as one text, and the names of crates whose sources hold no licence text."""
    of_text, lacking = collections.defaultdict(list), []
    lines = ["twintree is linked from these crates, each under the licence that is named:", ""]
    for package in crates(root):
        name = f"{package['name']} {package['version']}"
        lines.append(f"  {name}: {package['license'] or 'see its text'}")
        found = texts(package)
        if not found:
            lacking.append(name)
        for text in found:
            of_text[text].append(name)
    if lacking:
        lines += ["", "Their sources name the licence and hold no text of it: " + ", ".join(lacking) + "."]
    for text, names in of_text.items():
        lines += ["", "-" * 78, "The text that comes with " + ", ".join(names) + ":", "", text]
    return "\n".join(lines) + "\n", lacking
