import sys

from fastsvs.cli import main

status = main()
if status == 0 and "torch.distributed" in sys.modules:
    from fastsvs import distributed

    distributed.leave()
sys.exit(status)
