"""The whole job on one GPU: a real engine, a real policy, real training runs, and a peer beside them.

python -m bench.whole_run --suite h200 --out bench/results     # one H100 or H200; every part under 8 minutes
python -m bench.whole_run --suite smoke --out runs/smoke       # minutes on a CPU: that every part runs, and no more
"""
