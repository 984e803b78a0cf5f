"""Sampling: whole traces, at a rate, and what is kept whatever the rate."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from e2i_serving.record import Outcome
from e2i_serving.runtime.sampling import Sampler
from e2i_serving.settings import Settings

TRACES = [f"{number:032x}" for number in range(4000)]


def sampler(model: str = "scorer", **settings: object) -> Sampler:
    """A sampler by settings."""
    return Sampler(Settings(**settings), model)  # type: ignore[arg-type]


def test_by_default_everything_is_kept():
    """Without a rate each request is on record, and stands for itself."""
    assert sampler().fraction("predict", 200) == 1.0
    assert all(Sampler.keeps(trace, 1.0) for trace in TRACES)


@given(st.sampled_from([0.01, 0.1, 0.5, 0.9]))
def test_about_the_fraction_asked_for_is_kept(rate):
    """The kept share is the rate, within what chance allows for these traces."""
    kept = sum(Sampler.keeps(trace, rate) for trace in TRACES)
    assert abs(kept - rate * len(TRACES)) < 5 * (rate * (1 - rate) * len(TRACES)) ** 0.5


@given(st.sampled_from(TRACES), st.floats(0, 1), st.floats(0, 1))
def test_a_trace_that_is_kept_is_kept_at_every_higher_rate(trace, one, other):
    """Services with rates of their own keep the same traces as far as both keep any."""
    lower, higher = sorted((one, other))
    assert Sampler.keeps(trace, higher) or not Sampler.keeps(trace, lower)
    assert not Sampler.keeps(trace, 0.0)


def test_some_are_kept_whatever_the_rate():
    """Listed models and endpoints, and answers that are not 2xx, are on record and stand for themselves alone."""
    assert sampler(sampling_rate=0.1, sampling_always=("scorer",)).fraction("predict", 200) == 1.0
    listed = sampler(sampling_rate=0.1, sampling_always=("explain",))
    assert listed.fraction("explain", 200) == 1.0
    assert listed.fraction("predict", 200) == 0.1
    for status in (0, 302, 400, 500, 504):
        assert listed.fraction("predict", status) == 1.0
        assert sampler(sampling_rate=0.1, sampling_errors=False).fraction("predict", status) == 0.1


async def test_the_journal_is_sampled_and_the_observers_are_not(make_rig):
    """Each request is counted and seen; those that are kept say what fraction they stand for."""
    rig = make_rig(sampling_rate=0.5)
    for _ in range(200):
        await rig.request(rig.answering())
    for _ in range(10):
        await rig.request(rig.answering(400))
    kept = rig.journaled()
    assert len(rig.seen.records) == 210
    assert {record.sampling_fraction for record in kept if record.status == 200} == {0.5}
    assert [record.sampling_fraction for record in kept if record.outcome is Outcome.INVALID] == [1.0] * 10
    assert 60 < len(kept) - 10 < 140
    assert rig.metric("e2i_audit_records_observed_total") == 210
    assert rig.metric("e2i_audit_records_accepted_total") == len(kept)
    assert rig.metric("e2i_audit_records_sampled_out_total") == 210 - len(kept)
    books = rig.books()
    assert (books.observed, books.accepted, books.sampled_out) == (210, len(kept), 210 - len(kept))
    assert books.balanced


async def test_a_stream_that_is_left_out_has_no_end_on_record(make_rig):
    """What was not begun is not ended either."""
    rig = make_rig(sampling_rate=0.0)
    await rig.request(rig.streaming(2), "/stream")
    assert rig.journaled() == []
    assert len(rig.seen.records) == 1
    assert rig.books().sampled_out == 1
