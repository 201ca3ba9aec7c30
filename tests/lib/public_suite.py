"""Which cases of the public suite pass, and why each other one does not."""

import ast


def short(name):
    """A case's name without the folders: `test_s3.py::test_x`."""
    return name.rsplit("/", 1)[-1]


def listed(path):
    """The names in a passing list."""
    return {line.strip() for line in path.read_text().splitlines() if line.strip()} if path.exists() else set()


def why(outcomes, name):
    """The first words of a case's failure, by its short name."""
    return next((f"{outcome}: {words}" for long, (outcome, words) in outcomes.items() if short(long) == name), "not collected")


def markers(suite):
    """The pytest markers of each case, read from the suite's source."""
    found = {}
    for file in sorted((suite / "s3tests" / "functional").glob("test_*.py")):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                marks = set()
                for decorator in node.decorator_list:
                    target = decorator.func if isinstance(decorator, ast.Call) else decorator
                    if isinstance(target, ast.Attribute):
                        marks.add(target.attr)
                found[f"{file.name}::{node.name}"] = marks
    return found


def report(outcomes, suite):
    """tests/s3-tests.md is made of this; the reasons come later in this file's life."""
    raise NotImplementedError
