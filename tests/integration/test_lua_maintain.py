"""lua/maintain.lua: what it promotes, claims, buries, holds back and removes, with the whole state after each round."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.support.scripts_alone import GROUP, ME, OTHER, ScriptsAlone, look

pytestmark = pytest.mark.integration

LEASE_MS = 10_000
INTERVAL_MS = 1_000
NEVER_MS = 10**9
EXPIRED, ALIVE = LEASE_MS + 1_000, LEASE_MS // 2


@dataclass(frozen=True)
class Round:
    """What one round returned; see the script's header."""

    claimed: list[tuple[str, int]]
    swept: int
    alone: int
    more: int
    waits_alone: int
    next_due: int
    paused: bytes
    held: int
    lost: int
    buried: list[bytes]
    promoted: int
    refused: int
    strays: int
    taken_over: list[bytes]


def maintain(
    alone: ScriptsAlone,
    *,
    slots: int = 10,
    empty_hands: int = 1,
    go_on: int = 0,
    max_deliveries: int = 4,
    dead_max: int = 100,
    when_full: str = "refuse",
    prune_ms: int = NEVER_MS,
    look_anyway: int = 0,
    disowned: tuple[str, ...] = (),
) -> Round:
    """Do one round for the consumer `me`, long after the last sweep and just after somebody was seen alive."""
    head = (GROUP, ME, LEASE_MS, slots, empty_hands, INTERVAL_MS, go_on, max_deliveries, dead_max, when_full, 60_000)
    entries, *figures = alone.run("maintain", *head, prune_ms, look_anyway, *disowned)
    return Round([(fields[1].decode(), count) for _, count, fields in entries], *figures)


def left_by(alone: ScriptsAlone, consumer: str, *event_ids: str, count: int = 1, meta: str = '{"v":1}') -> list[str]:
    """Let a consumer take events and not be heard of for longer than the lease; return their entry ids."""
    alone.enqueue(*event_ids, meta=meta)
    entry_ids = alone.read(len(event_ids), consumer)
    for entry_id in entry_ids:
        alone.claim(entry_id, consumer, idle_ms=EXPIRED, count=count)
    return entry_ids


# --- promotion ---


def test_due_events_are_promoted_in_order_and_the_others_are_announced(alone: ScriptsAlone) -> None:
    """By the server's time; the reply says when the next one is due, and how much is held."""
    now = alone.now_ms()
    for event_id, due in (("second", now - 10), ("later", now + 50_000), ("first", now - 20)):
        alone.delay(event_id, due, meta='{"v":1,"d":2,"x":[]}')

    done = maintain(alone)

    assert (done.promoted, done.held) == (2, 3)
    assert 40_000 < done.next_due <= 50_000
    assert alone.look() == look("first second", delayed="later")
    assert alone.fields("first") == {"id": b"first", "payload": b'{"n": "first"}', "meta": b'{"v":1,"d":2,"x":[]}'}


def test_nothing_delayed_is_told_apart_from_due_now(alone: ScriptsAlone) -> None:
    """-1 says that there is nothing to wait for, 0 that more is due than one round promotes."""
    assert maintain(alone).next_due == -1
    for number in range(201):
        alone.delay(f"e{number}", 1, prefix=str(number))

    done = maintain(alone)

    assert (done.promoted, done.next_due, done.held) == (200, 0, 201)


def test_a_round_promotes_without_free_slots(alone: ScriptsAlone) -> None:
    """Others may have some."""
    alone.delay("a", 1)
    assert maintain(alone, slots=0).promoted == 1
    assert alone.look() == look("a")


def test_a_member_that_cannot_be_read_is_buried_and_the_rest_goes_on(alone: ScriptsAlone) -> None:
    """Its bytes are kept, with the reason."""
    alone.raw.zadd(alone.keys.delayed, {b"\xff not ours": 1})
    alone.delay("a", 2)
    before = alone.now_ms()

    done = maintain(alone)

    assert (done.promoted, done.buried, done.refused) == (1, [b""], 0)
    assert alone.look() == look("a", dead=[("?", "undecodable")], died=1)
    ((_, letter),) = alone.raw.xrange(alone.keys.dead)
    assert (letter[b"payload"], letter[b"deliveries"]) == (b"\xff not ours", b"0")
    assert letter[b"error"]
    assert before <= int(letter[b"enqueued_ms"]) <= alone.now_ms()


def test_a_member_that_cannot_be_buried_is_put_off(alone: ScriptsAlone) -> None:
    """With full dead letters it is looked at again after max_delay, and blocks nobody meanwhile."""
    alone.raw.zadd(alone.keys.delayed, {b"not ours": 1})
    alone.delay("a", 2)
    before = alone.now_ms()

    done = maintain(alone, dead_max=0)

    assert (done.promoted, done.buried, done.refused) == (1, [], 1)
    assert alone.fields("a")
    ((member, due),) = alone.raw.zrange(alone.keys.delayed, 0, -1, withscores=True)
    assert member == b"not ours"
    assert before + 60_000 <= due <= alone.now_ms() + 60_000


# --- reclaim ---


def test_what_a_crashed_consumer_left_is_claimed(alone: ScriptsAlone) -> None:
    """Owner and count change, the lease begins anew, the fields come along; what is still leased stays."""
    first, second = left_by(alone, OTHER, "a", "b")
    alone.claim(second, OTHER, idle_ms=ALIVE)

    done = maintain(alone)

    assert (done.claimed, done.swept, done.more, done.lost, done.held) == ([("a", 2)], 1, 0, 0, 2)
    assert alone.look() == look("", [("a", ME, 2), ("b", OTHER, 1)], enqueued=2, reclaimed=1)
    assert alone.pending()[first][2] < ALIVE


def test_the_reply_carries_the_entry(alone: ScriptsAlone) -> None:
    """Entry id, new delivery count and all fields as they are stored."""
    (entry_id,) = left_by(alone, OTHER, "a")
    (entries, *_) = alone.run(
        "maintain", GROUP, ME, LEASE_MS, 10, 1, INTERVAL_MS, 0, 4, 100, "refuse", 60_000, NEVER_MS, 0
    )
    assert entries == [[entry_id.encode(), 2, [b"id", b"a", b"payload", b'{"n": "a"}', b"meta", b'{"v":1}']]]


def test_nothing_to_claim_counts_nothing(alone: ScriptsAlone) -> None:
    """A sweep over living consumers leaves the totals alone."""
    alone.enqueue("a")
    alone.read(1, OTHER)

    done = maintain(alone)

    assert (done.claimed, done.swept, done.more) == ([], 1, 0)
    assert alone.look() == look("", [("a", OTHER, 1)], enqueued=1)


def test_a_consumer_never_claims_its_own_unless_it_has_disowned_it(alone: ScriptsAlone) -> None:
    """What it holds is renewed by its keeper; what it gave up may come back to it."""
    held, given_up = left_by(alone, ME, "held", "given-up")
    assert held

    assert maintain(alone, disowned=(given_up,)).claimed == [("given-up", 2)]
    assert alone.look() == look("", [("held", ME, 1), ("given-up", ME, 2)], enqueued=2, reclaimed=1)


@pytest.mark.parametrize(("slots", "claimed", "more"), [(1, 1, 1), (2, 2, 1), (3, 3, 0), (4, 3, 0)])
def test_no_more_is_claimed_than_there_are_free_slots(slots: int, claimed: int, more: int, alone: ScriptsAlone) -> None:
    """The reply says if there is more; it stays with its last owner until then."""
    left_by(alone, OTHER, "a", "b", "c")

    done = maintain(alone, slots=slots)

    assert (done.claimed, done.more) == ([("a", 2), ("b", 2), ("c", 2)][:claimed], more)
    assert [owner for _, owner, _ in alone.look().in_flight] == [ME] * claimed + [OTHER] * (3 - claimed)


def test_expired_entries_behind_hundreds_of_our_own_are_found(alone: ScriptsAlone) -> None:
    """Page after page, whatever stands before them."""
    left_by(alone, ME, *(f"e{number}" for number in range(250)))
    left_by(alone, OTHER, "a")
    assert maintain(alone).claimed == [("a", 2)]


def test_a_sweep_ends_after_a_thousand_entries(alone: ScriptsAlone) -> None:
    """Its cost is bounded; the first thousand are the oldest."""
    for start in range(0, 1000, 250):
        names = [f"e{number}" for number in range(start, start + 250)]
        alone.enqueue(*names)
    for entry_id in alone.read(1000):
        alone.claim(entry_id, ME, idle_ms=EXPIRED)
    left_by(alone, OTHER, "a")
    assert maintain(alone, slots=1).claimed == []


def test_an_entry_deleted_behind_the_groups_back_is_counted_as_lost(alone: ScriptsAlone) -> None:
    """It is taken out of the pending entries, and the sweep goes on."""
    gone, _ = left_by(alone, OTHER, "gone", "a")
    alone.raw.xdel(alone.keys.stream, gone)

    done = maintain(alone)

    assert (done.lost, done.claimed) == (1, [("a", 2)])
    assert alone.look() == look("", [("a", ME, 2)], enqueued=2, reclaimed=1, lost=1)


# --- how often, and by whom ---


def test_one_sweep_per_interval_for_the_whole_fleet(alone: ScriptsAlone) -> None:
    """Within the interval nobody looks again, but promotion goes on."""
    maintain(alone)
    left_by(alone, OTHER, "a")
    alone.delay("due", 1)

    done = maintain(alone)

    assert (done.swept, done.claimed, done.promoted) == (0, [], 1)


@pytest.mark.parametrize(
    ("swept_ago_ms", "swept"),
    [(INTERVAL_MS + 100, 1), (INTERVAL_MS - 500, 0), (-60_000, 1)],
    ids=["long ago", "just now", "in the future"],
)
def test_the_gate_opens_after_the_interval(swept_ago_ms: int, swept: int, alone: ScriptsAlone) -> None:
    """A time in the future, left by a clock that was set back, does not keep it shut."""
    left_by(alone, OTHER, "a")
    alone.raw.hset(alone.keys.stats, "swept_ms", alone.now_ms() - swept_ago_ms)

    done = maintain(alone)

    assert (done.swept, len(done.claimed)) == (swept, swept)
    if swept:
        assert abs((alone.stat("swept_ms") or 0) - alone.now_ms()) < 10_000


@pytest.mark.parametrize(("swept_ago_ms", "swept"), [(INTERVAL_MS + 200, 0), (4_000, 1)])
def test_the_more_is_pending_the_less_often_it_is_swept(swept_ago_ms: int, swept: int, alone: ScriptsAlone) -> None:
    """300,000 entries, looked at every three seconds."""
    left_by(alone, OTHER, "a")
    fill = """
        for _ = 1, 10000 do redis.call('XADD', KEYS[1], '*', 'id', 'e') end
        redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', 10000, 'STREAMS', KEYS[1], '>')
    """
    for _ in range(30):
        alone.raw.eval(fill, 1, alone.keys.stream, GROUP, OTHER)
    alone.raw.hset(alone.keys.stats, "swept_ms", alone.now_ms() - swept_ago_ms)

    done = maintain(alone)

    assert (done.swept, len(done.claimed)) == (swept, swept)


def test_a_sweep_that_leaves_something_leaves_the_gate_open(alone: ScriptsAlone) -> None:
    """Everybody with a free slot may claim at once: not only who was there first, with a slow handler perhaps."""
    left_by(alone, OTHER, "a", "b", "c")
    assert maintain(alone, slots=1).claimed == [("a", 2)]
    assert maintain(alone, slots=1).claimed == [("b", 2)]
    assert maintain(alone, slots=1).claimed == [("c", 2)]
    left_by(alone, OTHER, "d")
    assert maintain(alone, slots=1).claimed == []
    assert maintain(alone, slots=1, go_on=1).claimed == [("d", 2)]


def test_who_has_no_free_slot_leaves_the_sweep_to_others(alone: ScriptsAlone) -> None:
    """The gate stays open for them."""
    left_by(alone, OTHER, "a")

    done = maintain(alone, slots=0)

    assert (done.swept, done.claimed) == (0, [])
    assert alone.stat("swept_ms") is None


def test_who_comes_too_early_is_told_when_to_come_back(alone: ScriptsAlone) -> None:
    """When the gate opens, unless something delayed is due before; who has no free slot need not come for the gate."""
    maintain(alone)
    assert 0 < maintain(alone).next_due <= INTERVAL_MS
    alone.delay("later", alone.now_ms() + 50_000)
    assert 0 < maintain(alone).next_due <= INTERVAL_MS
    assert maintain(alone, slots=0).next_due > INTERVAL_MS
    alone.delay("soon", alone.now_ms() + 300)
    assert 0 <= maintain(alone).next_due <= 300


def test_who_swept_comes_back_for_what_is_delayed(alone: ScriptsAlone) -> None:
    """The gate is no reason: it was open."""
    assert maintain(alone).next_due == -1


def test_who_has_to_wait_for_others_to_renew_is_told_so(alone: ScriptsAlone) -> None:
    """The time that is left of the hold."""
    alone.raw.hset(alone.keys.stats, mapping={"alive_ms": alone.now_ms(), "hold_ms": alone.now_ms() + 4_000})
    assert INTERVAL_MS < maintain(alone).next_due <= 4_000


def test_who_has_no_free_slot_may_look_all_the_same(alone: ScriptsAlone) -> None:
    """It claims nothing and learns whether to make room."""
    left_by(alone, OTHER, "a")

    done = maintain(alone, slots=0, look_anyway=1)

    assert (done.swept, done.claimed, done.more) == (1, [], 1)
    assert alone.look() == look("", [("a", OTHER, 1)], enqueued=1)


# --- who crashed its consumers ---


def test_the_last_run_of_an_event_that_crashes_is_made_alone(alone: ScriptsAlone) -> None:
    """It is claimed first and nothing beside it, by a consumer with empty hands."""
    left_by(alone, OTHER, "suspect", "a", count=3)
    alone.enqueue("b")

    done = maintain(alone, max_deliveries=4)

    assert (done.claimed, done.alone, done.more, done.waits_alone) == ([("suspect", 4)], 1, 1, 0)
    assert alone.look() == look("b", [("suspect", ME, 4), ("a", OTHER, 3)], enqueued=3, reclaimed=1)


def test_a_suspect_waits_for_empty_hands_and_the_others_do_not(alone: ScriptsAlone) -> None:
    """A busy consumer leaves it and takes what is not suspected."""
    left_by(alone, OTHER, "suspect", count=3)
    left_by(alone, OTHER, "a", count=2)

    done = maintain(alone, empty_hands=0, max_deliveries=4)

    assert (done.claimed, done.alone, done.waits_alone, done.more) == ([("a", 3)], 0, 1, 0)
    assert alone.look() == look("", [("suspect", OTHER, 3), ("a", ME, 3)], enqueued=2, reclaimed=1)


def test_a_suspect_is_not_claimed_beside_others(alone: ScriptsAlone) -> None:
    """It waits for the next sweep."""
    left_by(alone, OTHER, "a", count=1)
    left_by(alone, OTHER, "suspect", count=3)

    done = maintain(alone, max_deliveries=4)

    assert (done.claimed, done.alone, done.more, done.waits_alone) == ([("a", 2)], 0, 1, 0)


@pytest.mark.parametrize(("earlier", "count", "alone_now"), [(0, 2, 0), (0, 3, 1), (1, 2, 1), (2, 1, 1), (1, 1, 0)])
def test_deliveries_of_all_entries_decide_which_run_is_the_last(
    earlier: int, count: int, alone_now: int, alone: ScriptsAlone
) -> None:
    """Those in the meta and those of the pending entry add up; retries after failures count as crashes do."""
    left_by(alone, OTHER, "a", count=count, meta=f'{{"v":1,"d":{earlier}}}')

    done = maintain(alone, max_deliveries=4)

    assert (done.claimed, done.alone) == ([("a", count + 1)], alone_now)


def test_who_crashed_alone_is_buried(alone: ScriptsAlone) -> None:
    """With the deliveries of all its entries; and the sweep goes on."""
    (entry_id,) = left_by(alone, OTHER, "killer", count=4, meta='{"v":1,"d":1}')
    left_by(alone, OTHER, "a")

    done = maintain(alone, max_deliveries=4)

    assert (done.buried, done.claimed) == ([b"killer"], [("a", 2)])
    assert alone.look() == look("", [("a", ME, 2)], dead=[("killer", "crashed")], enqueued=2, died=1, reclaimed=1)
    letter = alone.fields("killer", "dead")
    assert (letter["deliveries"], letter["enqueued_ms"].decode()) == (b"5", entry_id.split("-")[0])
    assert letter["error"]


def test_an_event_is_buried_exactly_at_the_limit(alone: ScriptsAlone) -> None:
    """One delivery fewer and it gets its last run."""
    left_by(alone, OTHER, "dead", count=4)
    left_by(alone, OTHER, "suspect", count=3)

    done = maintain(alone, max_deliveries=4)

    assert (done.buried, done.claimed, done.alone) == ([b"dead"], [("suspect", 4)], 1)


def test_a_crash_of_a_first_claim_is_never_enough_to_bury(alone: ScriptsAlone) -> None:
    """An event past its limit by earlier retries has not yet run alone: it is claimed once more, alone."""
    left_by(alone, OTHER, "a", count=1, meta='{"v":1,"d":9}')

    done = maintain(alone, max_deliveries=4)

    assert (done.buried, done.claimed, done.alone) == ([], [("a", 2)], 1)


def test_a_second_claim_past_the_limit_was_a_run_alone(alone: ScriptsAlone) -> None:
    """Two deliveries of its pending entry are enough to bury it, if those before them used up the limit."""
    left_by(alone, OTHER, "killer", count=2, meta='{"v":1,"d":3}')

    assert maintain(alone, max_deliveries=4).buried == [b"killer"]


def test_a_killer_that_cannot_be_buried_is_put_off(alone: ScriptsAlone) -> None:
    """With full dead letters it goes to the delayed set, with its deliveries, and runs no more."""
    alone.bury("x")
    (entry_id,) = left_by(alone, OTHER, "killer", count=4)
    before = alone.now_ms()

    done = maintain(alone, max_deliveries=4, dead_max=1)

    assert (done.buried, done.refused, done.claimed) == ([], 1, [])
    assert alone.look() == look(delayed="killer", dead=[("x", "rejected")], enqueued=1)
    assert alone.meta("killer", "delayed") == {"v": 1, "d": 4}
    assert before + 60_000 <= alone.delayed()[0][0] <= alone.now_ms() + 60_000
    assert f"{entry_id}-4".encode() in alone.raw.zrange(alone.keys.delayed, 0, -1)[0]


def test_an_entry_with_thousands_of_fields_does_not_stop_the_sweep(alone: ScriptsAlone) -> None:
    """Whatever becomes of it, what stands behind it is claimed."""
    alone.raw.xadd(alone.keys.stream, {f"field-{number}": "x" for number in range(5000)})
    (wide,) = alone.read(1, OTHER)
    alone.claim(wide, OTHER, idle_ms=EXPIRED, count=4)
    left_by(alone, OTHER, "a")

    assert maintain(alone, max_deliveries=4).claimed == [("a", 2)]


# --- after a time in which nobody looked ---


@pytest.mark.parametrize("gap_ms", [LEASE_MS // 2 + 1_000, -LEASE_MS // 2 - 1_000], ids=["gap", "clock set back"])
def test_after_a_gap_everybody_has_half_a_lease_to_renew(gap_ms: int, alone: ScriptsAlone) -> None:
    """Nothing is claimed meanwhile, also not by those who go on; then it is."""
    (entry_id,) = left_by(alone, OTHER, "a")
    alone.raw.hset(alone.keys.stats, "alive_ms", alone.now_ms() - gap_ms)

    first = maintain(alone)

    hold, now = alone.stat("hold_ms") or 0, alone.now_ms()
    assert (first.swept, first.claimed) == (0, [])
    assert 0 < hold - now <= LEASE_MS // 2
    assert abs((alone.stat("alive_ms") or 0) - now) < 10_000
    assert maintain(alone, go_on=1).claimed == []
    assert (alone.stat("hold_ms") or 0) == hold
    alone.raw.hset(alone.keys.stats, "hold_ms", now - 1)
    alone.claim(entry_id, OTHER, idle_ms=EXPIRED)
    assert maintain(alone).claimed == [("a", 2)]


def test_after_the_clock_was_set_back_everything_pending_counts_as_delivered_now(alone: ScriptsAlone) -> None:
    """Once, whoever noticed it, and for as many as there are; owners and counts stay, what is deleted is still lost."""
    gone, first, *_ = left_by(alone, OTHER, "gone", *(f"e{number}" for number in range(150)), count=2)
    alone.raw.xdel(alone.keys.stream, gone)
    alone.raw.hset(alone.keys.stats, "alive_ms", alone.now_ms() + LEASE_MS)
    alone.run("extend", GROUP, ME, LEASE_MS)

    maintain(alone, slots=0)

    assert {held[:2] for held in alone.pending().values()} == {(OTHER, 2)}
    assert all(idle < EXPIRED for entry_id, (_, _, idle) in alone.pending().items() if entry_id != gone)
    alone.claim(first, OTHER, idle_ms=EXPIRED)
    alone.raw.hdel(alone.keys.stats, "hold_ms")
    done = maintain(alone)
    assert (done.claimed, done.lost) == ([("e0", 3)], 1)


@pytest.mark.parametrize("gap_ms", [LEASE_MS // 2 - 2_000, -LEASE_MS // 2 + 2_000])
def test_a_short_pause_is_no_gap(gap_ms: int, alone: ScriptsAlone) -> None:
    """Below half a lease everybody had time to renew."""
    left_by(alone, OTHER, "a")
    alone.raw.hset(alone.keys.stats, "alive_ms", alone.now_ms() - gap_ms)

    assert maintain(alone).claimed == [("a", 2)]
    assert alone.stat("hold_ms") is None


def test_a_new_queue_has_no_gap(alone: ScriptsAlone) -> None:
    """Where nobody ever looked, nobody has to be waited for."""
    left_by(alone, OTHER, "a")
    assert alone.stat("alive_ms") is None

    assert maintain(alone).claimed == [("a", 2)]
    assert abs((alone.stat("alive_ms") or 0) - alone.now_ms()) < 10_000


def test_a_hold_further_away_than_half_a_lease_is_not_believed(alone: ScriptsAlone) -> None:
    """Left by a clock that was set back, it would stop all reclaiming for hours."""
    left_by(alone, OTHER, "a")
    alone.raw.hset(alone.keys.stats, mapping={"alive_ms": alone.now_ms(), "hold_ms": alone.now_ms() + 3_600_000})

    assert maintain(alone).claimed == [("a", 2)]


def test_a_hold_of_less_than_half_a_lease_is_believed(alone: ScriptsAlone) -> None:
    """Whoever set it: all consumers keep it."""
    left_by(alone, OTHER, "a")
    alone.raw.hset(alone.keys.stats, mapping={"alive_ms": alone.now_ms(), "hold_ms": alone.now_ms() + 4_000})

    assert maintain(alone).claimed == []


def test_each_round_says_that_somebody_is_alive(alone: ScriptsAlone) -> None:
    """Also one that does not sweep."""
    alone.raw.hset(alone.keys.stats, "alive_ms", alone.now_ms() - 2_000)
    before = alone.now_ms()

    maintain(alone, slots=0)

    assert before <= (alone.stat("alive_ms") or 0) <= alone.now_ms()


# --- consumers of ended processes ---


def idle_consumers(alone: ScriptsAlone) -> None:
    """Make consumers: this one, one with a pending entry, and one with nothing; all of them are idle."""
    alone.enqueue("a")
    alone.read(1, "holder")
    for name in (ME, "ended"):
        alone.raw.xgroup_createconsumer(alone.keys.stream, GROUP, name)


def later_ms(alone: ScriptsAlone, milliseconds: int) -> None:
    """Let so many milliseconds go by on the server's clock."""
    deadline = alone.now_ms() + milliseconds
    while alone.now_ms() <= deadline:
        pass


def test_idle_consumers_without_entries_are_removed(alone: ScriptsAlone) -> None:
    """Neither this one, nor one for which an entry is pending: its entries would be lost with it."""
    idle_consumers(alone)
    later_ms(alone, 5)

    maintain(alone, prune_ms=2)

    assert alone.consumers() == {ME, "holder"}
    assert alone.look() == look("", [("a", "holder", 1)], enqueued=1)
    assert abs((alone.stat("pruned_ms") or 0) - alone.now_ms()) < 10_000


def test_consumers_that_were_heard_of_are_kept(alone: ScriptsAlone) -> None:
    """Idle for less than the limit is not ended."""
    idle_consumers(alone)

    maintain(alone, prune_ms=60_000)

    assert alone.consumers() == {ME, "holder", "ended"}
    assert alone.stat("pruned_ms")


@pytest.mark.parametrize(("pruned_ago_ms", "pruned"), [(-60_000, True), (30_000, False), (200_000, True)])
def test_pruning_has_its_own_interval(pruned_ago_ms: int, pruned: bool, alone: ScriptsAlone) -> None:
    """Once per limit for the whole fleet; a time in the future does not put it off."""
    then = alone.now_ms() - pruned_ago_ms
    alone.raw.hset(alone.keys.stats, "pruned_ms", then)

    maintain(alone, prune_ms=100_000)

    assert (alone.stat("pruned_ms") != then) == pruned


def test_what_is_paused_is_told(alone: ScriptsAlone) -> None:
    """Consumers learn from each round whether to hand out."""
    assert maintain(alone).paused == b""
    alone.raw.hset(alone.keys.stats, "paused", "delivery")
    assert maintain(alone).paused == b"delivery"


def test_an_own_entry_that_expired_unknown_is_told(alone: ScriptsAlone) -> None:
    """A living keeper renews all that is held: an expired entry of ours is one whose delivery was lost on the way."""
    (stray,) = left_by(alone, ME, "a")

    done = maintain(alone)

    assert done.strays == 1
    assert alone.look() == look("", [("a", ME, 1)], enqueued=1)
    assert maintain(alone, disowned=(stray,)).strays == 0


def test_who_took_over_what_was_disowned_is_told(alone: ScriptsAlone) -> None:
    """Ids that are pending for others, or for nobody, need not be sent again."""
    mine, others = left_by(alone, ME, "a")[0], left_by(alone, OTHER, "b")[0]
    alone.claim(mine, ME)
    alone.claim(others, OTHER)

    assert maintain(alone, disowned=(mine, others, "1-1")).taken_over == [others.encode(), b"1-1"]
