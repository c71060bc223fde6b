"""GPU report: what torch sees, as JSON. A process of its own, since the command line loads no torch.

python -P -m shoal.node.doctor.gpu_report
"""

import sys

import msgspec
import torch

from shoal.node.doctor.machine import Gpu, GpuReport


def report() -> GpuReport:
    """Return the GPUs that torch can compute on."""
    gpus = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(index)
        gpus.append(Gpu(f"cuda:{index}", torch.cuda.get_device_name(index), int(free), int(total)))
    if torch.backends.mps.is_available():
        gpus.append(Gpu("mps", "the GPU of this Mac"))
    return GpuReport(torch=str(torch.__version__), gpus=gpus)


if __name__ == "__main__":
    sys.stdout.write(msgspec.json.encode(report()).decode() + "\n")
