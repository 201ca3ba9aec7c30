"""What clients were promised at any moment, from the marks that they left: which values a name may have.

A name (a key, a part of an upload, a bucket) is a register. Each operation on it has a number, a start, and
an acknowledgement when it was answered. After a cut it may hold what any operation put that had started, but
for those that were acknowledged before another began that is acknowledged now.
"""

import threading

ABSENT = None
NEVER = float("inf")


class Operation:
    """One change of a register, and where in the log it began and was acknowledged."""

    def __init__(self, name, value):
        self.name, self.value = name, value
        self.started = self.acked = NEVER


class Promises:
    """All operations of a run. `marks` is where they leave their marks: a function of words."""

    def __init__(self, marks):
        self._marks, self._lock = marks, threading.Lock()
        self.operations = []
        self.bodies = {}

    def begin(self, name, value):
        """Says that a register is about to get a value; the number of the operation."""
        with self._lock:
            self.operations.append(Operation(name, value))
            number = len(self.operations) - 1
        self._marks("start", number, name, value)
        return number

    def ack(self, number):
        """Says that the answer was read."""
        self._marks("ack", number)

    def place(self, marks):
        """Learns from a log where everything stands."""
        for position, words in marks:
            if words[0] == "start":
                self.operations[words[1]].started = position
            elif words[0] == "ack":
                self.operations[words[1]].acked = position

    def at(self, position):
        """What was promised when the log had this many events: by name, the values that it may have."""
        by_name = {}
        for operation in self.operations:
            if operation.started < position:
                by_name.setdefault(operation.name, []).append(operation)
        return {name: allowed(operations, position) for name, operations in by_name.items()}

    def acks_before(self, position):
        """How many answers had been read."""
        return sum(operation.acked < position for operation in self.operations)


def allowed(operations, position):
    """The values that a register may have; `operations` are those that had started."""
    acked = [operation.started for operation in operations if operation.acked < position]
    latest = max(acked, default=-1)
    values = {operation.value for operation in operations if operation.acked >= position or operation.acked > latest}
    return values if acked else values | {ABSENT}
