"""The threads that OpenMP keeps for each thread that has computed in parallel."""

import ctypes

SOFT_PAUSE = 1  # omp_pause_soft of omp.h: threads go, settings stay


def release_threads() -> bool:
    """End the calling thread's OpenMP threads, which come back with its next parallel loop; False: no way to.

    libgomp counts the threads of all teams, idle ones too. As soon as there are more than cores, those that wait for
    the next loop sleep at once instead of spinning (`gomp_managed_threads`, libgomp/config/linux/wait.h), and each
    small operation of a decoding step has to wake them.
    """
    try:
        return ctypes.CDLL(None).omp_pause_resource_all(SOFT_PAUSE) == 0  # type: ignore[no-any-return]
    except (AttributeError, OSError):
        return False
