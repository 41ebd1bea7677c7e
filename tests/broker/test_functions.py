"""The functions in the server against a model of sets, with random calls; and that planted defects are found."""

from __future__ import annotations

import random
import re
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from exporter.broker.functions import Figures, Functions, figures, library
from tests.servers.valkey import Server

KINDS = "ucpt"
LEASE = 3_600_000  # ms; who expires is said by the test
INDEX = {"p": "m", "t": "y"}
WORDS = {"p": "JL", "t": "TU"}


class Difference(AssertionError):
    """The server and the model disagree."""


class Model:
    """What should be: sets of entries by incarnation."""

    def __init__(self, server: Server, alter: Callable[[str], str] = lambda text: text) -> None:
        name, text = library()
        altered = alter(text)
        digest = uuid.uuid4().hex[:8]
        self.name = f"{name}_{digest}"
        self.client = server.client()
        self.root = f"messaging:{{{digest}}}"
        self.client.function_load(altered.replace(name, self.name))
        self.hearing = server.client().pubsub()
        self.holds: dict[str, dict[str, set[str]]] = {}  # all incarnations that have something or may
        self.seq: dict[str, int] = {}  # the living
        self.taken: dict[str, list[str]] = {}
        self.syncing: set[str] = set()
        self.dying: set[str] = set()
        self.said: Counter[str] = Counter()

    def close(self) -> None:
        self.hearing.close()
        self.client.close()

    def call(self, function: str, *arguments: object) -> object:
        return self.client.fcall(f"{self.name}_{function}", 1, self.root, *map(str, arguments))

    def holders(self, kind: str) -> Counter[str]:
        found: Counter[str] = Counter()
        for held in self.holds.values():
            found.update(held[kind])
        return found

    # --- calls --------------------------------------------------------------------------------------------

    def register(self, inc: str, *old: str) -> None:
        reply = self.call("register", inc, LEASE, 1, "a label", *old)
        assert isinstance(figures(reply), Figures)
        taken = []
        for one in old:
            if one in self.seq:
                taken += [*self.taken.pop(one, []), one]
                del self.seq[one]
                self.syncing.discard(one)
        self.taken[inc] = taken
        self.seq[inc] = 0
        self.syncing.add(inc)
        self.holds[inc] = {kind: set() for kind in KINDS}

    def apply(self, inc: str, seq: int, changes: list[str], complete: bool) -> None:
        reply = self.call("apply", inc, LEASE, seq, 1, int(complete), *changes)
        stored = self.seq.get(inc)
        expected = "gone" if stored is None else "ok" if seq <= stored + 1 else "lost"
        if reply != expected:
            raise Difference(f"apply {seq} at {stored}: {reply}, not {expected}")
        if stored is None or seq != stored + 1:
            return
        self.seq[inc] = seq
        for change in changes:
            sign, kind, entry = change[0], change[1], change[2:]
            before = self.holders(kind)[entry]
            (self.holds[inc][kind].add if sign == "+" else self.holds[inc][kind].discard)(entry)
            self.say(kind, entry, before, self.holders(kind)[entry])
        if complete:
            self.syncing.discard(inc)
            self.dying |= set(self.taken.pop(inc, []))

    def say(self, kind: str, entry: str, before: int, after: int) -> None:
        if kind not in WORDS or before == after:
            return
        conversation, user = entry.split("\n")
        if not before or not after:
            self.said[f"{conversation} {WORDS[kind][not after]}{user}"] += 1
        elif kind == "p" and (after > before or after == 1):
            self.said[f"{conversation} {'S' if after > before else 'O'}{user}"] += 1

    def beat(self, inc: str, seq: int, budget: int) -> None:
        reply = self.call("beat", inc, LEASE, seq, 1, budget)
        stored = self.seq.get(inc)
        expected = "gone" if stored is None else "lost" if seq != stored else None
        if expected is not None:
            if reply != expected:
                raise Difference(f"beat {seq} at {stored}: {reply}, not {expected}")
            return
        if not isinstance(reply, list) or int(reply[-1]) > budget:
            raise Difference(f"beat: {reply}")
        self.bury([one for one, deadline in self.deadlines.items() if deadline == 0 and one != inc])
        self.purged()

    def retire(self, inc: str) -> None:
        self.call("retire", inc, 3)
        if inc in self.seq:
            self.bury([inc])
        self.purged()

    def expire(self, inc: str) -> None:
        """Its lease is over; the next beat of another one buries it."""
        self.client.zadd(f"{self.root}:nodes", {inc: 0})

    @property
    def deadlines(self) -> dict[str, float]:
        return {one: 0 if one in self.expired else 1 for one in self.seq}

    expired: frozenset[str] = frozenset()

    def bury(self, incs: list[str]) -> None:
        for inc in incs:
            self.dying |= {inc, *self.taken.pop(inc, [])}
            self.seq.pop(inc, None)
            self.syncing.discard(inc)

    def purged(self) -> None:
        """Which entries went is the server's choice; that they went from the dying only, and were said, is not."""
        for inc in list(self.dying):
            for kind in KINDS:
                left = set(self.client.smembers(f"{self.root}:h:{inc}:{kind}"))
                gone = self.holds[inc][kind] - left
                if left - self.holds[inc][kind]:
                    raise Difference("something came back from the dead")
                for entry in gone:
                    before = self.holders(kind)[entry]
                    self.holds[inc][kind].discard(entry)
                    self.say(kind, entry, before, before - 1)
            if not self.client.sismember(f"{self.root}:dying", inc):
                self.dying.discard(inc)
                if any(self.holds.pop(inc).values()):
                    raise Difference("buried with entries left")

    # --- the comparison -------------------------------------------------------------------------------------

    def compare(self) -> None:
        answer = figures(self.client.fcall_ro(f"{self.name}_figures", 1, self.root))
        for kind, figure in zip(
            KINDS, (answer.users, answer.conversations, answer.participants, answer.typing), strict=True
        ):
            expected = self.holders(kind)
            found = {entry: int(count) for entry, count in self.client.hgetall(f"{self.root}:{kind}").items()}
            if found != dict(expected) or figure != len(expected):
                raise Difference(f"holders of {kind}: {found}, not {dict(expected)}")
            if kind in INDEX:
                indexed = {
                    f"{key.rpartition(':')[2]}\n{user}"
                    for key in self.client.scan_iter(f"{self.root}:{INDEX[kind]}:*", count=1000)
                    for user in self.client.smembers(key)
                }
                if indexed != set(expected):
                    raise Difference(f"index of {kind}: {indexed}, not {set(expected)}")
        if (answer.dying, answer.syncing, answer.connections) != (len(self.dying), len(self.syncing), len(self.seq)):
            raise Difference(f"{answer}: not {len(self.dying)} dying, {len(self.syncing)} syncing")

    def heard(self) -> Counter[str]:
        found: Counter[str] = Counter()
        while (message := self.hearing.get_sharded_message(timeout=0.02)) is not None:
            if message["type"] == "smessage":
                conversation = message["channel"].rpartition(":")[2]
                found.update(f"{conversation} {line}" for line in message["data"].split("\n")[1:])
        return found


def entry_of(random: random.Random, kind: str) -> str:
    user, conversation = f"user{random.randrange(5)}", f"room{random.randrange(3)}"
    return {"u": user, "c": conversation}.get(kind, f"{conversation}\n{user}")


def run(server: Server, seed: int, steps: int, alter: Callable[[str], str] = lambda text: text) -> int:
    """Random calls until something differs; the step, or 0 when nothing does."""
    dice = random.Random(seed)
    model = Model(server, alter)
    try:
        model.hearing.ssubscribe(*(f"{model.root}:c:room{n}" for n in range(3)))
        for step in range(1, steps + 1):
            living = sorted(model.seq)
            choice = dice.random()
            try:
                if not living or choice < 0.06:
                    old = [one for one in living if dice.random() < 0.3][:2]
                    model.register(f"inc{step}", *old)
                elif choice < 0.12:
                    model.retire(dice.choice(living))
                elif choice < 0.17 and len(living) > 1:
                    victim = dice.choice(living)
                    model.expire(victim)
                    model.expired = frozenset({victim})
                    other = dice.choice([one for one in living if one != victim])
                    model.beat(other, model.seq[other], dice.randint(1, 6))
                    model.expired = frozenset()
                elif choice < 0.35:
                    inc = dice.choice(living)
                    model.beat(inc, model.seq[inc] + dice.choice((0, 0, 0, 0, 1, -1)), dice.randint(1, 6))
                else:
                    inc = dice.choice([*living, "nobody"])
                    changes = []
                    for _ in range(dice.randint(0, 5)):
                        kind = dice.choice(KINDS)
                        changes += [dice.choice("+-") + kind + entry_of(dice, kind)] * dice.choice((1, 1, 1, 2))
                    seq = model.seq.get(inc, 0) + dice.choice((1, 1, 1, 1, 1, 0, 2, 3))
                    model.apply(inc, seq, changes, complete=dice.random() < 0.2)
                model.compare()
            except Difference:
                return step
        heard = model.heard()
        return 0 if heard == model.said else steps
    finally:
        model.close()


@pytest.mark.parametrize("seed", range(4))
def test_random_calls_leave_exactly_what_the_model_has_and_say_each_change_once(server: Server, seed: int) -> None:
    assert run(server, seed, 250) == 0


DEFECTS: dict[str, Callable[[str], str]] = {
    "no check of the sequence": lambda text: text.replace("if seq ~= stored + 1 then", "if false then"),
    "a repeated batch is applied": lambda text: text.replace("if seq <= stored then", "if false then"),
    "one kind is not purged": lambda text: text.replace("({'t', 'p', 'c', 'u'})", "({'t', 'p', 'c'})"),
    "taken over, never purged": lambda text: text.replace(
        "redis.call('SREM', K .. ':syncing', inc)\n    for _, old in ipairs(taken_over(K, inc)) do\n"
        "      redis.call('SADD', K .. ':dying', old)\n    end",
        "redis.call('SREM', K .. ':syncing', inc)",
    ),
    "holders count what was there already": lambda text: text.replace(
        "if (held[i] == 1) ~= (by == 1) and not seen[entry] then", "if true then"
    ),
    "an entry that is named twice counts twice": lambda text: text.replace(" and not seen[entry] then", " then"),
    "the index keeps who left": lambda text: text.replace("redis.call('SREM', K .. index .. conversation, user)", ""),
    "left is said of everybody who lets go": lambda text: text.replace(
        "word = SHARED[kind] and SHARED[kind][by == 1 and 1 or 2]",
        "word = index and (by == 1 and 'S' or SAYS[kind][2])",
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_planted_defect_is_found(server: Server, defect: str) -> None:
    text = library()[1]
    assert DEFECTS[defect](text) != text, "the defect was not planted"
    assert any(run(server, seed, 150, DEFECTS[defect]) for seed in range(3))


def test_no_call_keeps_the_server_busy_for_long_whatever_dies(server: Server) -> None:
    model = Model(server)
    try:
        model.register("dead")
        for start in range(0, 20_000, 500):
            changes = [f"+pc{n % 100}\nuser{n}" for n in range(start, start + 500)]
            assert model.call("apply", "dead", LEASE, start // 500 + 1, 0, 0, *changes) == "ok"
        model.register("alive")
        model.expire("dead")
        purged, busy = 0, []
        while purged < 20_000:
            before = _busy(server)
            reply = model.call("beat", "alive", LEASE, 0, 0, 300)
            busy.append(_busy(server) - before)
            assert isinstance(reply, list)
            assert int(reply[-1]) <= 300
            purged += int(reply[-1])
            assert len(busy) < 100
        # 10 ms is the promise. A few calls may have met the server's own housekeeping.
        assert sorted(busy)[len(busy) * 9 // 10] < 0.010, busy
    finally:
        model.close()


def _busy(server: Server) -> float:
    """Seconds that the server's only thread for commands has had a core."""
    return int(Path(f"/proc/{server.pid}/task/{server.pid}/schedstat").read_text().split()[0]) / 1e9


def test_the_figures_are_not_final_where_the_server_is_not_the_process_that_it_was(server: Server) -> None:
    model = Model(server)
    state = f"{model.root}:state"
    try:
        model.register("a")
        for function, arguments in (
            ("register", ("b", LEASE, 1, "")),
            ("beat", ("a", LEASE, 0, 1, 10)),
            ("beat", ("gone", LEASE, 0, 1, 10)),
        ):
            for is_another in (False, True, False):
                model.client.hset(state, "settles", 0)
                if is_another:
                    model.client.hset(state, "run", "of a replica, or of before a restart")
                model.call(function, *arguments)
                seconds, _ = model.client.time()
                settles = int(model.client.hget(state, "settles") or 0)
                assert (settles >= seconds * 1000) == is_another, function
    finally:
        model.close()


def test_who_comes_first_to_a_server_that_was_started_again_finds_nothing_of_before(server: Server) -> None:
    """Which keys it had dropped while nobody was there is not known: its counter begins anew with its process."""
    model = Model(server)
    try:
        model.register("dead")
        model.apply("dead", 1, ["+uann"], True)
        model.client.delete(f"{model.root}:h:dead:u")
        model.client.zadd(f"{model.root}:nodes", {"dead": 1})
        for is_another in (False, True):
            if is_another:
                model.client.hset(f"{model.root}:state", "run", "of before")
            reply = model.call("register", f"new {is_another}", LEASE, 1, "")
            assert isinstance(reply, list)
            found = figures(reply)
            assert (found.nodes, found.users, found.unsettled > 0) == (1, 0 if is_another else 1, True)
            model.client.zrem(f"{model.root}:nodes", f"new {is_another}")
    finally:
        model.close()


def test_the_connections_of_a_node_are_those_of_its_latest_call(server: Server) -> None:
    model = Model(server)
    try:
        for connections, arguments in (
            (2, ("register", "a", LEASE, 2, "")),
            (3, ("apply", "a", LEASE, 1, 3, 1, "+uann")),
            (4, ("beat", "a", LEASE, 1, 4, 10)),
        ):
            model.call(str(arguments[0]), *arguments[1:])
            reply = model.call("figures")
            assert isinstance(reply, list)
            assert figures(reply).connections == connections, arguments
    finally:
        model.close()


def test_who_comes_back_under_a_new_name_or_the_old_one_gives_the_others_the_time_to(server: Server) -> None:
    model = Model(server)
    nodes = f"{model.root}:nodes"
    try:
        for function, *arguments in (("beat", "a", LEASE, 0, 1, 10), ("register", "c", LEASE, 1, "", "a")):
            for inc in ("a", "b"):
                model.call("register", inc, LEASE, 1, "")
            model.client.zadd(nodes, {"a": 1, "b": 1})  # nobody was heard for longer than a lease
            model.call(function, *arguments)
            assert (model.client.zscore(nodes, "b") or 0) > 1, f"{function}: b has not come back yet"
    finally:
        model.close()


def test_a_clock_that_was_put_back_keeps_nobody_alive_for_longer_than_a_lease(server: Server) -> None:
    model = Model(server)
    nodes, state = f"{model.root}:nodes", f"{model.root}:state"
    try:
        for function, *arguments in (("beat", "a", LEASE, 0, 1, 10), ("register", "c", LEASE, 1, "", "a")):
            for inc in ("a", "b"):
                model.call("register", inc, LEASE, 1, "")
            seconds, _ = model.client.time()
            ahead = seconds * 1000 + 24 * LEASE  # as what was written before the clock went back by a day
            model.client.zadd(nodes, {"a": ahead, "b": ahead})
            model.client.hset(state, mapping={"settles": ahead, "latest": ahead - LEASE})
            reply = model.call(function, *arguments)
            assert isinstance(reply, list)
            assert 0 < figures(reply).unsettled <= LEASE, function
            latest = model.client.time()[0] * 1000 + 1000 + LEASE
            assert all(deadline <= latest for _, deadline in model.client.zscan_iter(nodes)), function
    finally:
        model.close()


def test_a_node_with_a_long_lease_has_it_beside_those_with_short_ones(server: Server) -> None:
    """As while that setting is changed node by node: it beats once a second, and with them it would be too late."""
    model = Model(server)
    try:
        model.call("register", "a", LEASE, 1, "")
        until = model.client.zscore(f"{model.root}:nodes", "a")
        model.call("register", "b", LEASE // 2, 1, "")
        model.call("beat", "b", LEASE // 2, 0, 1, 10)
        assert model.client.zscore(f"{model.root}:nodes", "a") == until
    finally:
        model.close()


def test_what_is_left_of_a_server_that_has_dropped_keys_is_nobodys(server: Server) -> None:
    model = Model(server)
    said: list[str] = []
    try:
        model.register("a")
        model.client.hset(f"{model.root}:state", "evicted", "17")  # other keys than now: some of these were dropped
        model.client.sadd(f"{model.root}:m:room", "ghost")
        model.client.sadd(f"{model.root}:y:room", "ghost")
        assert model.call("beat", "a", LEASE, 0, 1, 10) == "gone"
        reply = model.call("register", "b", LEASE, 1, "", "a")
        assert isinstance(reply, list)
        assert (figures(reply).nodes, figures(reply).unsettled > 0) == (1, True)
        model.client.hset(f"{model.root}:state", "settles", 0)  # whoever was there has had the time to come back
        with model.client.pubsub() as hearing:
            hearing.ssubscribe(f"{model.root}:c:room")
            model.call("apply", "b", LEASE, 1, 1, 1, "+croom", "+proom\nann")
            while not said:
                heard = hearing.get_sharded_message(timeout=1.0)
                said += heard["data"].split("\n")[1:] if heard and heard["type"] == "smessage" else []
        assert said == ["Lghost", "Jann"], "whoever has read that they take part is told"
        assert model.client.smembers(f"{model.root}:m:room") == {"ann"}
        assert not model.client.exists(f"{model.root}:y:room")
    finally:
        model.close()


def test_what_the_server_has_left_of_who_is_in_no_longer_is_nobodys(server: Server) -> None:
    model = Model(server)
    try:
        for inc in ("a", "b"):
            model.register(inc)
            model.apply(inc, 1, [f"+u{inc}"], True)
        model.client.delete(f"{model.root}:nodes")  # dropped, and what is known of each node is not
        model.client.hset(f"{model.root}:state", "evicted", "17")
        assert model.call("beat", "a", LEASE, 1, 1, 10) == "gone"
        assert model.call("apply", "b", LEASE, 2, 1, 0, "+uann") == "gone"
        assert model.call("beat", "b", LEASE, 1, 1, 10) == "gone"
        assert not model.client.exists(f"{model.root}:u")
        for inc in ("a", "b"):
            model.call("register", f"new {inc}", LEASE, 1, "", inc)
        assert not model.client.keys(f"{model.root}:[hn]:[ab]*"), "nothing is left for ever"
    finally:
        model.close()


def test_a_counter_that_has_begun_anew_does_not_say_that_nothing_was_dropped(server: Server) -> None:
    model = Model(server)
    try:
        model.register("a")
        model.apply("a", 1, ["+croom"], True)
        model.client.config_set("maxmemory-policy", "allkeys-random")
        with pytest.raises(redis.ResponseError, match="EVICTS"):
            model.call("beat", "a", LEASE, 1, 1, 10)
        model.client.config_set("maxmemory-policy", "noeviction")
        model.client.config_resetstat()  # as a start does it
        assert model.call("beat", "a", LEASE, 1, 1, 10) == "gone"
        assert model.client.hget(f"{model.root}:state", "remains") == "1"
        model.register("b", "a")
        model.apply("b", 1, ["+croom"], True)
        model.client.hdel(f"{model.root}:state", "evicted")  # this was dropped, too
        assert model.call("beat", "b", LEASE, 1, 1, 10) == "gone"
        assert model.client.hget(f"{model.root}:state", "remains") == "1"
        assert "cmdstat_unlink" in model.client.info("commandstats"), "large sets are freed behind the server's back"
    finally:
        model.client.config_set("maxmemory-policy", "noeviction")
        model.close()


def test_the_rights_that_are_missing_are_named(server: Server) -> None:
    model = Model(server)
    user = f"u{uuid.uuid4().hex[:6]}"
    try:
        model.client.execute_command(
            "ACL",
            "SETUSER",
            user,
            "on",
            ">secret",
            "~messaging:*",
            "&messaging:*",
            "-@all",
            "+fcall_ro",
            "+zadd",
            "+hget",
        )
        with redis.Redis(port=server.port, username=user, password="secret", decode_responses=True) as client:
            missing = client.execute_command("FCALL_RO", f"{model.name}_check", 1, model.root)
        assert "zadd" not in missing
        assert {"spublish", "ssubscribe", "hmget", "spop", "smembers"} <= set(missing)
        with server.client() as client:
            assert client.execute_command("FCALL_RO", f"{model.name}_check", 1, model.root) == []
    finally:
        model.close()


def test_every_function_of_the_library_can_be_called_by_its_name() -> None:
    functions = Functions("messaging")
    registered = re.findall(r"(?:register_function\(|function_name = )'(\w+)'", functions.text)
    assert sorted(registered) == sorted(functions._names.values())
