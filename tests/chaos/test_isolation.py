"""Writers that overlap, wait and roll back at random, while workers and readers follow: nobody steps over anything."""

BATCH = 200
LONG = 30.0


def test_many_writers_that_roll_back_at_random_leave_nothing_out_and_keep_the_order_of_each_record(scene, scale):
    """A transaction in ten is rolled back, as are many of their savepoints; each counts a record under its lock."""
    scene.prepare(counters=scale.records)
    # On SQLite each waits for all others, so that a delay is everybody's.
    delay = 0.002 if scene.backend == "SQLite" else 0.05
    writers = [
        scene.start("produce", name=f"w{number}", transactions=scale.written, threads=4, seed=scene.seed, delay=delay)
        for number in range(scale.writers)
    ]
    workers = [scene.start("serve", batch=BATCH, lease=LONG) for _ in range(2)]
    readers = [scene.start("read", name=f"r{number}") for number in range(2)]
    for child in writers:
        assert 0 == scene.nursery.wait(child)
    scene.ledger.write("closed")
    for child in workers:
        assert 0 == scene.nursery.wait(child)
    scene.play("deliver", batch=BATCH, lease=LONG)
    # Not before: what handlers emit is in the log as well.
    scene.ledger.write("delivered")
    for child in readers:
        assert 0 == scene.nursery.wait(child)

    verdict = scene.verify("writers with rollbacks")

    assert 0 == verdict.duplicates
    assert 2 == len(scene.ledger.read("read"))
