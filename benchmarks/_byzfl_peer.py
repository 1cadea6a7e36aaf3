"""ByzFL's side of `robust_rules.py`; runs in the environment of `requirements/byzfl.txt`.

Every line of input is JSON: `{"load": path}` reads rows; `{"rule": name, "f": f, "form": form}`
asks for a turn of a rule on them, as NumPy array or torch tensor, and with `"save": path` for its
result.
"""

import gc
import json
import sys
import time
import types

# byzfl imports its training benchmark, which needs torchvision; the rules do not.
sys.modules["byzfl.benchmark"] = types.ModuleType("byzfl.benchmark")

import byzfl  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

RULES = {
    "median": lambda f: byzfl.Median(),
    "trimmed_mean": byzfl.TrMean,
    "krum": byzfl.Krum,
    "nnm": byzfl.NNM,
    "weiszfeld": lambda f: byzfl.GeometricMedian(nu=0.1, T=3),
}


def main() -> None:
    """Answers each turn with the seconds of CPU time it took."""
    torch.set_num_threads(1)
    gc.disable()
    rows = {}
    for line in sys.stdin:
        task = json.loads(line)
        if "load" in task:
            rows.clear()
            rows["numpy"] = np.load(task["load"])
            rows["torch"] = torch.from_numpy(rows["numpy"])
            print("ready", flush=True)
            continue
        rule = RULES[task["rule"]](task["f"])
        began = time.process_time()
        result = rule(rows[task["form"]])
        seconds = time.process_time() - began
        if "save" in task:
            np.save(task["save"], np.asarray(result))
        del result
        gc.collect()
        print(seconds, flush=True)


if __name__ == "__main__":
    main()
