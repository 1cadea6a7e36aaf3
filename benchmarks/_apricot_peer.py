"""apricot-select's side of `coreset.py`; runs in the environment of `requirements/apricot.txt`.

The first line of input, in JSON, says where the matrix of similarities lies and how many to
choose. A line with the name of an optimizer asks for a turn of it.
"""

import gc
import json
import sys
import time

import numpy as np
from apricot import FacilityLocationSelection


def main() -> None:
    """Answers each turn with its seconds of CPU time, the objective and the choice."""
    task = json.loads(sys.stdin.readline())
    similarity = np.load(task["similarity"])
    gc.disable()
    print("ready", flush=True)
    for line in sys.stdin:
        began = time.process_time()
        model = FacilityLocationSelection(
            task["budget"], metric="precomputed", optimizer=line.strip()
        ).fit(similarity)
        seconds = time.process_time() - began
        answer = {
            "seconds": seconds,
            "objective": float(model.gains.sum()),
            "indices": model.ranking.tolist(),
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
