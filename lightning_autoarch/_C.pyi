# Types of the compiled extension; what each function promises stands in csrc/prune.h.
from typing import Protocol, TypeAlias, TypedDict

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

Array: TypeAlias = tuple[int, int, list[int], list[int]]  # address, elements, sizes and strides if not contiguous
Where: TypeAlias = int | tuple[int, int]  # threads on the CPU; device and stream on CUDA

class Kernels(Protocol):
    """What the module itself (CPU) and its `cuda` have in common."""

    def apply_masks(self, arrays: list[Array], masks: list[int], dtype: Dtype, where: Where, /) -> None: ...
    def nm_mask(
        self, array: Array, shape: tuple[int, int, int], n: int, m: int, out: int, dtype: Dtype, where: Where, /
    ) -> None: ...
    def transposable_mask(
        self, array: Array, shape: tuple[int, int, int], out: int, dtype: Dtype, where: Where, /
    ) -> None: ...
    def soft_threshold(self, arrays: list[Array], amounts: list[float], dtype: Dtype, where: Where, /) -> None: ...
    def group_norms(
        self, array: Array, shape: tuple[int, int, int], p: int, norms: int, dtype: Dtype, where: Where, /
    ) -> None: ...
    def group_soft_threshold(
        self, array: Array, shape: tuple[int, int, int], norms: int, amount: float, dtype: Dtype, where: Where, /
    ) -> None: ...

class Cuda(Kernels):
    def select_scratch(self, arrays: list[Array], dtype: Dtype, /) -> int: ...
    def select(
        self,
        arrays: list[Array],
        given: list[int],
        out: list[int],
        remove: int,
        regrow: bool,
        keep_nan: bool,
        zero: bool,
        dtype: Dtype,
        scratch: int,
        scratch_bytes: int,
        where: Where,
        /,
    ) -> tuple[int, int, int, int]: ...
    def count_nonzero(self, data: int, n: int, dtype: Dtype, count: int, where: Where, /) -> None: ...

def build_info() -> BuildInfo: ...
def cpu_features() -> list[str]: ...
def instruction_sets() -> list[str]: ...
def instruction_set() -> str: ...
def cuda_state() -> CudaState: ...
def count_nonzero(data: int, n: int, dtype: Dtype) -> int: ...
def count_bits(words: int, n: int) -> int: ...
def apply_masks(arrays: list[Array], masks: list[int], dtype: Dtype, where: Where, /) -> None: ...
def nm_mask(
    array: Array, shape: tuple[int, int, int], n: int, m: int, out: int, dtype: Dtype, where: Where, /
) -> None: ...
def transposable_mask(array: Array, shape: tuple[int, int, int], out: int, dtype: Dtype, where: Where, /) -> None: ...
def soft_threshold(arrays: list[Array], amounts: list[float], dtype: Dtype, where: Where, /) -> None: ...
def group_norms(
    array: Array, shape: tuple[int, int, int], p: int, norms: int, dtype: Dtype, where: Where, /
) -> None: ...
def group_soft_threshold(
    array: Array, shape: tuple[int, int, int], norms: int, amount: float, dtype: Dtype, where: Where, /
) -> None: ...
def select(
    arrays: list[Array],
    given: list[int],
    out: list[int],
    remove: int,
    regrow: bool,
    keep_nan: bool,
    zero: bool,
    dtype: Dtype,
    threads: int,
    /,
) -> tuple[int, int, int, int]: ...

cuda: Cuda
