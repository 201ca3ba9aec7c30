"""Is what many clients saw of one key what one register would have shown them, one request after the other?

Wing and Gong's search, with Lowe's memory of what was tried: an order of all requests is looked for in which each takes
effect between its sending and its answer, and in which every answer is the right one. Every write has an ETag of its
own here, so that the successful conditional writes must form one chain and there is little to try.
"""

import dataclasses
import math

ABSENT = None
ANY = "any"


class Wrong(Exception):
    """The answer is not the one that this state gives."""


@dataclasses.dataclass
class Op:
    """One request on one key: what it wants, what was answered, and when it was sent and answered.

    `kind` is read, write or delete. `needs` is ANY (no condition), ABSENT (If-None-Match: *) or an ETag (If-Match).
    `etag` is what it read or wrote. `status` is None where the answer was lost: it took effect at any time since, or never.
    """

    kind: str
    sent: float
    answered: float = math.inf
    needs: object = ANY
    etag: str = ABSENT
    status: int = None

    def holds(self, state):
        """Does the condition hold?"""
        return self.needs == ANY or self.needs == state

    def after(self, state):
        """The state that it leaves where its answer is right in `state`; raises `Wrong` where it is not."""
        if self.kind == "read":
            right = self.status == 404 if state is ABSENT else (self.status, self.etag) == (200, state)
        elif self.holds(state):
            right = self.status in (200, 204, None)
            state = self.etag if self.kind == "write" else ABSENT
        elif state is ABSENT:
            # Semantics: what a DELETE with If-Match does not find is deleted already.
            right = self.status in (None, 204 if self.kind == "delete" else 404)
        else:
            right = self.status in (None, 412)
        if not right:
            raise Wrong
        return state

    @property
    def only_looks(self):
        """Did it change nothing, whatever the state was?"""
        return self.kind == "read" or self.status in (404, 412)


class Search:
    """Looks for the order; `ops` are sorted by when they were sent, a set of them is a number with a bit for each."""

    def __init__(self, ops):
        self.ops = sorted(ops, key=lambda op: op.sent)
        self.lost = sum(1 << index for index, op in enumerate(self.ops) if op.status is None)
        self.all = (1 << len(self.ops)) - 1

    def window(self, done):
        """What may be next: sent before any that is still to come was answered. Lost ones may be left out for good."""
        passed = done | self.lost
        index = (~passed & (passed + 1)).bit_length() - 1
        first, found = math.inf, []
        while index < len(self.ops) and self.ops[index].sent <= first:
            if not passed >> index & 1:
                found.append(index)
                first = min(first, self.ops[index].answered)
            index += 1
        left = self.lost & ~done
        while left:
            index = (left & -left).bit_length() - 1
            found.append(index)
            left &= left - 1
        return [index for index in found if self.ops[index].sent <= first]

    def look(self, done, state):
        """Takes all that may be next and only looks: to take it as early as it is right excludes no order."""
        while True:
            before = done
            for index in self.window(done):
                try:
                    if self.ops[index].only_looks:
                        self.ops[index].after(state)
                        done |= 1 << index
                except Wrong:
                    continue
            if done == before:
                return done

    def changes(self, done, state):
        """What may be next and changes the state, or may be what changed it later."""
        for index in self.window(done):
            op = self.ops[index]
            if not op.only_looks and (op.holds(state) or (op.kind, op.status, state) == ("delete", 204, ABSENT)):
                yield index

    def found(self, state):
        """Is there such an order that begins in this state?"""
        tried, levels = set(), []
        done = 0
        while True:
            done = self.look(done, state)
            if done | self.lost == self.all:
                return True
            fresh = (done, state) not in tried
            tried.add((done, state))
            levels.append((done, state, self.changes(done, state) if fresh else iter(())))
            while True:
                if not levels:
                    return False
                done, state, choices = levels[-1]
                index = next(choices, None)
                if index is not None:
                    break
                levels.pop()
            done |= 1 << index
            state = self.ops[index].after(state)


def is_linear(ops, state=ABSENT):
    """Could one register, in this state at first, have given all these answers?"""
    return Search(ops).found(state)
