# Types of the compiled extension; what each function promises stands in csrc/prune.h.
from typing import TypedDict

class BuildInfo(TypedDict):
    version: str
    compiler: str
    cpp_standard: int
    pybind11: str
    cuda: bool
    cuda_compiler: str
    cuda_architectures: str  # "sm_90 sm_100 compute_100"; empty without CUDA
    cuda_note: str  # why there is no CUDA; empty with it

class CudaState(TypedDict):
    available: bool
    device_count: int
    runtime_version: int  # 13000 is CUDA 13.0; 0 in a build without CUDA
    driver_version: int  # 0 without a driver
    error: str  # empty exactly if available

class Dtype:
    float32: Dtype
    float64: Dtype
    bfloat16: Dtype
    float16: Dtype

def build_info() -> BuildInfo: ...
def cpu_features() -> list[str]: ...
def cuda_state() -> CudaState: ...
def count_nonzero(data: int, n: int, dtype: Dtype) -> int: ...
def count_nonzero_cuda(data: int, n: int, dtype: Dtype, count: int, device: int, stream: int) -> None: ...
