"""Trainer-only benchmark: one policy update on packed rows of random tokens, random weights, on one device.

python -m bench.trainer --suite h200 --out bench/results      # one GPU, under 9 minutes
python -m bench.trainer --suite smoke --out runs/smoke        # seconds on a CPU: checks the benchmark, measures nothing
"""
