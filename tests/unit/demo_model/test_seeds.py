"""Training and evaluation never share a random stream."""

from infra.demo_model import seeds


def test_training_and_evaluation_draw_from_different_streams() -> None:
    streams = [seeds.train(3, 4), seeds.check(3, 4), seeds.evaluate(3, 4), seeds.bundle(3, 4)]
    drawn = [tuple(rng.integers(0, 2**32, 4)) for rng in streams]
    assert len(set(drawn)) == len(streams)


def test_no_key_of_training_reaches_a_stream_of_the_evaluation() -> None:
    assert len({seeds.TRAIN, seeds.CHECK, seeds.EVALUATE, seeds.BUNDLE}) == 4
    assert seeds.train(7, 0).bit_generator.seed_seq.entropy == [seeds.TRAIN, 7, 0]  # type: ignore[attr-defined]
    assert seeds.evaluate(7, 0).bit_generator.seed_seq.entropy == [seeds.EVALUATE, 7, 0]  # type: ignore[attr-defined]
