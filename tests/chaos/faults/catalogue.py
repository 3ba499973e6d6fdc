"""Every fault by name. A run draws its schedule from their order: while that stays, so does the schedule of a seed."""

from collections.abc import Callable

from tests.chaos.faults import intake, network, processes, receiver, storage, store, workers
from tests.chaos.faults.base import Run

Inject = Callable[[Run], None]

FAULTS: dict[str, Inject] = {
    inject.__name__: inject
    for inject in (
        workers.kill_worker,
        workers.freeze_worker,
        workers.stop_worker,
        processes.stop_another,
        processes.freeze_another,
        workers.lose_hints,
        workers.kill_after_result,
        workers.kill_after_finish,
        intake.kill_intake,
        intake.kill_intake_at_every_step,
        intake.kill_intake_child,
        intake.kill_intake_supervisor,
        processes.kill_reconciler,
        processes.kill_dispatcher,
        processes.kill_batches,
        workers.poison,
        workers.hang,
        workers.jump_clock,
        store.restart_store,
        store.fill_store,
        store.lose_store,
        store.fail_over,
        store.crash_over,
        storage.s3_down,
        storage.s3_slow,
        storage.s3_busy,
        storage.s3_full,
        storage.restart_storage,
        network.cut_worker,
        network.hold_store,
        network.half_open,
        network.reset_store,
        network.slow_store,
        receiver.receiver_down,
        receiver.receiver_moody,
    )
}
