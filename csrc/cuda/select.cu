// Launcher of select.cuh: what is launched in which order, and what the host concludes. Waits for the device once, and
// once more where the bracket missed.
#include "../dispatch.h"
#include "../numeric.h"
#include "../prune.h"
#include "launch.h"
#include "select.cuh"
#include "work_list.h"

namespace autoarch {
namespace cuda {
namespace {

constexpr std::int64_t rounded_up(std::int64_t bytes) { return (bytes + 255) / 256 * 256; }

// Scratch memory: the state, a histogram, and one buffer that holds first the sample, then the collected keys, then the
// number of equals of each chunk.
struct Scratch {
  std::int64_t histogram = rounded_up(sizeof(SelectState));
  std::int64_t buffer = histogram + rounded_up(sizeof(Histogram));
  std::int64_t bytes;

  Scratch(const Arrays& arrays, std::int64_t size) {
    const std::int64_t weights = elements_of(arrays) * size;
    const std::int64_t most =
        std::max(weights / tuning::scratch_share, std::int64_t{tuning::scratch_bytes}) / 256 * 256;
    const std::int64_t counts = chunks_of(arrays) * static_cast<std::int64_t>(sizeof(std::uint32_t));
    bytes = buffer + rounded_up(std::max(counts, std::min(weights, most - buffer - 256)));
  }
};

template <typename Bits>
class Selector {
 public:
  Selector(const Arrays& arrays, const Request& request, Bits infinity, std::uint8_t* scratch, const Stream& stream)
      : arrays_(arrays),
        request_(request),
        infinity_(infinity),
        stream_(stream),
        batches_(batches_of<Masks>(arrays, [&](std::size_t i) { return masks(request, i); })) {
    const Scratch plan(arrays, sizeof(Bits));
    state_ = reinterpret_cast<SelectState*>(scratch);
    histogram_ = reinterpret_cast<Histogram*>(scratch + plan.histogram);
    buffer_ = reinterpret_cast<Bits*>(scratch + plan.buffer);
    capacity_ = static_cast<Count>(plan.bytes - plan.buffer) / sizeof(Bits);
  }

  Threshold run() {
    begin();
    if (request_.remove > 0 && elements_of(arrays_) > tuning::collect_all) bracket_from_sample();
    count_and_collect();
    const SelectState state = stream_.fetch(state_);
    const auto remove = static_cast<Count>(request_.remove);
    if (remove > state.candidates)
      throw std::invalid_argument("Expected `remove` in [0, " + std::to_string(state.candidates) + "], got " +
                                  std::to_string(request_.remove) + ".");
    Threshold result;
    if (state.nan != 0 && !request_.keep_nan) {
      result.nan_array = array_of_chunk(arrays_, state.nan_chunk);
      return result;
    }
    result.numbers = static_cast<std::int64_t>(state.candidates - state.nan);
    if (request_.remove > result.numbers) return result;
    if (remove > 0) conclude(state, &result);
    if (!request_.out.empty()) write(result);
    return result;
  }

 private:
  static Masks masks(const Request& request, std::size_t i) {
    Masks masks = {};
    if (!request.given.empty()) masks.given = reinterpret_cast<const std::uint32_t*>(request.given[i]);
    if (!request.out.empty()) masks.out = reinterpret_cast<std::uint32_t*>(request.out[i]);
    return masks;
  }

  void begin() {
    stream_.clear(histogram_, sizeof *histogram_);
    const bool masked = !request_.given.empty();
    const Count n = masked ? 0 : static_cast<Count>(elements_of(arrays_));
    const Count highest = static_cast<Bits>(static_cast<Bits>(~Bits{0}) >> 1);
    stream_.launch(1, begin_selection, n, static_cast<Count>(request_.remove), highest, state_);
    if (!masked) return;
    for (const auto& batch : batches_)
      stream_.launch(blocks_for(batch), count_candidates, batch.list, request_.regrow, state_);
  }

  void bracket_from_sample() {
    const std::int64_t keys = std::min({std::int64_t{tuning::sample_keys_max}, static_cast<std::int64_t>(capacity_),
                                        elements_of(arrays_) / tuning::sample_share});
    const std::int64_t runs = chunks_of(arrays_) * (tuning::chunk / tuning::sample_run);
    const std::int64_t windows = std::max<std::int64_t>(1, keys / tuning::sample_run);
    const std::int64_t stride = (runs + windows - 1) / windows;
    const unsigned blocks = stream_.blocks_for(windows / tuning::threads + 1);
    for (const auto& batch : batches_)
      stream_.launch(blocks, sample<Bits>, batch.list, batch.layout, request_.regrow, static_cast<Count>(windows),
                     static_cast<Count>(stride), buffer_, capacity_, state_);
    stream_.launch(1, aim_sample<Bits>, capacity_, double{tuning::bracket_deviations}, state_);
    select_in_buffer(&state_->sampled);
    stream_.launch(1, set_bracket, state_);
  }

  void count_and_collect() {
    const Count capacity = request_.remove > 0 ? capacity_ : 0;
    for (const auto& batch : batches_)
      stream_.launch(blocks_for(batch), count_around<Bits>, batch.list, batch.layout, request_.regrow, infinity_,
                     buffer_, capacity, state_);
    if (request_.remove == 0) return;
    stream_.launch(1, aim_inside, capacity_, state_);
    select_in_buffer(&state_->around.inside);
  }

  static constexpr int passes = (8 * static_cast<int>(sizeof(Bits)) - 2) / tuning::digit_bits + 1;

  void select_in_buffer(const Count* keys) {
    const unsigned blocks = stream_.blocks_for(static_cast<std::int64_t>(capacity_) / tuning::chunk + 1);
    for (int pass = 0; pass < passes; ++pass) {
      stream_.launch(blocks, histogram_of_buffer<Bits>, buffer_, keys, capacity_, state_->selection, histogram_);
      stream_.launch(1, settle_digit, state_->selection, histogram_);
    }
  }

  Selection select_in_arrays() {
    stream_.launch(1, aim_at_all<Bits>, state_);
    for (int pass = 0; pass < passes; ++pass) {
      for (const auto& batch : batches_)
        stream_.launch(blocks_for(batch), histogram_of_arrays<Bits>, batch.list, batch.layout, request_.regrow, state_,
                       histogram_);
      stream_.launch(1, settle_digit, state_->selection, histogram_);
    }
    return stream_.fetch(state_).selection[0];
  }

  // The key, and how many of its equals are kept: all but the last `rank` of them.
  void conclude(const SelectState& state, Threshold* result) {
    const auto is = [&](Count key, Count equals, Count rank) {
      result->key = key;
      result->kept_equal = static_cast<std::int64_t>(equals - rank);
    };
    const Placed placed = place_of(state.around, static_cast<Count>(request_.remove));
    if (placed.place == Place::at_low) return is(state.low, state.around.at_low, placed.rank);
    if (placed.place == Place::at_high) return is(state.high, state.around.at_high, placed.rank);
    const bool inside = placed.place == Place::inside && state.around.inside <= capacity_;
    const Selection found = inside ? state.selection[0] : select_in_arrays();
    is(found.low, found.equals, found.rank);
  }

  void write(const Threshold& result) {
    const auto key = static_cast<Bits>(result.key);
    if (result.kept_equal > 0) find_cut_of(key, static_cast<Count>(result.kept_equal));
    for (const auto& batch : batches_)
      stream_.launch(blocks_for(batch), mark<Bits>, batch.list, batch.layout, request_.regrow, request_.zero,
                     request_.remove == 0, key, state_);
  }

  void find_cut_of(Bits key, Count kept) {
    const auto equals = reinterpret_cast<std::uint32_t*>(buffer_);
    for (const auto& batch : batches_)
      stream_.launch(blocks_for(batch), count_equal<Bits>, batch.list, batch.layout, request_.regrow, key, equals);
    stream_.launch(1, find_cut_chunk, equals, chunks_of(arrays_), kept, state_);
    for (const auto& batch : batches_)
      stream_.launch(1, find_cut<Bits>, batch.list, batch.layout, request_.regrow, key, state_);
  }

  unsigned blocks_for(const Batch<Masks>& batch) const { return stream_.blocks_for(batch.list.chunks); }

  const Arrays& arrays_;
  const Request& request_;
  Bits infinity_;
  const Stream& stream_;
  std::vector<Batch<Masks>> batches_;
  SelectState* state_;
  Histogram* histogram_;
  Bits* buffer_;
  Count capacity_;
};

void check_request(const Arrays& arrays, const Request& request) {
  for (const Array& array : arrays) check_array(array.data, array.n);
  const auto fits = [&](std::size_t masks) { return masks == 0 || masks == arrays.size(); };
  if (!fits(request.given.size()) || !fits(request.out.size()))
    throw std::invalid_argument("Expected one mask for each array.");
  if (request.zero && request.out.empty()) throw std::invalid_argument("Expected `out` where `zero` is asked for.");
  if (request.remove < 0 || request.remove > elements_of(arrays))
    throw std::invalid_argument("Expected `remove` in [0, " + std::to_string(elements_of(arrays)) + "], got " +
                                std::to_string(request.remove) + ".");
}

}  // namespace

std::int64_t select_scratch(const Arrays& arrays, Dtype dtype) {
  return with_bits(dtype, [&](auto bits) { return Scratch(arrays, sizeof bits).bytes; });
}

Threshold select(const Arrays& arrays, const Request& request, Dtype dtype, void* scratch, std::int64_t scratch_bytes,
                 Where where) {
  check_request(arrays, request);
  if (elements_of(arrays) == 0) return {};
  const std::int64_t needed = select_scratch(arrays, dtype);
  if (scratch == nullptr || scratch_bytes < needed)
    throw std::invalid_argument("Expected `scratch` of " + std::to_string(needed) + " bytes, got " +
                                std::to_string(scratch == nullptr ? 0 : scratch_bytes) + ".");
  const Stream stream(where, "select");
  const bool half = dtype == Dtype::float16;
  return with_bits(dtype, [&](auto bits) {
    using Bits = decltype(bits);
    Bits infinity = static_cast<Bits>(Number<Dtype::bfloat16>::infinity);
    if constexpr (sizeof(Bits) == 4) infinity = Number<Dtype::float32>::infinity;
    if constexpr (sizeof(Bits) == 8) infinity = Number<Dtype::float64>::infinity;
    if constexpr (sizeof(Bits) == 2)
      if (half) infinity = Number<Dtype::float16>::infinity;
    return Selector<Bits>(arrays, request, infinity, static_cast<std::uint8_t*>(scratch), stream).run();
  });
}

}  // namespace cuda
}  // namespace autoarch
