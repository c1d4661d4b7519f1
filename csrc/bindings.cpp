// lightning_autoarch._C: the functions of prune.h as Python sees them, and nothing else.
// Pointers and streams come as integers; lightning_autoarch/prune/_ops.py is the only caller and checks the tensors. A
// function converts its arguments, then gives up the GIL for the work.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

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

// A tensor as Python hands it over: address, number of elements, and sizes and strides where it is not contiguous.
using PyArray = std::tuple<std::uintptr_t, std::int64_t, std::vector<std::int64_t>, std::vector<std::int64_t>>;

autoarch::Array array_of(const PyArray& from) {
  const auto& [data, n, size, stride] = from;
  autoarch::Array array;
  array.data = reinterpret_cast<void*>(data);
  array.n = n;
  if (size.size() > autoarch::max_dims || size.size() != stride.size())
    throw std::invalid_argument("Expected at most " + std::to_string(autoarch::max_dims) +
                                " dimensions that cannot be merged, got " + std::to_string(size.size()) + ".");
  array.layout.dims = static_cast<int>(size.size());
  std::copy(size.begin(), size.end(), array.layout.size);
  std::copy(stride.begin(), stride.end(), array.layout.stride);
  return array;
}

autoarch::Arrays arrays_of(const std::vector<PyArray>& from) {
  autoarch::Arrays arrays;
  arrays.reserve(from.size());
  for (const PyArray& each : from) arrays.push_back(array_of(each));
  return arrays;
}

template <typename Pointer>
std::vector<Pointer> pointers(const std::vector<std::uintptr_t>& from) {
  std::vector<Pointer> result;
  result.reserve(from.size());
  for (const std::uintptr_t each : from) result.push_back(reinterpret_cast<Pointer>(each));
  return result;
}

autoarch::Request request_of(const std::vector<std::uintptr_t>& given, const std::vector<std::uintptr_t>& out,
                             std::int64_t remove, bool regrow, bool keep_nan, bool zero) {
  autoarch::Request request;
  request.given = pointers<autoarch::Bits>(given);
  request.out = pointers<autoarch::BitsOut>(out);
  request.remove = remove, request.regrow = regrow, request.keep_nan = keep_nan, request.zero = zero;
  return request;
}

// (key, kept_equal, numbers, nan_array)
py::tuple to_python(const autoarch::Threshold& found) {
  return py::make_tuple(found.key, found.kept_equal, found.numbers, found.nan_array);
}

using PyGroups = std::array<std::int64_t, 3>;
autoarch::Groups groups_of(const PyGroups& from) { return {from[0], from[1], from[2]}; }
autoarch::Matrices matrices_of(const PyGroups& from) { return {from[0], from[1], from[2]}; }

template <typename T>
T* at(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// The last argument of each function: threads on the CPU, device and stream on CUDA.
using Threads = int;
using Stream = std::pair<int, std::uintptr_t>;

int converted(Threads threads) { return threads; }
autoarch::cuda::Where converted(const Stream& stream) { return {stream.first, at<void>(stream.second)}; }

// Defines the functions that differ in the namespace and in that argument alone.
#define AUTOARCH_DEFINE(m, Last, ns)                                                                                 \
  m.def("apply_masks", [](const std::vector<PyArray>& arrays, const std::vector<std::uintptr_t>& masks, Dtype dtype, \
                          const Last& on) {                                                                          \
    const py::gil_scoped_release release;                                                                            \
    ns::apply_masks(arrays_of(arrays), pointers<autoarch::Bits>(masks), dtype, converted(on));                       \
  });                                                                                                                \
  m.def("nm_mask", [](const PyArray& array, const PyGroups& shape, int n, int mm, std::uintptr_t out, Dtype dtype,   \
                      const Last& on) {                                                                              \
    const py::gil_scoped_release release;                                                                            \
    ns::nm_mask(array_of(array), groups_of(shape), n, mm, at<std::uint64_t>(out), dtype, converted(on));             \
  });                                                                                                                \
  m.def("transposable_mask",                                                                                         \
        [](const PyArray& array, const PyGroups& shape, std::uintptr_t out, Dtype dtype, const Last& on) {           \
          const py::gil_scoped_release release;                                                                      \
          ns::transposable_mask(array_of(array), matrices_of(shape), at<std::uint64_t>(out), dtype, converted(on));  \
        });                                                                                                          \
  m.def("soft_threshold",                                                                                            \
        [](const std::vector<PyArray>& arrays, const std::vector<double>& amounts, Dtype dtype, const Last& on) {    \
          const py::gil_scoped_release release;                                                                      \
          ns::soft_threshold(arrays_of(arrays), amounts, dtype, converted(on));                                      \
        });                                                                                                          \
  m.def("group_norms",                                                                                               \
        [](const PyArray& array, const PyGroups& shape, int p, std::uintptr_t norms, Dtype dtype, const Last& on) {  \
          const py::gil_scoped_release release;                                                                      \
          ns::group_norms(array_of(array), groups_of(shape), p, at<double>(norms), dtype, converted(on));            \
        });                                                                                                          \
  m.def("group_soft_threshold", [](const PyArray& array, const PyGroups& shape, std::uintptr_t norms, double amount, \
                                   Dtype dtype, const Last& on) {                                                    \
    const py::gil_scoped_release release;                                                                            \
    ns::group_soft_threshold(array_of(array), groups_of(shape), at<double>(norms), amount, dtype, converted(on));    \
  })

void define_cpu(py::module_& m) {
  using autoarch::Dtype;
  AUTOARCH_DEFINE(m, Threads, autoarch);
  m.def("select", [](const std::vector<PyArray>& arrays, const std::vector<std::uintptr_t>& given,
                     const std::vector<std::uintptr_t>& out, std::int64_t remove, bool regrow, bool keep_nan, bool zero,
                     Dtype dtype, Threads on) {
    const autoarch::Threshold found = [&] {
      const py::gil_scoped_release release;
      return autoarch::select(arrays_of(arrays), request_of(given, out, remove, regrow, keep_nan, zero), dtype, on);
    }();
    return to_python(found);
  });
  m.def("count_nonzero", [](std::uintptr_t data, std::int64_t n, Dtype dtype) {
    const py::gil_scoped_release release;
    return autoarch::count_nonzero(at<void>(data), n, dtype);
  });
  m.def("count_bits", [](std::uintptr_t words, std::int64_t n) {
    const py::gil_scoped_release release;
    return autoarch::count_bits(at<std::uint64_t>(words), n);
  });
}

void define_cuda(py::module_& m) {
  using autoarch::Dtype;
  AUTOARCH_DEFINE(m, Stream, autoarch::cuda);
  m.def("select_scratch", [](const std::vector<PyArray>& arrays, Dtype dtype) {
    return autoarch::cuda::select_scratch(arrays_of(arrays), dtype);
  });
  m.def("select", [](const std::vector<PyArray>& arrays, const std::vector<std::uintptr_t>& given,
                     const std::vector<std::uintptr_t>& out, std::int64_t remove, bool regrow, bool keep_nan, bool zero,
                     Dtype dtype, std::uintptr_t scratch, std::int64_t scratch_bytes, const Stream& on) {
    const autoarch::Threshold found = [&] {
      const py::gil_scoped_release release;
      return autoarch::cuda::select(arrays_of(arrays), request_of(given, out, remove, regrow, keep_nan, zero), dtype,
                                    at<void>(scratch), scratch_bytes, converted(on));
    }();
    return to_python(found);
  });
  m.def("count_nonzero", [](std::uintptr_t data, std::int64_t n, Dtype dtype, std::uintptr_t count, const Stream& on) {
    const py::gil_scoped_release release;
    autoarch::cuda::count_nonzero(at<void>(data), n, dtype, at<std::uint64_t>(count), converted(on));
  });
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
  m.def("instruction_sets", &autoarch::instruction_sets,
        "Those of the kernels that the processor has, the best first.");
  m.def("instruction_set", &autoarch::instruction_set, "The one that runs; ValueError where another is asked for.");
  m.def("cuda_state", &cuda_state, "What the CUDA runtime says now. Initialises the driver, creates no context.");
  define_cpu(m);
  py::module_ on_cuda = m.def_submodule("cuda", "The same functions for memory of a CUDA device.");
  define_cuda(on_cuda);
}
