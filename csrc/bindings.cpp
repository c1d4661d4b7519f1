// lightning_autoarch._C: the functions of prune.h as Python sees them, and nothing else.
// Pointers and streams come as integers; lightning_autoarch/prune/_ops.py is the only caller and checks the tensors.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <string>

#include "autoarch_build_config.h"  // written by setup.py for each build
#include "prune.h"

namespace py = pybind11;

namespace {

std::string compiler() {
#if defined(__clang__)
  return std::string("clang ") + __clang_version__;
#elif defined(__GNUC__)
  return std::string("gcc ") + __VERSION__;
#elif defined(_MSC_VER)
  return "MSVC " + std::to_string(_MSC_FULL_VER);
#else
  return "unknown";
#endif
}

py::dict build_info() {
  py::dict info;
  info["version"] = AUTOARCH_VERSION;
  info["compiler"] = compiler();
  info["cpp_standard"] = static_cast<long>(__cplusplus);
  info["pybind11"] = PYBIND11_TOSTRING(PYBIND11_VERSION_MAJOR) "." PYBIND11_TOSTRING(
      PYBIND11_VERSION_MINOR) "." PYBIND11_TOSTRING(PYBIND11_VERSION_PATCH);
  info["cuda"] = static_cast<bool>(AUTOARCH_CUDA);
  info["cuda_compiler"] = AUTOARCH_CUDA_COMPILER;
  info["cuda_architectures"] = AUTOARCH_CUDA_ARCHITECTURES;
  info["cuda_note"] = AUTOARCH_CUDA_NOTE;
  return info;
}

py::dict cuda_state() {
  const autoarch::cuda::State now = [] {
    const py::gil_scoped_release release;
    return autoarch::cuda::state();
  }();
  py::dict state;
  state["available"] = now.error.empty();
  state["device_count"] = now.device_count;
  state["runtime_version"] = now.runtime_version;
  state["driver_version"] = now.driver_version;
  state["error"] = now.error;
  return state;
}

std::int64_t count_nonzero(std::uintptr_t data, std::int64_t n, autoarch::Dtype dtype) {
  return autoarch::count_nonzero(reinterpret_cast<const void*>(data), n, dtype);
}

void count_nonzero_cuda(std::uintptr_t data, std::int64_t n, autoarch::Dtype dtype, std::uintptr_t count, int device,
                        std::uintptr_t stream) {
  autoarch::cuda::count_nonzero(reinterpret_cast<const void*>(data), n, dtype,
                                reinterpret_cast<std::uint64_t*>(count), device, reinterpret_cast<void*>(stream));
}

}  // namespace

// No function has state of its own, so a free-threaded Python may call them at once.
PYBIND11_MODULE(_C, m, py::mod_gil_not_used()) {
  using autoarch::Dtype;
  m.doc() = "Compiled part of lightning_autoarch. Private: call it through lightning_autoarch.prune.";

  py::enum_<Dtype>(m, "Dtype")
      .value("float32", Dtype::float32)
      .value("float64", Dtype::float64)
      .value("bfloat16", Dtype::bfloat16)
      .value("float16", Dtype::float16);

  m.def("build_info", &build_info, "What this extension was built from and with.");
  m.def("cpu_features", &autoarch::cpu_features, "Instruction sets that the processor offers and the kernels can use.");
  m.def("cuda_state", &cuda_state, "What the CUDA runtime says now. Initialises the driver, creates no context.");

  const auto no_gil = py::call_guard<py::gil_scoped_release>();
  m.def("count_nonzero", &count_nonzero, no_gil, py::arg("data"), py::arg("n"), py::arg("dtype"));
  m.def("count_nonzero_cuda", &count_nonzero_cuda, no_gil, py::arg("data"), py::arg("n"), py::arg("dtype"),
        py::arg("count"), py::arg("device"), py::arg("stream"));
}
