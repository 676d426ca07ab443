#include "models/weights/load.h"

#include "base/allocator.h"
#include "base/clock.h"
#include "base/deaf_thread.h"
#include "base/error.h"
#include "base/log.h"
#include "models/weights/dtypes.h"

#include <ATen/ATen.h>
#include <ATen/TensorIterator.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <tuple>
#include <vector>

namespace trestle::models::weights {
namespace {

/// What a thread takes at once: enough for the disk, little enough to share out evenly.
constexpr std::uint64_t kPieceBytes = 16 << 20;
/// Through the buffer at once. Copies of so few elements are made by the calling thread alone; of
/// more, torch would start its own threads in each of ours.
constexpr std::int64_t kCastElements = at::internal::GRAIN_SIZE;
constexpr std::int64_t kDeviceElements = 1 << 19;  // where each copy is a message
constexpr int kMostThreads = 8;

struct Piece {
  const formats::StoredTensor* stored;
  const at::Tensor* into;
  std::int64_t begin, elements;  ///< of the tensor
};

bool is_whole(const formats::StoredTensor& stored, const at::Tensor& into) {
  return !stored.strides.empty() || !into.is_contiguous();
}

/// In the order of the files, so that each is read from its begin to its end.
std::vector<Piece> pieces_of(const std::vector<Match::Pair>& pairs) {
  std::vector<Piece> pieces;
  for (const Match::Pair& pair : pairs) {
    const std::int64_t elements = pair.stored->elements();
    const auto width = formats::element_bytes(pair.stored->dtype);
    const auto most = is_whole(*pair.stored, pair.parameter)
                          ? elements
                          : static_cast<std::int64_t>(kPieceBytes / width);
    for (std::int64_t begin = 0; begin < elements; begin += most) {
      pieces.push_back({pair.stored, &pair.parameter, begin, std::min(most, elements - begin)});
    }
  }
  std::ranges::sort(pieces, {}, [](const Piece& piece) {
    return std::tuple(piece.stored->file, piece.stored->begin_bytes, piece.begin);
  });
  return pieces;
}

/// What the threads share.
class Filling {
 public:
  Filling(const Source& source, const std::vector<Piece>& pieces)
      : source_(source), pieces_(pieces) {}

  /// What each thread does until no piece is left.
  void work() {
    const at::NoGradGuard no_grad;
    std::vector<std::byte> buffer;
    for (std::size_t i = next_++; i < pieces_.size(); i = next_++) {
      try {
        fill(pieces_[i], buffer);
      } catch (...) {
        next_ = pieces_.size();
        const std::lock_guard lock(mutex_);
        if (!failure_) failure_ = std::current_exception();
      }
    }
  }

  void finish(LoadReport& report) const {
    if (failure_) std::rethrow_exception(failure_);
    report.bytes = bytes_;
    report.direct_bytes = direct_bytes_;
  }

 private:
  void fill(const Piece& piece, std::vector<std::byte>& buffer) {
    const at::Tensor& into = *piece.into;
    if (is_whole(*piece.stored, into)) return fill_whole(piece);
    const bool is_direct =
        into.is_cpu() && into.scalar_type() == scalar_type_of(piece.stored->dtype);
    if (is_direct) return fill_direct(piece);
    const at::Tensor flat = into.view(-1);
    const std::int64_t most = into.is_cpu() ? kCastElements : kDeviceElements;
    const std::int64_t end = piece.begin + piece.elements;
    for (std::int64_t begin = piece.begin; begin < end; begin += most) {
      cast(piece, flat, begin, std::min(most, end - begin), buffer);
    }
  }

  void fill_direct(const Piece& piece) {
    const auto width = formats::element_bytes(piece.stored->dtype);
    const std::uint64_t offset = static_cast<std::uint64_t>(piece.begin) * width;
    const std::uint64_t bytes = static_cast<std::uint64_t>(piece.elements) * width;
    auto* memory = static_cast<std::byte*>(piece.into->mutable_data_ptr());
    const std::span<std::byte> place(memory + offset, bytes);
    populate(place);  // memory never written to costs more than the reading
    source_.read(*piece.stored, offset, place);
    bytes_ += bytes;
    direct_bytes_ += bytes;
  }

  void cast(const Piece& piece, const at::Tensor& flat, std::int64_t begin, std::int64_t elements,
            std::vector<std::byte>& buffer) {
    const auto width = formats::element_bytes(piece.stored->dtype);
    buffer.resize(static_cast<std::size_t>(elements) * width);
    source_.read(*piece.stored, static_cast<std::uint64_t>(begin) * width, buffer);
    const at::Tensor read = at::from_blob(
        buffer.data(), {elements}, at::TensorOptions().dtype(scalar_type_of(piece.stored->dtype)));
    flat.narrow(0, begin, elements).copy_(read);
    bytes_ += buffer.size();
  }

  void fill_whole(const Piece& piece) {
    const std::lock_guard lock(whole_);  // one at a time is in memory twice
    piece.into->copy_(read_tensor(source_, *piece.stored));
    bytes_ += piece.stored->span_bytes;
  }

  const Source& source_;
  const std::vector<Piece>& pieces_;
  std::atomic<std::size_t> next_ = 0;
  std::atomic<std::uint64_t> bytes_ = 0, direct_bytes_ = 0;
  std::mutex mutex_, whole_;
  std::exception_ptr failure_;
};

/// This thread and as many more as there are pieces for, if the system gives them.
int work_together(Filling& filling, std::size_t pieces, int wanted) {
  const auto cores = static_cast<int>(std::thread::hardware_concurrency());
  if (wanted <= 0) wanted = std::clamp(cores, 1, kMostThreads);
  std::vector<std::thread> others;
  while (static_cast<int>(others.size()) + 1 < wanted && others.size() + 1 < pieces) {
    try {
      others.push_back(deaf_thread([&] { filling.work(); }));
    } catch (const std::system_error&) {
      break;
    }
  }
  filling.work();
  for (std::thread& other : others) other.join();
  return static_cast<int>(others.size()) + 1;
}

void warn_of_float16(const Source& source, const std::vector<Match::Pair>& pairs) {
  const auto narrow = [](const Match::Pair& pair) {
    return pair.stored->dtype == formats::ElementType::float16 &&
           pair.parameter.scalar_type() != at::kHalf;
  };
  const auto count = std::ranges::count_if(pairs, narrow);
  if (count == 0) return;
  const auto first = std::ranges::find_if(pairs, narrow);
  log_common_warning(
      fmt::format("{}: {} of {} tensors are float16, and the model computes in {} (what is beyond "
                  "65504 or below 6e-8 was lost when they were written). Prefer the file in "
                  "bfloat16 or float32 where there is one.",
                  source.path().string(), count, pairs.size(),
                  formats::element_name(*element_type_of(first->parameter.scalar_type()))));
}

}  // namespace

std::string LoadReport::text() const {
  const double gigabytes = 1e-9 * double(bytes);
  std::string result =
      fmt::format("{} tensors, {:.3g} GB in {:.3g} s ({:.3g} GB/s, {} threads)", tensors, gigabytes,
                  seconds, seconds > 0 ? gigabytes / seconds : 0, threads);
  if (left_out > 0) result += fmt::format("; {} of the file are not for this model", left_out);
  return result;
}

LoadReport load_parameters(const Source& source, std::span<const nn::NamedParameter> parameters,
                           const LoadOptions& options) {
  const auto begin = std::chrono::steady_clock::now();
  const Match matched = match(source, parameters, options.rename);
  for (const Match::Pair& pair : matched.pairs) {
    TRESTLE_ASSERT(!pair.parameter.is_meta() && element_type_of(pair.parameter.scalar_type()),
                   "parameter for {} has no memory, or a dtype that no file has",
                   pair.stored->name);
  }
  warn_of_float16(source, matched.pairs);
  const std::vector<Piece> pieces = pieces_of(matched.pairs);
  Filling filling(source, pieces);
  LoadReport report{.tensors = matched.pairs.size(), .left_out = matched.left_out};
  report.threads = work_together(filling, pieces.size(), options.threads);
  filling.finish(report);
  report.seconds = seconds_since(begin);
  return report;
}

LoadReport load_parameters(const std::filesystem::path& path, const nn::Parameters& parameters,
                           const LoadOptions& options) {
  return load_parameters(Source::open(path), parameters.all(), options);
}

}  // namespace trestle::models::weights
