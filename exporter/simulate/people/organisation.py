"""A small organisation: who there is, what they are members of, when they are about, what they write.

Knows no network and no clock. Everything follows from the seed: the same seed makes the same decisions in the same
order, however the server answers; which of several people really writes depends on who is connected just then.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
from dataclasses import dataclass
from random import Random
from typing import Final

FIRST_NAMES: Final = """
    ada alan amal anna ben carla chen dina edsger emil fatou frida grace hana ivo jean joan kofi lena linus mara
    margaret niko nora olga omar petra radia ravi rosa sven tomas uma vera wanda yara yusuf zoe
""".split()  # noqa: SIM905  a list literal of forty lines reads worse
TOPICS: Final = """
    general engineering random support design sales release on-call finance people office research mobile security data
    lunch running books travel music hiring legal press customers platform
""".split()  # noqa: SIM905  as above
PHRASES: Final = """
Good morning!
Can somebody have a look at this?
Done.
Thanks, that was it.
I am in a meeting until noon.
Lunch at half past twelve?
The build is green again.
Who is on call tonight?
I have pushed a fix; please review.
Sounds good to me.
Let us talk about it tomorrow.
The customer called again about the invoice.
Where did we write that down?
Found it: a time zone, as ever.
👍
See you on Monday 👋
Could you send me the slides?
I think the second option is safer, because we can go back.
Let me check and come back to you.
That number looks wrong to me. Which query is behind it?
Deploying now.
Rolled back.
Tusen takk!
明天见
Ça marche.
""".strip().splitlines()


# Each message goes to everybody who has joined: in a conversation of thousands, a few people's chat is a flood.
LARGEST: Final = 200
DAWN: Final = 7.5
DAYLIGHT: Final = 0.8  # of a simulated day pass between 7:30 and 19:30: nobody wants to watch a night
_MORNING: Final = DAYLIGHT * (9.5 - DAWN) / 12


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody: their tabs, their hours (of a 24 h day) and how good their network and eyes are.

    ``abort_every`` and ``pause_every`` are mean seconds between lost connections and between pauses in reading;
    0 is never. ``talk`` in 0…1 says how much of the talking they do.
    """

    name: str
    tabs: int
    arrives: float
    lunch: float | None
    leaves: float
    talk: float
    abort_every: float
    pause_every: float

    def present(self, hour: float) -> bool:
        """Are they about at this hour of the day? Some people's day ends after midnight."""
        since = (hour - self.arrives) % 24
        at_lunch = self.lunch is not None and (hour - self.lunch) % 24 < 0.7
        return since < (self.leaves - self.arrives) % 24 and not at_lunch


@dataclass(frozen=True, slots=True)
class Plan:
    """One message to come. ``author`` holds draws in 0…1 that choose among those who can write just then."""

    due: float  # messages, from the start: 12.3 is due at 12.3 / rate seconds
    conversation: int
    author: tuple[float, float]
    typing: float  # seconds before
    abandoned: float | None  # somebody else types just now and thinks better of it: the draw that chooses them


def hour_of(days: float) -> float:
    """The hour after so many days, 0 being half past nine in the morning. Nights pass four times as fast as days."""
    phase = (days + _MORNING) % 1
    if phase < DAYLIGHT:
        return DAWN + 12 * phase / DAYLIGHT
    return (DAWN + 12 + 12 * (phase - DAYLIGHT) / (1 - DAYLIGHT)) % 24


class Organisation:
    """People and conversations out of a seed.

    Names carry a tag made of the seed and the sizes, so that another simulation, or real people, are not disturbed
    by members they do not expect, and so that the same command finds its conversations again.
    """

    def __init__(self, users: int, conversations: int, seed: int, names: tuple[str, ...] = ()) -> None:
        tag = hashlib.blake2s(f"{users}/{conversations}/{seed}/{names}".encode(), digest_size=3).hexdigest()
        self.seed = seed
        self.people = [_person(Random(f"{seed}/person/{i}"), i, tag, names) for i in range(users)]
        self.conversations = [f"sim-{tag}-{TOPICS[i % len(TOPICS)]}-{i + 1}" for i in range(conversations)]
        self.members = _members(users, conversations, seed)
        self.memberships: list[list[int]] = [[] for _ in range(users)]
        for conversation, members in enumerate(self.members):
            for person in members:
                self.memberships[person].append(conversation)
        # Zipf: the k-th busiest conversation gets 1/k of what the busiest gets, as in every chat that was measured.
        self._cumulative = list(itertools.accumulate(1 / (k + 1) for k in range(conversations)))

    def conversation_at(self, draw: float) -> int:
        """The conversation that a draw in 0…1 chooses, busy ones more often."""
        return bisect.bisect(self._cumulative, draw * self._cumulative[-1], hi=len(self._cumulative) - 1)

    def plan(self, n: int) -> Plan:
        """The n-th message from 0: the same for the same seed. On average exactly one per unit of ``due``."""
        random = Random(f"{self.seed}/message/{n}")
        return Plan(
            due=n + random.random(),
            conversation=self.conversation_at(random.random()),
            author=(random.random(), random.random()),
            typing=min(4.0, random.lognormvariate(0.1, 0.6)),
            abandoned=random.random() if random.random() < 0.2 else None,
        )

    def body(self, n: int) -> str:
        """What the n-th message says: short as a rule, long at times, never the same twice."""
        random = Random(f"{self.seed}/body/{n}")
        sentences = 1 if random.random() < 0.7 else random.randint(2, 6)
        return " ".join(random.choice(PHRASES) for _ in range(sentences)) + f" ({n})"


def _person(random: Random, index: int, tag: str, names: tuple[str, ...]) -> Person:
    name = names[index] if names else f"sim-{tag}-{FIRST_NAMES[index % len(FIRST_NAMES)]}-{index + 1}"
    kind = random.random()
    arrives = random.gauss(8.4, 0.7)
    leaves = arrives + random.gauss(9.2, 0.9)
    lunch: float | None = random.gauss(12.3, 0.4)
    if index % 12 == 5:  # on another continent
        arrives, leaves, lunch = arrives + 9, leaves + 9, None
    elif index % 6 == 0 or index == 1:  # those who never leave: somebody is always there to write and to listen
        arrives, leaves, lunch = 0.0, 23.999, None
    return Person(
        name=name,
        tabs=random.choices((1, 2, 3), (70, 22, 8))[0],
        arrives=arrives % 24,
        lunch=lunch,
        leaves=leaves % 24,
        talk=random.random() ** 2,
        abort_every=random.uniform(15, 60) if kind < 0.2 else 0.0,
        pause_every=random.uniform(10, 40) if kind > 0.93 else 0.0,
    )


def _members(users: int, conversations: int, seed: int) -> list[list[int]]:
    """The busiest conversation has nearly everybody; then ever smaller teams, and pairs at the end; nobody has none."""
    members = []
    for index in range(conversations):
        random = Random(f"{seed}/members/{index}")
        size = round(min(users, LARGEST) * 0.9 / (1 + index * 0.6)) + random.randint(0, 2)
        members.append(set(random.sample(range(users), max(2, min(users, size)))))
    lonely = set(range(users)).difference(*members)
    for person in sorted(lonely):
        members[person % conversations].add(person)
    return [sorted(chosen) for chosen in members]
