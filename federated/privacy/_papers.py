"""The papers that several methods of this room stand on."""

from gradax.catalogue import Paper

DP_SGD = Paper("Deep Learning with Differential Privacy", "Abadi et al.", 2016, "1607.00133")
DP_FEDAVG = Paper(
    "Learning Differentially Private Recurrent Language Models",
    "McMahan et al.",
    2017,
    "1710.06963",
)
DIFF2 = Paper(
    "DIFF2: Differential Private Optimization via Gradient Differences for Nonconvex "
    "Distributed Learning",
    "Murata and Suzuki",
    2023,
    "2302.03884",
)
DICE = Paper(
    "Differentially Private SGD Without Clipping Bias: An Error-Feedback Approach",
    "Zhang et al.",
    2023,
    "2311.14632",
)
AUDIT = Paper(
    "Auditing Differentially Private Machine Learning: How Private is Private SGD?",
    "Jagielski et al.",
    2020,
    "2006.07709",
)
