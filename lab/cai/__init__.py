"""Constitutional AI as a stack of stages: revisions, SFT on them, labels by the constitution, and RL or DPO."""
