"""Bugs in heal: what ails and is not found, what is dropped too early, who goes first."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Edit, Mutant

_ENDLESS: Final = "return took_s * (BUSY_REST if self.busy else 1.0)"
_FOREGROUND: Final = "node/holdfast_node/services/foreground.py"
_HANDS: Final = "node/holdfast_node/services/heal_hands.py"
_HEALER: Final = "node/holdfast_node/services/healer.py"
_HEAL_ORDER: Final = "node/holdfast_node/core/heal_order.py"
_PICTURE: Final = "node/holdfast_node/core/picture.py"
_KEEPER: Final = "node/holdfast_node/services/keeper.py"
_MARGIN: Final = "node/holdfast_node/core/margin.py"
_MENDING: Final = "node/holdfast_node/services/mending.py"
_SCREEN: Final = "client/holdfast_ctl/screen.py"
_WARDS: Final = "node/holdfast_node/services/wards.py"

_TEST_HANDS: Final = "tests/unit/test_heal_hands.py"
_TEST_HEAL: Final = "tests/unit/test_heal.py"
_TEST_FULL: Final = "tests/unit/test_full_heal_order.py"
_TEST_PICTURE: Final = "tests/unit/test_picture.py"
_TEST_ORDER: Final = "tests/unit/test_heal_order.py"
_TEST_KEEPER: Final = "tests/unit/test_keeper.py"
_TEST_MENDING: Final = "tests/unit/test_mending.py"
_TEST_SCREEN: Final = "tests/unit/test_status_screen.py"
_TEST_WARDS: Final = "tests/unit/test_wards.py"

MUTANTS: Final = (
    Mutant(
        "older-margin-claimed",
        "what was written while an older version was being mended is taken to survive as much as that",
        (Edit(_HEAL_ORDER, "            if known.report != ailing.report:\n", "            if False:\n"),),
        _TEST_ORDER,
    ),
    Mutant(
        "home-not-read-back",
        "a handoff is dropped before its home was read back",
        (
            Edit(
                _MENDING,
                "        if index in part.proven:\n            return True\n",
                "        part.proven.add(index)\n        return True\n",
            ),
        ),
        _TEST_HEAL,
    ),
    Mutant(
        "unproven-shard-counts",
        "a rebuilt shard counts although it did not read back",
        (
            Edit(
                _MENDING,
                "            if await self._proven(part, index, store):\n"
                "                result.shards_made += 1",
                "            if await self._proven(part, index, store) or True:\n"
                "                result.shards_made += 1",
            ),
        ),
        _TEST_HEAL,
    ),
    Mutant(
        "proof-from-the-cache",
        "a shard is read back from the page cache",
        (Edit(_MENDING, "                    fresh=True,\n", ""),),
        _TEST_HEAL,
    ),
    Mutant(
        "drop-under-a-newer-map",
        "a copy is dropped by word of a map that is older than the one at hand, which may call it the home's",
        (Edit(_KEEPER, "if 0 < epoch < self._epoch():", "if False:"),),
        _TEST_KEEPER,
    ),
    Mutant(
        "drop-of-no-epoch",
        "heal does not say under which map a copy is surplus",
        (Edit(_MENDING, "DropShards((name,), part.topology.map.epoch)", "DropShards((name,))"),),
        "tests/sim/test_moves.py",
    ),
    Mutant(
        "counted-by-an-older-map",
        "a store that may yet drop what an older map calls surplus says that it holds it",
        (Edit(_KEEPER, "if request.epoch > self._epoch():", "if False:"),),
        _TEST_KEEPER,
    ),
    Mutant(
        "held-while-dropped",
        "a store says that it holds what it is dropping",
        (Edit(_KEEPER, "for name in here if not self._dropping[name]))", "for name in here))"),),
        _TEST_KEEPER,
    ),
    Mutant(
        "healed-too-early",
        "a partition counts as healed while something in it ails",
        (
            Edit(
                _HEALER,
                "if ward.looked_epoch > ward.healed_epoch and ward.at not in ailing:",
                "if ward.looked_epoch > ward.healed_epoch:",
            ),
        ),
        _TEST_MENDING,
    ),
    Mutant(
        "healthy-without-looking",
        "a steward claims what was on record before it has looked",
        (
            Edit(
                _HEALER,
                "healed_epoch=ward.healed_epoch if self._knows(ward) else 0",
                "healed_epoch=ward.healed_epoch",
            ),
        ),
        "tests/sim/test_found_bugs.py",
    ),
    Mutant(
        "silent-store-is-empty",
        "a store that did not say what it holds is taken to hold nothing",
        (
            Edit(
                _MENDING,
                "return Census(topology, found, frozenset(stores) - heard)",
                "return Census(topology, found, frozenset())",
            ),
        ),
        _TEST_MENDING,
    ),
    Mutant(
        "gravest-last",
        "the largest margin is healed first",
        (
            Edit(
                _HEAL_ORDER, "in sorted(found, key=_urgency)", "in sorted(found, key=_urgency, reverse=True)"
            ),
        ),
        _TEST_ORDER,
    ),
    Mutant(
        "large-first-blocks",
        "keys that are mended together are waited for until the largest is whole",
        (Edit(_HANDS, "asyncio.wait(begun, timeout=TOGETHER_S)", "asyncio.wait(begun)"),),
        _TEST_HANDS,
    ),
    Mutant(
        "grave-without-a-place",
        "what is grave waits for the places of what is not",
        (
            Edit(
                _HEAL_ORDER,
                "for each in taken if gravity(each.margin) <= gravity(ailing.margin)]",
                "for each in taken]",
            ),
        ),
        _TEST_ORDER,
    ),
    Mutant(
        "recodes-take-all",
        "keys that wait for their turn to be made anew in another code take the places of all others",
        (Edit(_HEAL_ORDER, "turns = RECODES - sum(", "turns = places - sum("),),
        _TEST_ORDER,
    ),
    Mutant(
        "grave-without-a-turn",
        "what is grave waits for the turns of lesser keys to be made anew in another code",
        (Edit(_HEAL_ORDER, "sum(each.recode for each in before)", "sum(each.recode for each in taken)"),),
        _TEST_ORDER,
    ),
    Mutant(
        "no-pace-beside-the-grave",
        "what is not grave is mended at full speed while callers wait",
        (Edit(_HEAL_ORDER, "if paced is not None and not ailing.grave:", "if False:"),),
        _TEST_ORDER,
    ),
    Mutant(
        "mistake-stops-heal",
        "a mistake over one key keeps its steward from mending any",
        (
            Edit(
                _HANDS,
                "        except Exception as error:  # noqa: BLE001",
                "        except ZeroDivisionError as error:  # noqa: BLE001",
            ),
        ),
        _TEST_HANDS,
    ),
    Mutant(
        "mistake-stops-looks",
        "a partition whose look meets a mistake keeps its steward from looking at others",
        (
            Edit(
                _HEALER,
                "            self._hold(ward, repr(error))\n            raise  #",
                "            raise  #",
            ),
        ),
        _TEST_HANDS,
    ),
    Mutant(
        "look-begun-anew",
        "whoever comes back has the look under way begin with the first key",
        (
            Edit(
                _WARDS,
                "        self.seen, self._again = False, self.looking and self.full\n",
                "        self.seen = self.looking = False\n",
            ),
        ),
        _TEST_WARDS,
    ),
    Mutant(
        "looked-is-seen",
        "a look at all keys that somebody's return interrupted counts as one at what was missed",
        (
            Edit(
                _WARDS,
                "self.looking, self.seen = False, not self._again",
                "self.looking, self.seen = False, True",
            ),
        ),
        _TEST_WARDS,
    ),
    Mutant(
        "mended-for-former-homes",
        "a key whose homes changed while it was mended counts as in order",
        (Edit(_HANDS, "        elif moved:", "        elif False:"),),
        _TEST_HANDS,
    ),
    Mutant(
        "full-order-refuses",
        "where there is no room, what comes last goes, however grave",
        (Edit(_HEAL_ORDER, "key=lambda each: each.worth)[kept:]", "key=lambda each: each.report)[kept:]"),),
        _TEST_ORDER,
    ),
    Mutant(
        "waiting-is-enough",
        "many keys that wait for a node keep a steward from looking for those it could mend",
        (
            Edit(
                _HEALER,
                "(not urgent or len(self._order) < AILING_ENOUGH)",
                "len(self._order) < AILING_ENOUGH",
            ),
        ),
        _TEST_FULL,
    ),
    Mutant(
        "forgotten-untold",
        "status says nothing of what ails and had no room to be remembered",
        (Edit(_HEALER, "            if ward.missed is not None:\n", "            if False:\n"),),
        _TEST_FULL,
    ),
    Mutant(
        "grave-waits",
        "callers go before heal whatever one more loss would take",
        (Edit(_HEALER, "            if not grave:\n", "            if grave:\n"),),
        _TEST_HEAL,
    ),
    Mutant(
        "grave-by-the-node",
        "what a whole rack or SAN would take, and no single node, is not taken for grave",
        (Edit(_MARGIN, "min(gravity(margin), default=0)", "max(gravity(margin), default=0)"),),
        _TEST_ORDER,
    ),
    Mutant(
        "ailing-in-nodes",
        "what ails lowers what the cluster is said to survive in nodes, and in nothing else",
        (
            Edit(
                _PICTURE,
                "margin = least((margin, Margin(row.survives, full=False)))",
                "margin = least((margin, Margin(row.survives[:1], full=False)))",
            ),
        ),
        _TEST_PICTURE,
    ),
    Mutant(
        "time-left-of-who-knows",
        "status tells the time left though one of those at work does not know it",
        (Edit(_SCREEN, "if min(etas) >= 0 else", "if max(etas) >= 0 else"),),
        _TEST_SCREEN,
    ),
    Mutant(
        "heal-forgets-the-undecided",
        "heal reads the head before the one that was accepted and lacks shards, and is content",
        (Edit(_HANDS, "if (reading.ballot or reading.floor or NO_BALLOT) < ailing.accepted:", "if False:"),),
        "tests/unit/test_heal_undecided.py",
    ),
    Mutant(
        "heal-goes-first",
        "heal never rests for callers",
        (Edit(_FOREGROUND, "if self.busy else 0.0", "if False else 0.0"),),
        _TEST_HEAL,
    ),
    Mutant(
        "endless-rest",
        "who waited long for the silent rests ten times as long",
        (Edit(_FOREGROUND, "return min(took_s * (BUSY_REST if self.busy else 1.0), REST_MAX_S)", _ENDLESS),),
        _TEST_HEAL,
    ),
)
