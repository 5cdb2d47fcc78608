"""Measurements: side by side with the peers in one run, steps interleaved, work checked to be the same before timing.

    python -m benchmarks.run       speed against TRL and transformers on two CPU cores; fails under a gate
    python -m benchmarks.memory    peak memory of PPO's four roles over that of SFT
    python -m benchmarks.overoptimise FOLDER   true score and proxy at every checkpoint of a demonstration
    python -m benchmarks.annotators   whose taste a policy learns, and what noise costs a reward model
    python -m benchmarks.gpu       everything worth measuring on a CUDA machine

Each contender lives in its own process and does one step whenever it is told to (`benchmarks.turns`), so that both see
the same machine. Results are written to benchmarks/results/.
"""
