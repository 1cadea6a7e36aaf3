"""The task that all federated contestants share: clients' data and the schedule.

NumPy only, so that every environment can import it.
"""

import numpy as np

NUM_CLIENTS, EXAMPLES, CLASSES = 100, 100, 62
COHORT, EPOCHS, BATCH = 10, 5, 20
LEARNING_RATE = 0.05


def images(seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Draws every client's examples: random images with random labels."""
    rng = np.random.default_rng(seed)
    draw = lambda: {
        "x": rng.random((EXAMPLES, 28, 28, 1), np.float32),
        "y": rng.integers(CLASSES, size=EXAMPLES, dtype=np.int32),
    }
    return [draw() for _ in range(NUM_CLIENTS)]
