"""The functions in the server against a plain model of them, call by call: every answer, key and word that is said.

Nodes come, die, sleep, say things twice and leave batches out; the server's clock goes on and back, it loses its last
writes or all it has, and may drop keys. The clock and what ``INFO`` says are the test's: else nothing of that is quick.
"""

from __future__ import annotations

import copy
import json
import random
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis

from exporter.broker.functions import library
from tests.servers.valkey import Server

KINDS = "ucpt"
INDEX = {"p": "m", "t": "y"}
WORDS = {"p": "JL", "t": "TU"}
LEASES = (2000, 5000)  # ms, of nodes
DAY = 86_400_000
_DUMP = """
local found = {}
for _, key in ipairs(redis.call('KEYS', ARGV[1] .. ':*')) do
  local kind = redis.call('TYPE', key).ok
  local read = {zset = {'ZRANGE', key, 0, -1, 'WITHSCORES'}, hash = {'HGETALL', key}, set = {'SMEMBERS', key}}
  found[string.sub(key, #ARGV[1] + 2)] = {kind, redis.call(unpack(read[kind]))}
end
return cjson.encode(found)
"""


class Difference(AssertionError):
    """The server and the model disagree."""


@dataclass
class Stored:
    """What the server should have. Times in milliseconds of its clock."""

    deadlines: dict[str, int] = field(default_factory=dict)
    seq: dict[str, int] = field(default_factory=dict)
    taken: dict[str, list[str]] = field(default_factory=dict)  # of those that have not told all they hold
    labels: dict[str, str] = field(default_factory=dict)
    connections: dict[str, int] = field(default_factory=dict)
    dying: set[str] = field(default_factory=set)
    holds: dict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))  # by incarnation and kind
    index: dict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))  # by kind, conversation
    state: dict[str, str] = field(default_factory=dict)

    def holders(self, kind: str) -> Counter[str]:
        return Counter(entry for (_, one), held in self.holds.items() if one == kind for entry in held)

    def keys(self) -> dict[str, Any]:
        """As the server has them."""
        nodes = {
            f"n:{inc}": {"seq": str(seq), "label": self.labels[inc]}
            | ({"taken": " ".join(self.taken[inc])} if inc in self.taken else {})
            for inc, seq in self.seq.items()
        }
        return {
            key: value
            for key, value in (
                ("nodes", {inc: str(deadline) for inc, deadline in self.deadlines.items()}),
                *nodes.items(),
                ("conns", {inc: str(count) for inc, count in self.connections.items()}),
                ("syncing", set(self.taken)),
                ("dying", self.dying),
                *((f"h:{inc}:{kind}", held) for (inc, kind), held in self.holds.items()),
                *((kind, {entry: str(n) for entry, n in self.holders(kind).items()}) for kind in KINDS),
                *((f"{INDEX[kind]}:{conversation}", users) for (kind, conversation), users in self.index.items()),
                ("state", self.state),
            )
            if value
        }

    # --- what the functions share ---------------------------------------------------------------------------

    def settles(self) -> int:
        return int(self.state.get("settles", "0"))

    def unsettle(self, until: int) -> None:
        if until > self.settles():
            self.state["settles"] = str(until)

    def rein_in(self, time: int, lease: int) -> None:
        latest, self.state["latest"] = int(self.state.get("latest", "0")), str(time)
        if time < latest:
            self.deadlines = {inc: min(until, time + lease) for inc, until in self.deadlines.items()}
            if self.settles() > time + lease:
                self.state["settles"] = str(time + lease)

    def reprieve(self, time: int, lease: int) -> None:
        if all(until < time + lease // 2 for until in self.deadlines.values()):
            self.deadlines = dict.fromkeys(self.deadlines, time + lease)

    def leaves(self, inc: str) -> list[str]:
        """Out of the living; what it had taken over."""
        for known in (self.deadlines, self.seq, self.labels, self.connections):
            known.pop(inc, None)  # type: ignore[attr-defined]
        return self.taken.pop(inc, [])

    def begin_anew(self, time: int, lease: int, evicted: str, run: str, comes: bool) -> None:
        before, is_another = self.state.get("evicted"), self.state.get("run") != run
        if before != evicted or (comes and is_another and all(until <= time for until in self.deadlines.values())):
            remains = before is not None or evicted != "0" or self.holders("c")
            index = self.index
            self.__init__()  # type: ignore[misc]
            self.index = index  # whoever takes part is found by conversation only: that is left until it is held
            self.state = {"evicted": evicted} | ({"remains": "1"} if remains else {})
        if self.state.get("run") != run:
            self.state["run"] = run
            self.unsettle(time + lease)

    def count(self, kind: str, entries: Iterable[str], by: int, said: list[tuple[str, str]], time: int) -> None:
        """One holder more or fewer than the entries had, who have it already."""
        holders, first = self.holders(kind), []
        for entry in entries:
            after, word = holders[entry], ""
            if kind in INDEX:
                conversation, user = entry.split("\n")
                if not after:
                    self.index[kind, conversation].discard(user)
                    word = WORDS[kind][1]
                elif after == 1 and by == 1:
                    self.index[kind, conversation].add(user)
                    word = WORDS[kind][0]
                elif kind == "p":
                    word = "S" if by == 1 else "O" if after == 1 else ""
                if word:
                    said.append((conversation, word + user))
            elif kind == "c" and after == 1 and by == 1:
                first.append(entry)
        if "remains" in self.state:
            for conversation in first:
                ghosts = self.index.pop(("p", conversation), set())
                self.index.pop(("t", conversation), None)
                if self.settles() <= time:
                    said += [(conversation, f"L{user}") for user in ghosts]


class Cluster:
    """A cluster's keys in a real server, and what should be there."""

    def __init__(self, server: Server, alter: Callable[[str], str]) -> None:
        name, text = library()
        digest = uuid.uuid4().hex[:8]
        self.name, self.root = f"{name}_{digest}", f"messaging:{{{digest}}}"
        self.clock, self.info = f"clock:{digest}", f"info:{digest}"
        altered = alter(text).replace(name, self.name)
        altered = altered.replace("redis.call('TIME')", f"redis.call('LRANGE', '{self.clock}', '0', '1')")
        info = "redis.call('INFO', 'server', 'memory', 'stats')"
        altered = altered.replace(info, f"redis.call('GET', '{self.info}')")
        self.client = server.client()
        self.raw = server.client(decode_responses=False)
        self.client.function_load(altered)
        self.dump = self.client.register_script(_DUMP)
        self.hearing = server.client().pubsub()
        self.rooms = [f"room{n}" for n in range(3)]
        self.hearing.ssubscribe(*(f"{self.root}:c:{room}" for room in self.rooms))
        self.stored = Stored()
        self.time = 1_800_000_000_000
        self.policy, self.evicted, self.run = "noeviction", 0, 0
        self.saved: tuple[Stored, dict[bytes, bytes]] = (Stored(), {})
        self.sleeping: list[Node] = []

    def close(self) -> None:
        self.hearing.close()
        self.client.close()
        self.raw.close()

    def call(self, function: str, *arguments: object) -> Any:
        pipe = self.client.pipeline(transaction=False)
        pipe.delete(self.clock)
        pipe.rpush(self.clock, self.time // 1000, self.time % 1000 * 1000 + 7)
        pipe.set(self.info, f"run_id:{self.run}\r\nmaxmemory_policy:{self.policy}\r\nevicted_keys:{self.evicted}\r\n")
        pipe.fcall(f"{self.name}_{function}", 1, self.root, *map(str, arguments))
        reply = pipe.execute(raise_on_error=False)[-1]
        return str(reply) if isinstance(reply, redis.ResponseError) else reply

    def expect(self, reply: Any, expected: Any) -> None:
        if reply != expected:
            raise Difference(f"answered {reply}, not {expected}")

    def figures(self) -> list[Any]:
        stored, time = self.stored, self.time
        return [
            str(time * 1000 + 7),
            sum(until > time for until in stored.deadlines.values()),
            sum(stored.connections.values()),
            *(len(stored.holders(kind)) for kind in KINDS),
            len(stored.dying),
            len(stored.taken),
            max(0, stored.settles() - time),
            int(stored.state.get("came", "0")),
        ]

    def compare(self, said: Sequence[tuple[str, str]] = ()) -> None:
        """All keys, and what was said of each user in which order."""
        found, expected = self.keys(), self.stored.keys()
        if found != expected:
            raise Difference(f"{found}, not {expected}")
        held = self.stored.holders("c")
        for kind in INDEX:
            for (one, conversation), users in self.stored.index.items():
                if one == kind and (conversation in held or "remains" not in self.stored.state):
                    pairs = {entry for entry in self.stored.holders(kind) if entry.startswith(f"{conversation}\n")}
                    if {f"{conversation}\n{user}" for user in users} != pairs:
                        raise Difference(f"{users} in {conversation}, not {pairs}")
        heard = self.heard()
        if _by_user(heard) != _by_user(said):
            raise Difference(f"heard {heard}, not {said}")

    def keys(self) -> dict[str, Any]:
        found = {}
        for key, (kind, value) in json.loads(self.dump(args=[self.root])).items():
            found[key] = set(value) if kind == "set" else dict(zip(value[::2], value[1::2], strict=True))
        return found

    def heard(self) -> list[tuple[str, str]]:
        self.hearing.ping()
        found: list[tuple[str, str]] = []
        while True:
            message = self.hearing.parse_response()
            if message in ("PONG", ["pong", ""]):
                return found
            if message[0] == "smessage":
                conversation = message[1].rpartition(":")[2]
                found += [(conversation, line) for line in message[2].split("\n")[1:]]

    # --- calls ----------------------------------------------------------------------------------------------

    def refused(self, lease: int, comes: bool = False) -> str | None:
        if self.policy != "noeviction":
            if "evicted" in self.stored.state:
                self.stored.state["evicted"] = "?"
            return f"EVICTS the broker's maxmemory-policy is {self.policy}"
        self.stored.begin_anew(self.time, lease, str(self.evicted), str(self.run), comes)
        return None

    def register(self, inc: str, lease: int, connections: int, label: str, *old: str) -> bool:
        reply = self.call("register", inc, lease, connections, label, *old)
        if why := self.refused(lease, comes=not old):
            self.expect(reply, why)
            self.compare()
            return False
        stored = self.stored
        stored.rein_in(self.time, lease)
        stored.state["came"] = str(int(stored.state.get("came", "0")) + 1)
        if old:
            stored.reprieve(self.time, lease)
        taken = []
        for one in old:
            if one in stored.deadlines:
                taken += [*stored.leaves(one), one]
        stored.deadlines[inc], stored.seq[inc], stored.labels[inc] = self.time + lease, 0, label
        stored.taken[inc], stored.connections[inc] = taken, connections
        self.expect(reply, self.figures())
        self.compare()
        return True

    def apply(self, inc: str, lease: int, seq: int, connections: int, complete: bool, changes: Sequence[str]) -> str:
        reply = self.call("apply", inc, lease, seq, connections, int(complete), *changes)
        stored, said = self.stored, list[tuple[str, str]]()
        at = stored.seq.get(inc)
        word = "gone" if at is None else "ok" if seq <= at + 1 else "lost"
        self.expect(reply, word)
        if word == "lost":
            stored.unsettle(self.time + lease)
        elif at is not None and seq == at + 1:
            stored.seq[inc], stored.connections[inc] = seq, connections
            for sign, run in _runs(changes):
                for kind in KINDS if sign == "+" else reversed(KINDS):
                    mine = stored.holds[inc, kind]
                    named = dict.fromkeys(change[1:] for change in run if change[0] == kind)
                    changed = [entry for entry in named if (entry in mine) is (sign == "-")]
                    (mine.update if sign == "+" else mine.difference_update)(changed)
                    stored.count(kind, changed, 1 if sign == "+" else -1, said, self.time)
            if complete:
                stored.dying |= set(stored.taken.pop(inc, []))
        self.compare(said)
        return word

    def beat(self, inc: str, lease: int, seq: int, connections: int, budget: int) -> str:
        reply = self.call("beat", inc, lease, seq, connections, budget)
        stored, time = self.stored, self.time
        why = self.refused(lease)
        if why is None and stored.seq.get(inc) != seq:
            why = "lost" if inc in stored.seq else "gone"
            if why == "lost":
                stored.unsettle(time + lease)
        if why is not None:
            self.expect(reply, why)
            self.compare()
            return why
        stored.rein_in(time, lease)
        stored.reprieve(time, lease)
        stored.deadlines[inc], stored.connections[inc] = time + lease, connections
        for dead in [one for one, until in stored.deadlines.items() if until <= time]:
            stored.dying |= {dead, *stored.leaves(dead)}
        gone, said = self.purged(budget)
        self.expect(reply, [*self.figures(), gone])
        self.compare(said)
        return "ok"

    def retire(self, inc: str, budget: int) -> None:
        reply = self.call("retire", inc, budget)
        if inc in self.stored.deadlines:
            self.stored.dying |= {inc, *self.stored.leaves(inc)}
        _, said = self.purged(budget)
        self.expect(reply, len(self.stored.dying))
        self.compare(said)

    def purged(self, budget: int) -> tuple[int, list[tuple[str, str]]]:
        """Whose entries left, and which, is the server's choice; how many of whom, in which order, is not."""
        stored, said = self.stored, list[tuple[str, str]]()
        if not stored.dying or not budget:
            return 0, said
        found = self.keys()
        touched = {
            inc
            for inc in stored.dying
            for kind in KINDS
            if found.get(f"h:{inc}:{kind}", set()) != stored.holds[inc, kind]
        } or stored.dying - found.get("dying", set())
        if len(touched) != 1:
            raise Difference(f"of {stored.dying} {touched} were purged")
        (inc,) = touched
        left = budget
        for kind in reversed(KINDS):
            mine = stored.holds[inc, kind]
            gone = mine - found.get(f"h:{inc}:{kind}", set())
            if len(gone) != min(left, len(mine)):
                raise Difference(f"{len(gone)} of {len(mine)} left, and {left} might have")
            left -= len(gone)
            mine -= gone
            stored.count(kind, gone, -1, said, self.time)
        if left:
            stored.dying.discard(inc)
        return budget - left, said

    def read(self) -> None:
        self.expect(self.call("figures"), self.figures())
        unsettled, *pairs = self.call("nodes")
        living = {inc: self.stored.labels[inc] for inc, until in self.stored.deadlines.items() if until > self.time}
        self.expect((unsettled, dict(zip(pairs[::2], pairs[1::2], strict=True))), (self.figures()[-2], living))

    # --- what befalls the server ----------------------------------------------------------------------------

    def save(self) -> None:
        """What a replica has got."""
        keys = list(self.raw.scan_iter(f"{self.root}:*", count=1000))
        self.saved = copy.deepcopy(self.stored), {key: self.raw.dump(key) for key in keys}

    def fail_over(self, *, empty: bool) -> None:
        """To what was saved, or to nothing."""
        for key in self.raw.scan_iter(f"{self.root}:*", count=1000):
            self.raw.delete(key)
        self.stored = Stored()
        if not empty:
            self.stored = copy.deepcopy(self.saved[0])
            for key, value in self.saved[1].items():
                self.raw.restore(key, 0, value)


def _by_user(said: Iterable[tuple[str, str]]) -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    for conversation, word in said:
        found.setdefault((conversation, word[1:]), []).append(word[0])
    return found


def _runs(changes: Sequence[str]) -> list[tuple[str, list[str]]]:
    runs: list[tuple[str, list[str]]] = []
    for change in changes:
        if not runs or runs[-1][0] != change[0]:
            runs.append((change[0], []))
        runs[-1][1].append(change[1:])
    return runs


class Node:
    """As the product's presence: it knows its number, sends what had no answer again, and begins anew when told to."""

    def __init__(self, cluster: Cluster, dice: random.Random, name: str) -> None:
        self.cluster, self.dice, self.name = cluster, dice, name
        self.lease = dice.choice(LEASES)
        self.holds: dict[str, set[str]] = {kind: set() for kind in KINDS}
        self.inc: str | None = None
        self.names = 0
        self.old: list[str] = []
        self.seq, self.connections = 0, 0
        self.untold: list[str] | None = None  # None: the server has all that is held
        self.sent: tuple[int, list[str], bool] | None = None

    def begin_anew(self) -> None:
        if self.inc is not None:
            self.old.append(self.inc)
        self.inc, self.seq, self.sent = None, 0, None
        self.names += 1
        inc = f"{self.name}.{self.names}"
        old = self.dice.sample(self.old, len(self.old)) if self.dice.random() < 0.2 else self.old
        if self.cluster.register(inc, self.lease, self.connections, self.name, *old[-8:]):
            self.inc = inc
            self.untold = [f"+{kind}{entry}" for kind in KINDS for entry in sorted(self.holds[kind])]

    def acts(self) -> None:
        """A batch: what has not been told yet, or what people do."""
        if self.inc is None:
            self.begin_anew()
            return
        self.connections = self.dice.randrange(9)
        changes, self.untold = ((self.untold or [])[:6], self.untold[6:]) if self.untold is not None else ([], None)
        if not self.untold:
            changes += self.people_act()
        complete = self.untold == []
        if complete:
            self.untold = None
        self.seq += 1
        self.sent = self.seq, changes, complete
        self.tell()

    def people_act(self) -> list[str]:
        dice, changes = self.dice, list[str]()
        for _ in range(dice.randrange(5)):
            user, room = f"user{dice.randrange(4)}", dice.choice(self.cluster.rooms)
            pair, before = f"{room}\n{user}", len(changes)
            if pair not in self.holds["p"]:
                changes += [f"+u{user}", f"+c{room}", f"+p{pair}"]
            elif dice.random() < 0.6:
                changes.append(f"{'-' if pair in self.holds['t'] else '+'}t{pair}")
            else:
                others = [one for one in self.holds["p"] if one != pair]
                changes += [f"-t{pair}", f"-p{pair}"]
                changes += [] if any(one.startswith(f"{room}\n") for one in others) else [f"-c{room}"]
                changes += [] if any(one.endswith(f"\n{user}") for one in others) else [f"-u{user}"]
            if dice.random() < 0.2:
                changes += changes[before:]  # on its way to be told already
            for change in changes[before:]:
                held = self.holds[change[1]]
                (held.add if change[0] == "+" else held.discard)(change[2:])
        return changes

    def tell(self) -> None:
        """The latest batch, perhaps once more."""
        if self.inc is not None and self.sent is not None:
            seq, changes, complete = self.sent
            self.heeds(self.cluster.apply(self.inc, self.lease, seq, self.connections, complete, changes))

    def beats(self, budget: int) -> None:
        if self.inc is None:
            self.begin_anew()
        else:
            seq, lease = self.seq, self.lease
            self.heeds(self.cluster.beat(self.inc, lease, seq, self.connections, budget))

    def heeds(self, word: str) -> None:
        if word in ("gone", "lost"):
            self.begin_anew()


def run(server: Server, seed: int, steps: int, alter: Callable[[str], str] = lambda text: text) -> int:
    """Whatever may happen, until something differs; the step, or 0 when nothing does."""
    dice, cluster, step = random.Random(seed), Cluster(server, alter), 0
    nodes: list[Node] = []
    try:
        for step in range(1, steps + 1):
            happens(cluster, nodes, dice, step)
        step = steps + 1
        end(cluster, nodes)
    except Difference as difference:
        print(f"seed {seed}, step {step}: {difference}")
        return step
    finally:
        cluster.close()
    return 0


def happens(cluster: Cluster, nodes: list[Node], dice: random.Random, step: int) -> None:
    cluster.time += dice.choice((0, 1, 20, 150, 400))
    if dice.random() < (0.01 if cluster.policy == "noeviction" else 0.2):
        cluster.policy = "allkeys-lru" if cluster.policy == "noeviction" else "noeviction"
    choice, node = dice.random(), dice.choice(nodes) if nodes else None
    if node is None or (choice < 0.04 and len(nodes) < 4):
        nodes.append(Node(cluster, dice, f"node{step}"))
        nodes[-1].begin_anew()
    elif choice < 0.40:
        node.acts()
    elif choice < 0.45:
        node.tell()  # its answer had been lost
    elif choice < 0.70:
        node.beats(dice.choice((1, 2, 3, 300)))
    elif choice < 0.73:
        node.seq += 1  # of a batch that never came
        (node.acts if dice.random() < 0.5 else lambda: node.beats(3))()
    elif choice < 0.76:
        nodes.remove(node)
        for _ in range(dice.randrange(4) if node.inc else 0):
            cluster.retire(str(node.inc), dice.randint(0, 5))
    elif choice < 0.79:
        nodes.remove(node)  # killed, or asleep
        cluster.sleeping.append(node)
    elif choice < 0.82 and cluster.sleeping:
        nodes.append(cluster.sleeping.pop())
    elif choice < 0.85:
        until = [one for one in cluster.stored.deadlines.values() if one > cluster.time]
        cluster.time = dice.choice([*until, cluster.time + 900, cluster.time + 5100, cluster.time + 60_000])
    elif choice < 0.86:
        cluster.time -= dice.choice((30, 1000, 10_000, DAY))
    elif choice < 0.88:
        cluster.save()
    elif choice < 0.90:
        cluster.fail_over(empty=dice.random() < 0.3)
        cluster.run += dice.random() < 0.8  # else put back by hand
    elif choice < 0.91:
        cluster.evicted = dice.randrange(3)
    elif choice < 0.92:
        cluster.beat("", node.lease, 0, 0, 0)  # nobody's: has the policy looked at
    else:
        cluster.read()


def end(cluster: Cluster, nodes: list[Node]) -> None:
    """Those who live go on: what is there in the end is what they hold, and nothing else."""
    cluster.policy = "noeviction"
    for _ in range(2 * max(LEASES) // 400):
        cluster.time += 400
        for node in nodes:
            node.acts()
            node.beats(300)
    while cluster.stored.dying and nodes:
        nodes[0].beats(300)
    if nodes:
        for kind in KINDS:
            expected = Counter(entry for node in nodes for entry in node.holds[kind])
            if cluster.stored.holders(kind) != expected:
                raise Difference(f"in the end {cluster.stored.holders(kind)}, not {expected}")
        if cluster.figures()[-2] or cluster.stored.taken or cluster.stored.connections.keys() != {n.inc for n in nodes}:
            raise Difference(f"in the end {cluster.stored}")


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_each_answer_each_key_and_each_word_is_the_models(server: Server, seed: int) -> None:
    assert run(server, seed, 400) == 0


DEFECTS: dict[str, tuple[str, str]] = {
    "who was out of reach for less than a lease is given time": ("math.floor(lease / 2)", "lease"),
    "a clock that was put back leaves what is not settled": ("if unsettled(K, time) > lease then", "if false then"),
    "a batch that is missing is that node's alone": ("unsettle(K, now(), tonumber(args[2]))\n    return", "return"),
    "a replica, or a file, is believed to have the last writes": ("or ran ~= run then", "then"),
    "a wrong policy is forgotten": ("redis.call('HSET', K .. ':state', 'evicted', '?')", ""),
    "whoever has not come back yet is said to leave": ("settled and redis.call('SMEMBERS'", "redis.call('SMEMBERS'"),
    "what was taken over is kept where keys were dropped": (
        "for _, old in ipairs(taken_over(K, inc)) do\n        forget(K, old)\n      end",
        "",
    ),
    "what was taken over twice is never purged": ("taken[#taken + 1] = older", ""),
    "who dies while it tells what it holds is never buried": (
        "redis.call('SREM', K .. ':syncing', inc)\n  redis.call('DEL'",
        "redis.call('DEL'",
    ),
    "a lease is over a moment late": ("'-inf', text(time), 'LIMIT'", "'-inf', '(' .. text(time), 'LIMIT'"),
    "it is forgotten who is dying when that is not over": (
        "  if gone < budget then\n    redis",
        "  if gone then\n    redis",
    ),
    "whoever leaves stops typing behind it": ("or {'t', 'p', 'c', 'u'}) do", "or {'p', 't', 'c', 'u'}) do"),
    "of a dead node's people it is said later that they type": (
        "for _, kind in ipairs({'t', 'p', 'c', 'u'}) do\n    if gone",
        "for _, kind in ipairs({'p', 't', 'c', 'u'}) do\n    if gone",
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_planted_defect_is_found(server: Server, defect: str) -> None:
    right, wrong = DEFECTS[defect]
    assert library()[1].count(right) == 1, "the defect is not planted"
    assert any(run(server, seed, 400, lambda text: text.replace(right, wrong)) for seed in range(6))
